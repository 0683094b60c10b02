from pathlib import Path

import h5py
import numpy as np
import pytest

from ionstore.cube.mesh import Array
from ionstore.errors import SourceDataError
from ionstore.readers.points.gridded import GriddedPoints
from ionstore.readers.points.halos import HaloCatalog


def _catalog(
    path: Path, positions: Array, masses: Array, *, size: float | None, mesh: int
) -> HaloCatalog:
    with h5py.File(path, "w") as file:
        file["halos/halo_coords"] = positions
        file["halos/halo_masses"] = masses
    return HaloCatalog(path, "halos", len(masses), mesh, size, by_mass=False)


def _by_mass(catalog: HaloCatalog) -> HaloCatalog:
    return HaloCatalog(
        catalog.path,
        catalog.group,
        catalog.n_halos,
        catalog.mesh_cells,
        catalog.cell_size_cmpc,
        by_mass=True,
    )


def gridded(catalog: HaloCatalog) -> Array:
    """The sums of a catalog on its mesh."""
    file_bytes: list[bytes] = []
    source = GriddedPoints(catalog, catalog.mesh_cells)
    values = np.concatenate(list(source.stream(file_bytes.append)))
    assert b"".join(file_bytes) == catalog.path.read_bytes()
    return values.reshape((catalog.mesh_cells,) * 3)


def added_one_by_one(positions: Array, weights: Array, size: float, mesh: int) -> Array:
    """The same sums, halo by halo."""
    cube = np.zeros((mesh,) * 3)
    for position, weight in zip(positions, weights, strict=True):
        cell = tuple(round(float(value) / size) % mesh for value in position)
        np.add.at(cube, cell, weight)
    return cube.astype("f4")


@pytest.mark.parametrize("mesh", [1, 2, 7, 12])
def test_halos_are_added_to_the_nearest_cells(tmp_path: Path, mesh: int) -> None:
    rng = np.random.default_rng(mesh)
    positions = (rng.random((500, 3)) * mesh * 2.381).astype("f4")
    masses = (rng.pareto(1, 500) * 1e9 + 1e9).astype("f4")
    catalog = _catalog(tmp_path / "a.h5", positions, masses, size=2.381, mesh=mesh)
    ones = np.ones(500)
    np.testing.assert_array_equal(gridded(catalog), added_one_by_one(positions, ones, 2.381, mesh))
    np.testing.assert_allclose(
        gridded(_by_mass(catalog)), added_one_by_one(positions, masses, 2.381, mesh), rtol=1e-6
    )


def test_the_last_half_cell_of_the_box_belongs_to_cell_0(tmp_path: Path) -> None:
    below, above = 3.49, 3.51  # cells; the last cell is centered at 3
    positions = np.array([[below, 0, 0], [above, 0, 0], [4.0, 0, 0], [0.49, 0.51, 3.999]])
    catalog = _catalog(tmp_path / "a.h5", positions * 2, np.ones(4), size=2.0, mesh=4)
    expected = np.zeros((4, 4, 4))
    expected[3, 0, 0] = 1
    expected[0, 0, 0] = 2
    expected[0, 1, 0] = 1
    np.testing.assert_array_equal(gridded(catalog), expected)


def test_positions_may_be_cells(tmp_path: Path) -> None:
    cells = np.array([[0, 1, 2], [4, 4, 4], [4, 4, 4]], "i4")
    catalog = _catalog(tmp_path / "a.h5", cells, np.ones(3), size=1.0, mesh=5)
    expected = np.zeros((5, 5, 5))
    expected[0, 1, 2], expected[4, 4, 4] = 1, 2
    np.testing.assert_array_equal(gridded(catalog), expected)


def test_only_the_halos_of_a_padded_catalog_count(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path / "a.h5", np.zeros((9, 3), "f4"), np.ones(9), size=1.0, mesh=2)
    catalog = HaloCatalog(catalog.path, "halos", 4, 2, None, by_mass=False)
    assert gridded(catalog).sum() == 4


def test_halos_whose_mass_was_set_to_0_are_none(tmp_path: Path) -> None:
    masses = np.array([0, 5, 0, 7], "f4")
    catalog = _catalog(tmp_path / "a.h5", np.zeros((4, 3), "f4"), masses, size=1.0, mesh=2)
    assert gridded(catalog)[0, 0, 0] == 2
    assert gridded(_by_mass(catalog))[0, 0, 0] == 12


@pytest.mark.parametrize("by_mass", [True, False])
def test_a_negative_mass_is_refused(tmp_path: Path, by_mass: bool) -> None:
    masses = np.array([9, 5, -2, 7], "f4")
    catalog = _catalog(tmp_path / "a.h5", np.zeros((4, 3), "f4"), masses, size=1.0, mesh=2)
    with pytest.raises(SourceDataError, match="got -2 for source 3"):
        gridded(_by_mass(catalog) if by_mass else catalog)


def test_catalogs_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ionstore.readers.points.positions._ROWS", 4)
    positions = np.random.default_rng(1).random((10, 3)) * 3
    catalog = _catalog(tmp_path / "a.h5", positions, np.ones(10), size=1.0, mesh=3)
    pieces = list(catalog.points(3, lambda _: None))
    assert [len(cells) for cells, _ in pieces] == [4, 4, 2]
    assert all(cells.dtype == np.int64 and weights.dtype == np.float64 for cells, weights in pieces)
    np.testing.assert_array_equal(
        gridded(catalog), added_one_by_one(positions, np.ones(10), 1.0, 3)
    )


def test_another_mesh_is_refused(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path / "a.h5", np.zeros((1, 3)), np.ones(1), size=1.0, mesh=4)
    with pytest.raises(SourceDataError, match=r"a\.h5: .* mesh of 4 cells .* have 8"):
        list(catalog.points(8, lambda _: None))


@pytest.mark.parametrize("value", [-0.6, 4.6, 1e30, np.nan, np.inf])
def test_halos_out_of_the_box_are_refused(tmp_path: Path, value: float) -> None:
    positions = np.ones((3, 3))
    positions[1, 2] = value
    catalog = _catalog(tmp_path / "a.h5", positions, np.ones(3), size=1.0, mesh=4)
    with pytest.raises(SourceDataError, match=r"from 0 to 4 .*got \(1, 1, .*\) for halo 2"):
        list(catalog.points(4, lambda _: None))


def test_a_catalog_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path / "a.h5", np.zeros((50, 3)), np.ones(50), size=1.0, mesh=4)
    catalog.path.write_bytes(catalog.path.read_bytes()[:-100])
    with pytest.raises(SourceDataError, match=r"a\.h5: .*truncated"):
        list(catalog.points(4, lambda _: None))
