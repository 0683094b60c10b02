"""Damaged files end in a sentence at worst, whichever reader looks at them."""

import gzip
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ionstore.cube.mesh import Array
from ionstore.errors import SourceDataError
from ionstore.readers import READERS
from ionstore.readers.base import FieldSource, PointList
from ionstore.readers.points.gridded import GriddedPoints
from tests.support.mesh_files import plain_mesh, record_mesh
from tests.support.places import DATA

h5py = pytest.importorskip("h5py")

MESH = 6
CUBE = np.random.default_rng(1).random((MESH, MESH, MESH))
OVERDENSITY = (CUBE - CUBE.mean()).astype("f4")
HEADER_BYTES = 200
MANY_CELLS = 40**3


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
        lists.attrs["z"] = 8.7
    return file.getvalue()


def _imitated() -> bytes:
    sizes = np.array([0, MESH, MESH, MESH, 0, 0], "<i4")
    return sizes.tobytes() + CUBE.tobytes(order="F")


TEXT = b"3\n" + b"".join(b"%d 2 3 1.5E+9 0.0\n" % index for index in (1, 2, 6))
V3, V4 = DATA / "21cmfast_v3", DATA / "21cmfast_v4"
FILES: dict[str, tuple[str, bytes]] = {
    "set": ("rho_z8.397.npy", _npy(CUBE)),
    "pinion": ("rho_z8.397.npz", _npy(OVERDENSITY)),
    "archive": ("rho_z8.397.npz", _npz(np.savez)),
    "compressed archive": ("rho_z8.397.npz", _npz(np.savez_compressed)),
    "array of any name": ("cube_8.397.npy", _npy(CUBE)),
    "c2ray": ("xfrac3d_8.397.bin", record_mesh(CUBE)),
    "c2ray, split": ("xfrac3d_8.397.bin", record_mesh(CUBE, ">", 1000)),
    "tools21cm": ("xfrac3d_8.397.bin", _imitated()),
    "cubep3m": ("8.397n_all.dat", plain_mesh(OVERDENSITY)),
    "pyc2ray": ("xfrac_z8.397.dat", plain_mesh(CUBE)),
    "pyc2ray, npy": ("xfrac_z8.397.npy", _npy(CUBE)),
    "cbin": ("mesh_8.397.raw", plain_mesh(CUBE, ">")),
    "list": ("8.397-coarsest_sources.dat", TEXT),
    "zipped list": ("8.397-coarsest_sources.dat.gz", gzip.compress(TEXT, mtime=0)),
    "hdf5 list": ("8.397-coarsest_sources.hdf5", _hdf5_list()),
    "21cmfast 3": ("IonizedBox.h5", next(V3.glob("IonizedBox*")).read_bytes()),
    "21cmfast 3, halos": ("Halos.h5", next(V3.glob("PerturbHaloField*")).read_bytes()),
    "21cmfast 4": ("IonizedBox.h5", next(V4.rglob("IonizedBox.h5")).read_bytes()),
    "21cmfast 4, halos": ("Halos.h5", next(V4.rglob("PerturbedHaloCatalog.h5")).read_bytes()),
    "pickle": ("xHII_64_model_z07.72", pickle.dumps(CUBE)),
}


def _read_all(path: Path) -> tuple[int, int]:
    """Look at a file with every reader, and read what each finds; count findings and refusals."""
    with path.open("rb") as file:
        head = file.read(64)
    found, said = 0, []
    for reader in READERS:
        try:
            contents = reader.inspect(path, head)
            for one in contents.fields if contents else ():
                found += 1
                source = one.source
                if isinstance(source, PointList):
                    source = GriddedPoints(source, min(getattr(source, "mesh_cells", MESH), 40))
                assert isinstance(source, FieldSource)
                if np.prod(source.shape) <= MANY_CELLS:
                    list(source.stream(lambda piece: None))
                    if not source.spool_bytes and len(source.shape) == 3:
                        source.read_block((0, 0, 0), source.shape)  # type: ignore[arg-type]
        except SourceDataError as error:
            said.append(str(error))
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in said)
    return found, len(said)


@pytest.mark.parametrize("kind", FILES)
def test_flipped_bytes_end_in_a_sentence_at_worst(tmp_path: Path, kind: str) -> None:
    name, content = FILES[kind]
    path = tmp_path / name
    path.write_bytes(content)
    whole, refused = _read_all(path)
    assert (whole > 0) == (kind != "pickle")
    assert not refused
    rng = np.random.default_rng(3)
    places = [
        *range(min(len(content), HEADER_BYTES)),
        *rng.integers(0, min(len(content), 6000), 100),
    ]
    n_refused = 0
    for place in places:
        for flip in (255, 1 << int(rng.integers(8))):
            damaged = bytearray(content)
            damaged[place] ^= flip
            path.write_bytes(damaged)
            n_refused += _read_all(path)[1] > 0
    assert (n_refused > 0) == (kind not in ("pickle", "array of any name", "cbin"))


@pytest.mark.parametrize("kind", FILES)
def test_truncated_files_end_in_a_sentence_at_worst(tmp_path: Path, kind: str) -> None:
    name, content = FILES[kind]
    for kept in {0, 1, 5, 11, 13, 60, 100, len(content) // 2, len(content) - 1}:
        (tmp_path / name).write_bytes(content[: max(kept, 0)])
        _read_all(tmp_path / name)
