from pathlib import Path

import numpy as np
import pytest

from ionstore.readers.arrays.flat import FlatArray
from ionstore.readers.arrays.sample import sample_values


def _cube(path: Path, side: int) -> FlatArray:
    np.arange(side**3, dtype="i4").tofile(path)
    return FlatArray(path, (side, side, side), np.dtype("i4"))


@pytest.mark.parametrize("side", [1, 2, 16])
def test_all_of_a_small_cube_is_sampled(tmp_path: Path, side: int) -> None:
    np.testing.assert_array_equal(sample_values(_cube(tmp_path / "a", side)), np.arange(side**3))


@pytest.mark.parametrize("side", [17, 33, 100, 300])
def test_a_large_cube_is_sampled_all_over(tmp_path: Path, side: int) -> None:
    values = sample_values(_cube(tmp_path / "a", side))
    assert values.dtype == np.float64
    assert len(np.unique(values)) == len(values) <= 4096
    assert len(values) >= 9 * min(side, 256)
    for places in np.unravel_index(values.astype(int), (side, side, side)):
        assert places.min() < side / 8
        assert places.max() >= side * 7 / 8 - 1
