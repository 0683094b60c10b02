"""Three-file sets of random numbers, to be ingested or to be broken first."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ionstore.cube.mesh import Array

PREFIXES = {"n_igm": "rho", "n_src": "nsrc", "xhii": "xHII"}
COMOVING_MEAN = 4.2e-31


def random_cubes(mesh: int, redshift: float, seed: int = 0) -> dict[str, Array]:
    """Proper densities, counts and ionized fractions, float32, shape (mesh, mesh, mesh)."""
    rng = np.random.default_rng(seed)
    shape = (mesh, mesh, mesh)
    n_igm = rng.lognormal(sigma=0.3, size=shape) * COMOVING_MEAN * (1 + redshift) ** 3
    n_src = rng.poisson(0.7, shape)
    xhii = rng.random(shape) ** 2
    return {"n_igm": n_igm.astype("f4"), "n_src": n_src.astype("f4"), "xhii": xhii.astype("f4")}


def write_set(
    folder: Path, mesh: int = 8, redshifts: Sequence[str] = ("9.000", "7.500")
) -> dict[str, dict[str, Array]]:
    """Write a set as ``.npy`` files; returns the cubes by redshift and field."""
    folder.mkdir(parents=True, exist_ok=True)
    cubes = {}
    for seed, redshift in enumerate(redshifts):
        cubes[redshift] = random_cubes(mesh, float(redshift), seed)
        for name, values in cubes[redshift].items():
            np.save(folder / f"{PREFIXES[name]}_z{redshift}.npy", values)
    return cubes


def files_of(folder: Path) -> Mapping[str, bytes]:
    """Return the bytes of all files under a folder by their relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def contents_of(store: Path) -> dict[str, object]:
    """Return all that a store holds, but for its name for good and where and how it was made."""
    files: dict[str, object] = dict(files_of(store))
    root = json.loads((store / "zarr.json").read_text())
    for key in ("uuid", "command_line"):
        del root["attributes"]["ionstore"][key]
    for source in root["attributes"]["ionstore"]["sources"]:
        del source["folder"]
    return {**files, "zarr.json": root}
