from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from ionstore.build.store_writer import StoredField, create_store
from ionstore.cube.mesh import Mesh
from ionstore.cube.statistics import FieldStatistics
from ionstore.errors import NotInStoreError, StoreExistsError
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Layout
from ionstore.view import Axis, draw_slice, read_slice
from tests.support.stores import write_store


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


@pytest.mark.parametrize(
    ("least", "most", "labels"),
    [(5e9, 2e12, 3), (1.5e10, 1e12, 2), (2e9, 9e9, 2), (1.0, 40.0, 2), (3.0, 3.5, 0)],
)
def test_labels_of_the_colors_do_not_touch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: float, most: float, labels: int
) -> None:
    mass = np.zeros((1, 4, 4, 4), "f4")
    mass[0, :, :, 2] = np.geomspace(least, most, 16, dtype="f4").reshape(4, 4)
    mass[0, 0, 0, 2] = 0
    mass[0, 0, 1, 2] = least
    store = write_store(tmp_path / "cubes.zarr", {"n_src": mass}, [9.0])
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: figures.append(figure))
    draw_slice(str(store.path), "n_src", 9.0, str(tmp_path / "slice.png"))
    figures[0].canvas.draw()
    bar = figures[0].axes[0].child_axes[0]
    boxes = [label.get_window_extent() for label in bar.get_yticklabels() if label.get_text()]
    shown = [box for box in boxes if bar.bbox.y0 - 9 <= (box.y0 + box.y1) / 2 <= bar.bbox.y1 + 9]
    assert len(shown) >= 1 + labels
    for one, other in pairwise(sorted(shown, key=lambda box: box.y0)):
        assert other.y0 - one.y1 > 3


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


def test_no_figure_is_drawn_into_a_store(small_store: CubeStore) -> None:
    with pytest.raises(StoreExistsError, match="would lie in the store"):
        draw_slice(small_store, "xhii", 9.0, Path(str(small_store.path)) / "x.png")


def test_predictions_are_drawn_in_the_colors_of_what_they_predict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(1).uniform(0.2, 0.9, (1, 4, 4, 4)).astype("f4")
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: figures.append(figure))
    for name in ("xhii", "xhii_predicted"):
        fields = [StoredField(name, "float32", "1")]
        writer = create_store(tmp_path / name, Mesh(4), [9.0], fields)
        writer.shards.write_block(name, 0, (0, 0, 0), values[0])
        writer.finalize({name: [FieldStatistics.of(values)]})
        draw_slice(CubeStore.open(tmp_path / name), name, 9.0, tmp_path / "slice.png")
    simulated, predicted = (figure.axes[0].images[0] for figure in figures)
    assert simulated.get_cmap() == predicted.get_cmap()
    assert simulated.get_clim() == predicted.get_clim() == (0, 1)
