"""Whole cubes in memory: every value where a cut looks for it."""

from pathlib import Path

import numpy as np
import pytest

from ionstore.errors import StoreDamageError
from ionstore.loading.cubes import CubeToDecode, FieldToDecode
from ionstore.loading.resident import ResidentFields, resident_bytes
from ionstore.sampling.batches import Picked
from ionstore.sampling.order import Places
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Layout
from tests.support.stores import cubes_at, write_store


def picked_from(cubes: list[int]) -> Picked:
    n = len(cubes)
    none = np.zeros(n, np.int64)
    return Picked(
        np.arange(n), Places(*[none] * 5), np.array(cubes), np.zeros((n, 3), np.int64), none
    )


@pytest.mark.parametrize("shared", [False, True])
def test_blocks_hold_every_cube_from_cell_0(
    small_store: CubeStore, tmp_path: Path, shared: bool
) -> None:
    # 35 planes: more than are decoded at a time.
    other = write_store(tmp_path / "o.zarr", cubes_at(35, (8.0,)), (8.0,), layout=Layout(35, 8, 16))
    places = [(small_store, 9.0), (small_store, 7.5), (other, 8.0)]
    cubes = [
        CubeToDecode(
            (FieldToDecode(store, "n_src", z), FieldToDecode(store, "n_igm", z)),
            FieldToDecode(store, "xhii", z),
        )
        for store, z in places
    ]
    fields = ResidentFields(cubes, shared=shared)
    (run,) = fields.runs(0, picked_from([2, 0, 1]))
    assert run.block.tolist() == [2, 0, 1]
    for block, (store, z) in enumerate(places):
        n = store.mesh.cells_per_side
        for blocks, names in ((run.inputs, ("n_src", "n_igm")), (run.targets, ("xhii",))):
            assert blocks.start[block].tolist() == [0, 0, 0]
            assert blocks.shapes[block].tolist() == [n, n, n]
            for channel, name in enumerate(names):
                first = blocks.offsets[block] + channel * n**3
                values = blocks.memory[first : first + n**3].reshape(n, n, n)
                np.testing.assert_array_equal(values, store.read_field(name, z))
    assert resident_bytes(cubes) == 4 * 3 * (2 * 12**3 + 35**3)


def test_damage_is_an_error(tmp_path: Path) -> None:
    store = write_store(tmp_path / "c.zarr", cubes_at(6, (8.0,)), (8.0,))
    (tmp_path / "c.zarr" / "xhii" / "c" / "0" / "0" / "0" / "0").write_bytes(b"nothing")
    cube = CubeToDecode((FieldToDecode(store, "n_igm", 8.0),), FieldToDecode(store, "xhii", 8.0))
    with pytest.raises(StoreDamageError, match="xhii"):
        ResidentFields([cube], shared=False)
