from pathlib import Path

import numpy as np
import pytest

from ionstore.errors import SourceDataError
from ionstore.readers.points.positions import cells_at, check_masses


@pytest.mark.parametrize("counted_from", [0, 1])
def test_all_cells_of_a_mesh_are_counted_from_zero(counted_from: int) -> None:
    cells = np.argwhere(np.ones((3, 3, 3)))
    positions = (cells + counted_from).astype("f4")
    found = cells_at(Path("a.dat"), positions, 3, counted_from=counted_from, n_before=0)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, cells)


@pytest.mark.parametrize("counted_from", [0, 1])
@pytest.mark.parametrize("off", [-1.0, 3.0, 0.5, np.nan, np.inf])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_first_source_off_the_mesh_is_named(counted_from: int, off: float, axis: int) -> None:
    positions = np.full((5, 3), counted_from + 1.0)
    positions[3:, axis] += off - 1
    said = rf"a\.dat: .* from {counted_from} to {counted_from + 2}, got .* for source 14; give"
    with pytest.raises(SourceDataError, match=said):
        cells_at(Path("a.dat"), positions, 3, counted_from=counted_from, n_before=10)


@pytest.mark.parametrize("shape", [(5,), (5, 2)])
def test_the_first_negative_mass_is_named(shape: tuple[int, ...]) -> None:
    masses = np.ones(shape)
    masses[0] = 0.0
    masses[1] = np.nan  # is met where the cells are looked at
    check_masses(Path("a.dat"), masses, 10)
    masses[3:] = -1.5
    with pytest.raises(SourceDataError, match=r"a\.dat: .* got -1\.5 for source 14; fix"):
        check_masses(Path("a.dat"), masses, 10)
