"""The box that contestants cut from: made up, or one cube of a real store."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ionstore.build.store_writer import StoredField, create_store
from ionstore.cube.mesh import Fields, Mesh
from ionstore.cube.statistics import FieldStatistics
from ionstore.store.cube_store import CubeStore

NAMES = ("n_igm", "n_src")


@dataclass(frozen=True, slots=True)
class Box:
    """Two fields of one coeval cube, decoded, and the store that holds them.

    Parameters
    ----------
    fields : ndarray of float32, shape (2, mesh, mesh, mesh)
        Decoded fields, in the order of `NAMES`; ordinary memory, so that they get huge pages
        where the system has them.
    store : CubeStore
        Store that holds the same values.
    redshift : float
        Redshift of the cube in the store.
    """

    fields: Fields
    store: CubeStore
    redshift: float

    @property
    def mesh(self) -> int:
        """Cells per side."""
        return self.fields.shape[1]

    @property
    def redshift_index(self) -> int:
        """Place of the cube in the arrays of the store."""
        return self.store.redshift_index(self.redshift)


def stored_box(path: Path) -> Box:
    """Decode the first redshift of a store."""
    store = CubeStore.open(path)
    redshift = store.redshifts[0]
    fields = np.empty((len(NAMES), *store.mesh.shape), np.float32)
    for values, name in zip(fields, NAMES, strict=True):
        values[...] = store.read_field(name, redshift)
    return Box(fields, store, redshift)


def synthetic_box(folder: Path, mesh: int) -> Box:
    """Write a store of random cells: a lognormal density and Poisson counts of sources."""
    rng = np.random.default_rng(2021)
    cubes = {
        "n_igm": rng.lognormal(sigma=0.3, size=(mesh,) * 3).astype(np.float32),
        "n_src": rng.poisson(0.4, size=(mesh,) * 3).astype(np.uint8),
    }
    cubes["xhii"] = cubes["n_igm"]  # a target that nobody looks at
    stored = [StoredField(name, str(cube.dtype), "1") for name, cube in cubes.items()]
    path = folder / "cubes.zarr"
    writer = create_store(path, Mesh(mesh), [8.0], stored)
    for name, cube in cubes.items():
        for shard in writer.shards.layout.shard_indices():
            start, shape = writer.shards.layout.shard_region(shard)
            block = tuple(slice(a, a + cells) for a, cells in zip(start, shape, strict=True))
            writer.shards.write_block(name, 0, start, cube[block])
    writer.finalize({name: [FieldStatistics.of(cube)] for name, cube in cubes.items()})
    return stored_box(path)
