"""Smoothing by periodic balls, against the sum over all cells of the box."""

import numpy as np
import pytest

from ionmodel.channels.periodic_field import PeriodicField, ball_weights


def smoothed_by_sums(values: np.ndarray, radius: float) -> np.ndarray:
    """Add up shifted copies of the box, each with the share of a ball that lies in the cell."""
    reach = int(np.ceil(radius + 0.5))
    total, weights = np.zeros(values.shape), 0.0
    for i in range(-reach, reach + 1):
        for j in range(-reach, reach + 1):
            for k in range(-reach, reach + 1):
                weight = min(1.0, max(0.0, radius + 0.5 - np.sqrt(i * i + j * j + k * k)))
                weights += weight
                if weight:
                    total += weight * np.roll(values.astype("f8"), (-i, -j, -k), (0, 1, 2))
    return total / weights


@pytest.mark.parametrize("n", [1, 2, 5, 12, 17])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.71, 1.0])
def test_a_ball_is_the_sum_over_its_cells_across_the_faces(n: int, share: float) -> None:
    radius = share * n / 4
    values = np.random.default_rng(n).lognormal(sigma=1.0, size=(n, n, n)) * 1e-28
    smoothed = PeriodicField(values).smoothed(radius)
    assert smoothed.dtype == np.float32
    expected = smoothed_by_sums(values, radius)
    np.testing.assert_allclose(smoothed, expected, rtol=0, atol=2e-6 * values.max())


def test_one_source_becomes_a_ball_and_nothing_is_negative() -> None:
    n_src = np.zeros((24, 24, 24), np.uint16)
    n_src[0, 23, 1] = 50_000
    smoothed = PeriodicField(n_src).smoothed(5.0)
    assert smoothed.min() >= 0
    assert smoothed.sum(dtype="f8") == pytest.approx(50_000, rel=1e-4)
    ball = np.roll(ball_weights(24, 5.0), (0, 23, 1), (0, 1, 2)) * 50_000
    np.testing.assert_allclose(smoothed, ball, atol=0.05)
    assert ball[6, 23, 1] == 0 < ball[5, 23, 1]


def test_a_constant_stays_and_the_mean_too() -> None:
    constant = np.full((8, 8, 8), 3.5e12, np.float32)
    np.testing.assert_array_equal(PeriodicField(constant).smoothed(2.0), constant)
    np.testing.assert_array_equal(PeriodicField(np.zeros((4, 4, 4))).smoothed(1.0), 0)
    values = np.random.default_rng(1).normal(size=(9, 9, 9))
    mean = PeriodicField(values).smoothed(2.0).mean(dtype="f8")
    assert mean == pytest.approx(values.mean(), abs=1e-6)


def test_a_shifted_box_gives_the_shifted_field() -> None:
    values = np.random.default_rng(2).poisson(0.3, (15, 15, 15)).astype(np.uint8)
    shift = {"shift": (4, -7, 11), "axis": (0, 1, 2)}
    smoothed = PeriodicField(values).smoothed(3.0)
    shifted = PeriodicField(np.roll(values, **shift)).smoothed(3.0)
    np.testing.assert_allclose(shifted, np.roll(smoothed, **shift), atol=1e-5)


def test_a_ball_has_the_volume_of_a_ball() -> None:
    for radius in (4.0, 7.3, 15.9):
        weights = ball_weights(64, radius)
        cells = 1 / weights[0, 0, 0]  # cells wholly inside weigh one before they are divided
        assert cells == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.04)
        assert weights.sum(dtype="f8") == pytest.approx(1, abs=1e-6)


def test_a_ball_above_a_quarter_and_no_cube_are_refused() -> None:
    with pytest.raises(ValueError, match=r"from 0 to a quarter of 8, got 2\.1"):
        ball_weights(8, 2.1)
    with pytest.raises(ValueError, match="from 0 to a quarter of 8, got -1"):
        PeriodicField(np.zeros((8, 8, 8))).smoothed(-1.0)
    with pytest.raises(ValueError, match=r"must be a cube, got shape \(3, 3, 4\)"):
        PeriodicField(np.zeros((3, 3, 4)))
