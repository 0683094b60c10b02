"""A small file of every format and layout, for the tests that all readers pass."""

import gzip
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import h5py
import numpy as np

from ionstore.cube.mesh import Array
from tests.support.mesh_files import SAMPLE_CELLS, plain_mesh, record_mesh
from tests.support.places import DATA

MESH = 6
CUBE = np.random.default_rng(1).random((MESH, MESH, MESH))
OVERDENSITY = (CUBE - CUBE.mean()).astype("f4")
_MAGIC_BYTES = 8  # of HDF5


@dataclass(frozen=True)
class Sample:
    """A file, and the format that it is of."""

    format_name: str
    file_name: str
    content: bytes
    # Bytes from which on a truncated file is known to be of this format; None if it never is.
    told_from: int | None = 0
    mesh_cells: int = MESH


def _npy(values: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def _npz(save: Callable[..., None]) -> bytes:
    file = io.BytesIO()
    save(file, rho=OVERDENSITY)
    return file.getvalue()


def _hdf5_list() -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as lists:
        lists["sources_positions"] = np.random.default_rng(2).integers(0, MESH, (9, 3)).astype("f8")
        lists["sources_mass"] = np.ones(9)
        lists["sources_mass"].attrs["unit"] = "Solar Mass"
        lists.attrs["z"] = 8.397
    return file.getvalue()


def _imitated() -> bytes:
    sizes = np.array([0, MESH, MESH, MESH, 0, 0], "<i4")
    return sizes.tobytes() + CUBE.tobytes(order="F")


def _copied(format_name: str, pattern: str, name: str = "copied.h5") -> Sample:
    """Return a file of a code under a name that tells nothing."""
    (path,) = DATA.glob(pattern)
    return Sample(format_name, name, path.read_bytes(), _MAGIC_BYTES)


def _written_by_codes() -> dict[str, Sample]:
    """Return the files of the codes themselves, as they name them."""
    endings = {
        "21cmfast_v3": {".h5": "21cmfast-v3"},
        "21cmfast_v4": {".h5": "21cmfast-v4"},
        "c2ray": {".bin": "c2ray", "n_all.dat": "cubep3m", "sources.dat": "c2ray-sources"},
        "pyc2ray": {".dat": "pyc2ray", ".hdf5": "pyc2ray-sources"},
    }
    return {
        f"{folder}/{path.name[:30]}": Sample(
            format_name, path.name, path.read_bytes(), _MAGIC_BYTES, SAMPLE_CELLS
        )
        for folder, formats in endings.items()
        for path in sorted((DATA / folder).rglob("*"))
        for ending, format_name in formats.items()
        if path.name.endswith(ending)
    }


TEXT = b"3\n" + b"".join(b"%d 2 3 1.5E+9 0.0\n" % index for index in (1, 2, 6))
MADE = {
    "set": Sample("three-file-set", "rho_z8.397.npy", _npy(CUBE)),
    "archive": Sample("three-file-set", "rho_z8.397.npz", _npz(np.savez)),
    "compressed archive": Sample("three-file-set", "rho_z8.397.npz", _npz(np.savez_compressed)),
    "array of any name": Sample("three-file-set", "cube_8.397.npy", _npy(CUBE), told_from=None),
    "pinion": Sample("pinion", "rho_z8.397.npz", _npy(OVERDENSITY)),
    "c2ray": Sample("c2ray", "xfrac3d_8.397.bin", record_mesh(CUBE)),
    "c2ray, split": Sample("c2ray", "xfrac3d_8.397.bin", record_mesh(CUBE, ">", 1000)),
    "tools21cm": Sample("c2ray", "xfrac3d_8.397.bin", _imitated(), told_from=24),
    "cubep3m": Sample("cubep3m", "8.397n_all.dat", plain_mesh(OVERDENSITY)),
    "pyc2ray": Sample("pyc2ray", "xfrac_z8.397.dat", plain_mesh(CUBE)),
    "pyc2ray, other end": Sample("pyc2ray", "xfrac_z8.397.dat", plain_mesh(CUBE, ">")),
    "pyc2ray, npy": Sample("pyc2ray", "xfrac_z8.397.npy", _npy(np.asfortranarray(CUBE))),
    "cbin": Sample("cbin", "mesh_8.397.raw", plain_mesh(CUBE, ">"), told_from=None),
    "list": Sample("c2ray-sources", "8.397-coarsest_sources.dat", TEXT),
    "zipped list": Sample(
        "c2ray-sources", "8.397-coarsest_sources.dat.gz", gzip.compress(TEXT, mtime=0)
    ),
    "hdf5 list": Sample(
        "pyc2ray-sources", "8.397-coarsest_sources.hdf5", _hdf5_list(), _MAGIC_BYTES
    ),
    "21cmfast 3": _copied("21cmfast-v3", "21cmfast_v3/IonizedBox*"),
    "21cmfast 3, halos": _copied("21cmfast-v3", "21cmfast_v3/PerturbHaloField*"),
    "21cmfast 4": _copied("21cmfast-v4", "21cmfast_v4/**/IonizedBox.h5"),
    "21cmfast 4, halos": _copied("21cmfast-v4", "21cmfast_v4/**/PerturbedHaloCatalog.h5"),
    "pickle": Sample("pickle", "xHII_64_model_z07.72", pickle.dumps(CUBE), told_from=None),
}
WRITTEN_BY_CODES = _written_by_codes()
SAMPLES = MADE | WRITTEN_BY_CODES
