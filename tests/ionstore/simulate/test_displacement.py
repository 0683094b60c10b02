import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from ionstore.simulate.displacement import Displacement, deposit_gas, move_halos


def _random_displacement(n: int, scale: float = 1.0) -> Displacement:
    rng = np.random.default_rng(n)
    x, y, z = (scale * rng.standard_normal((3, n, n, n))).astype(np.float32)
    return x, y, z


def _constant_displacement(n: int, shift: tuple[float, float, float]) -> Displacement:
    x, y, z = (np.full((n, n, n), cells, dtype=np.float32) for cells in shift)
    return x, y, z


def _deposit_slowly(displacement: Displacement, growth: float) -> NDArray[np.float64]:
    n = displacement[0].shape[0]
    ratio = np.zeros((n, n, n))
    cells = np.indices((n, n, n)).astype(float)
    for corner in itertools.product((-0.25, 0.25), repeat=3):
        places = []
        for axis, field in enumerate(displacement):
            value = field.astype(float)
            for direction, offset in enumerate(corner):
                neighbor = np.roll(value, -int(np.sign(offset)), direction)
                value = 0.75 * value + 0.25 * neighbor
            places.append(cells[axis] + corner[axis] + growth * value)
        lower = [np.floor(place).astype(int) for place in places]
        for far in itertools.product((0, 1), repeat=3):
            weight = np.full((n, n, n), 0.125)
            for axis in range(3):
                fraction = places[axis] - lower[axis]
                weight = weight * (fraction if far[axis] else 1 - fraction)
            index = tuple((lower[axis] + far[axis]) % n for axis in range(3))
            np.add.at(ratio, index, weight)
    return ratio


@pytest.mark.parametrize(("n", "scale"), [(8, 0.5), (9, 3.0)])
def test_deposit_equals_a_slow_one(n: int, scale: float) -> None:
    displacement = _random_displacement(n, scale)
    ratio = deposit_gas(displacement, 0.7)
    assert ratio.dtype == np.float32
    assert np.allclose(ratio, _deposit_slowly(displacement, 0.7), atol=1e-5)


def test_deposit_conserves_mass() -> None:
    ratio = deposit_gas(_random_displacement(16, 5.0), 1.0)
    assert ratio.mean(dtype=np.float64) == pytest.approx(1.0, rel=1e-6)
    assert ratio.min() >= 0


def test_gas_that_moves_as_one_stays_even() -> None:
    ratio = deposit_gas(_constant_displacement(9, (0.3, -7.4, 100.0)), 1.0)
    assert np.allclose(ratio, 1.0, atol=1e-6)


def test_gas_that_moves_rolls_with_its_displacement() -> None:
    moved = _random_displacement(8)
    rolled: Displacement = tuple(np.roll(field, (3, 0, -1), (0, 1, 2)) for field in moved)  # type: ignore[assignment]
    expected = np.roll(deposit_gas(moved, 1.0), (3, 0, -1), (0, 1, 2))
    assert np.allclose(deposit_gas(rolled, 1.0), expected, atol=1e-5)


@pytest.mark.parametrize("n", [8, 9])
def test_halos_moved_by_whole_cells_are_rolled(n: int) -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(2.0, (n, n, n))
    offsets = rng.random((n, n, n, 3), dtype=np.float32)
    out = np.zeros((n, n, n), dtype=np.float32)
    move_halos(counts, offsets, 0, _constant_displacement(n, (2.0, -1.0, n + 3)), 1.0, out=out)
    assert np.array_equal(out, np.roll(counts, (2, -1, 3), (0, 1, 2)))


def test_halos_moved_by_half_a_cell_split_evenly() -> None:
    counts = np.zeros((1, 8, 8), dtype=np.int64)
    counts[0, 4, 7] = 400
    out = np.zeros((8, 8, 8), dtype=np.float32)
    offsets = np.full((1, 8, 8, 3), 0.1, dtype=np.float32)
    move_halos(counts, offsets, 5, _constant_displacement(8, (0.0, 0.0, 1.0)), 0.5, out=out)
    assert out.sum() == 400
    assert out[5, 4, 7] == pytest.approx(200, abs=8)
    assert out[5, 4, 0] == pytest.approx(200, abs=8)


def test_no_halo_is_lost_where_they_move_in_groups() -> None:
    counts = np.full((8, 8, 8), 12_345, dtype=np.int64)
    counts[0, 0, 0] = 513
    out = np.zeros((8, 8, 8), dtype=np.float32)
    offsets = np.zeros((8, 8, 8, 3), dtype=np.float32)
    move_halos(counts, offsets, 0, _random_displacement(8), 1.0, out=out)
    assert out.sum(dtype=np.float64) == counts.sum()
    assert np.array_equal(out, np.rint(out))
