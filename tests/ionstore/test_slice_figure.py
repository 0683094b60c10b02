from pathlib import Path

import numpy as np
import pytest

from ionstore.errors import NotInStoreError
from ionstore.layout import Layout
from ionstore.slice_figure import Axis, draw_slice, read_slice
from ionstore.store import CubeStore
from tests.conftest import write_store


@pytest.mark.parametrize(("axis", "number"), [("x", 0), ("y", 1), ("z", 2)])
def test_a_slice_is_a_plane_of_the_field(small_store: CubeStore, axis: Axis, number: int) -> None:
    cube = small_store.read_field("xhii", 9.0)
    plane = read_slice(small_store, "xhii", 9.0, axis=axis, index=11)
    np.testing.assert_array_equal(plane.values, np.take(cube, 11, number))
    assert read_slice(small_store, "xhii", 9.0, axis=axis).index == 6
    with pytest.raises(NotInStoreError, match="between 0 and 11"):
        read_slice(small_store, "xhii", 9.0, index=-1)


def test_only_the_shards_cut_are_read(tmp_path: Path) -> None:
    values = {"xhii": np.random.default_rng(1).random((1, 8, 8, 8)).astype("f4")}
    store = write_store(tmp_path / "cubes.zarr", values, [9.0], layout=Layout(8, 4, 4))
    for path in store.path.glob("xhii/c/0/1/*/*"):
        path.unlink()
    assert read_slice(store, "xhii", 9.0, axis="x", index=3).values.shape == (8, 8)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("name", ["n_igm", "n_src", "xhii", "temperature"])
def test_constant_fields_are_drawn(tmp_path: Path, name: str, value: float) -> None:
    fields = {"xhii": np.full((1, 4, 4, 4), value, "f4")}
    store = write_store(tmp_path / "cubes.zarr", fields, [9.0], box_length_cmpc=None)
    (store.path / "xhii").rename(store.path / name)
    root = (store.path / "zarr.json").read_text().replace('"xhii"', f'"{name}"')
    (store.path / "zarr.json").write_text(root)
    draw_slice(CubeStore.open(store.path), name, 9.0, tmp_path / "slice.svg")
    text = (tmp_path / "slice.svg").read_text()
    assert "redshift 9, slice at z = cell 2" in text
