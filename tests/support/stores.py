"""Small stores with smooth fields."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ionstore.build.store_writer import StoredField, create_store
from ionstore.cube.mesh import Array, Mesh
from ionstore.cube.statistics import FieldStatistics
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Layout


def cubes_at(mesh: int, redshifts: Sequence[float], seed: int = 0) -> dict[str, Array]:
    """Fields of shape (redshift, mesh, mesh, mesh) in which xHII follows the inputs smoothly."""
    rng = np.random.default_rng(seed)
    shape = (len(redshifts), mesh, mesh, mesh)
    n_igm = rng.lognormal(sigma=0.3, size=shape) * 1e-28
    n_src = rng.poisson(2.0 * n_igm / n_igm.mean()).astype(np.uint8)
    around = sum(np.roll(n_src, shift, axis) for axis in (1, 2, 3) for shift in (-1, 0, 1)) / 9
    xhii = 1 / (1 + np.exp(-2.0 * (around - 2.0)))
    return {"n_igm": n_igm.astype("f4"), "n_src": n_src, "xhii": xhii.astype("f4")}


def write_store(
    path: Path,
    cubes: Mapping[str, Array],
    redshifts: Sequence[float],
    *,
    box_length_cmpc: float | None = 20.0,
    layout: Layout | None = None,
) -> CubeStore:
    """Write fields of shape (redshift, mesh, mesh, mesh) as a complete store."""
    units = {"n_igm": "g cm-3"}
    fields = [
        StoredField(name, str(cube.dtype), units.get(name, "1")) for name, cube in cubes.items()
    ]
    mesh = Mesh(next(iter(cubes.values())).shape[1], box_length_cmpc)
    writer = create_store(path, mesh, redshifts, fields, layout=layout)
    shard = writer.shards.layout.shard_cells
    starts = range(0, mesh.cells_per_side, shard)
    for name, cube in cubes.items():
        for index in range(len(redshifts)):
            for start in ((i, j, k) for i in starts for j in starts for k in starts):
                block = tuple(slice(first, first + shard) for first in start)
                writer.shards.write_block(name, index, start, cube[index][block])
    writer.finalize(
        {name: [FieldStatistics.of(values) for values in cube] for name, cube in cubes.items()}
    )
    return CubeStore.open(path)
