"""Splits: no input shared across the guards, box faces included, and as much room as promised."""

import itertools

import numpy as np
import pytest

from ionstore.cube.mesh import Region
from ionstore.sampling.split import block_split, largest_radius, random_split


def mark(region: Region, cells_per_side: int) -> np.ndarray:
    marked = np.zeros((cells_per_side,) * 3, dtype=bool)
    box = tuple(
        slice(first, first + length)
        for first, length in zip(region.start, region.shape, strict=True)
    )
    marked[box] = True
    return marked


def grown(marked: np.ndarray, radius: int) -> np.ndarray:
    """All cells of the periodic neighborhoods around marked cells."""
    for axis in range(3):
        shifts = range(-radius, radius + 1)
        marked = np.any([np.roll(marked, shift, axis) for shift in shifts], axis=0)
    return marked


@pytest.mark.parametrize(("cells", "radius"), [(16, 0), (16, 2), (17, 2), (33, 5), (40, 6)])
def test_training_and_held_out_neighborhoods_share_no_cell(cells: int, radius: int) -> None:
    split = block_split(cells, radius)
    train = grown(mark(split.train, cells), radius)
    for held_out in (split.validation, split.test):
        assert not (train & grown(mark(held_out, cells), radius)).any()
    assert not (mark(split.validation, cells) & mark(split.test, cells)).any()


@pytest.mark.parametrize("cells", [8, 16, 21, 32, 64, 100, 200, 300])
def test_every_radius_up_to_the_largest_leaves_room(cells: int) -> None:
    for radius in range(largest_radius(cells) + 1):
        split = block_split(cells, radius)
        assert split.train.n_cells >= 0.3 * cells**3
        assert split.validation.n_cells > 0
        assert split.test.n_cells > 0


@pytest.mark.parametrize("cells", [8, 16, 21, 32, 64, 100, 200, 300])
def test_beyond_the_largest_radius_no_slab_leaves_room(cells: int) -> None:
    radius = largest_radius(cells) + 1
    assert (cells - 1 - 4 * radius) < 0.3 * cells  # one held-out plane and two guards
    with pytest.raises(ValueError, match=f"largest radius that fits is {radius - 1}"):
        block_split(cells, radius)


def test_a_fifth_is_held_out_where_there_is_room() -> None:
    split = block_split(200, 4)
    assert split.validation.n_cells + split.test.n_cells == 200**3 // 5
    assert not split.leaks


def test_cells_of_a_region_are_in_c_order() -> None:
    region = Region((2, 0, 5), (2, 3, 4))
    expected = list(itertools.product(range(2, 4), range(3), range(5, 9)))
    assert region.n_cells == len(expected)
    assert region.cells(np.arange(region.n_cells)).tolist() == [list(cell) for cell in expected]


def test_random_cells_differ_and_depend_on_the_seed() -> None:
    split = random_split(10, 500, seed=1)
    together = np.concatenate([split.train, split.validation])
    assert len(split.train) == 400
    assert len(np.unique(together, axis=0)) == 500
    assert split.leaks
    np.testing.assert_array_equal(split.train, random_split(10, 500, seed=1).train)
    assert not np.array_equal(split.train, random_split(10, 500, seed=2).train)


def test_random_cells_cover_all_axes_independently() -> None:
    cells = random_split(30, 3000, seed=0).train
    correlation = np.corrcoef(cells.T)
    assert np.abs(correlation[np.triu_indices(3, 1)]).max() < 0.1


def test_more_random_cells_than_the_mesh_has_are_refused() -> None:
    with pytest.raises(ValueError, match="n_cells must be 5 to 64"):
        random_split(4, 65, seed=0)
