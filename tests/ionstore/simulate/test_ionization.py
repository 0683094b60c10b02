import math

import numpy as np
import pytest
from numpy.typing import NDArray

from ionstore.simulate.ionization import filter_radii, ionized_fraction, smooth_top_hat
from ionstore.simulate.linear_field import forward_transform


def _periodic_distance(n: int, center: tuple[int, int, int]) -> NDArray[np.float64]:
    cells = np.indices((n, n, n)) - np.array(center).reshape(3, 1, 1, 1)
    cells = np.abs((cells + n // 2) % n - n // 2)
    return np.asarray(np.sqrt((cells**2).sum(axis=0)))


def _smooth(field: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    return smooth_top_hat(forward_transform(field), len(field), radius)


def test_smoothing_a_constant_changes_nothing() -> None:
    field = np.full((9, 9, 9), 2.5, dtype=np.float32)
    assert _smooth(field, 2.0) == pytest.approx(field, rel=1e-6)


@pytest.mark.parametrize("n", [20, 21])
@pytest.mark.parametrize("radius", [0.0, 1.0, 4.3, 9.9])
def test_smoothing_a_point_gives_an_even_sphere_across_the_faces(n: int, radius: float) -> None:
    field = np.zeros((n, n, n), dtype=np.float32)
    center = (0, n - 1, 5)
    field[center] = 3.0
    smooth = _smooth(field, radius)
    assert smooth.dtype == np.float32
    inside = _periodic_distance(n, center) <= radius
    assert smooth == pytest.approx(3.0 * inside / inside.sum(), abs=1e-6)


def test_smoothing_equals_a_sum_of_rolled_fields() -> None:
    field = np.random.default_rng(2).random((8, 8, 8), dtype=np.float32)
    offsets = [
        (i, j, k)
        for i in range(-2, 3)
        for j in range(-2, 3)
        for k in range(-2, 3)
        if i**2 + j**2 + k**2 <= 4
    ]
    expected = sum(np.roll(field, offset, (0, 1, 2)) for offset in offsets) / len(offsets)
    assert _smooth(field, 2.0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("radius", [-1.0, 4.0])
def test_spheres_that_do_not_fit_are_refused(radius: float) -> None:
    with pytest.raises(ValueError, match="radius_cells"):
        _smooth(np.zeros((8, 8, 8), dtype=np.float32), radius)


def test_radii_fall_to_one_cell_and_stay_within_a_quarter_of_the_box() -> None:
    radii = filter_radii(64, 100.0)
    assert radii[0] == 16.0
    assert 1.0 <= radii[-1] < 1.1
    assert filter_radii(64, 6.0)[0] == 6.0
    assert filter_radii(64, 0.5) == []
    with pytest.raises(ValueError, match="step must be above 1"):
        filter_radii(64, 6.0, step=1.0)


@pytest.mark.parametrize("n", [40, 41])
@pytest.mark.parametrize("corner", [False, True])
def test_one_source_ionizes_a_sphere_of_as_many_atoms(n: int, corner: bool) -> None:
    center = (0, 0, n - 1) if corner else (n // 2,) * 3
    photons = np.zeros((n, n, n), dtype=np.float32)
    radius = 7.0
    photons[center] = 4 / 3 * math.pi * radius**3
    radii = filter_radii(n, 10.0, step=1.02)
    xhii = ionized_fraction(photons, np.ones_like(photons), radii)
    assert xhii.sum() == pytest.approx(photons.sum(), rel=0.05)
    distance = _periodic_distance(n, center)
    assert (xhii[distance < radius - 0.5] == 1).all()
    assert (xhii[distance > radius] == 0).all()


def test_photons_of_a_cell_alone_ionize_it_in_part() -> None:
    photons = np.zeros((12, 12, 12), dtype=np.float32)
    atoms = np.full_like(photons, 2.0)
    photons[3, 4, 5] = 0.5
    photons[6, 6, 6] = -0.2
    xhii = ionized_fraction(photons, atoms, filter_radii(12, 3.0))
    assert xhii[3, 4, 5] == pytest.approx(0.25)
    assert np.count_nonzero(xhii) == 1
    assert xhii.dtype == np.float32


def test_enough_photons_everywhere_ionize_everything() -> None:
    atoms = np.random.default_rng(0).random((10, 10, 10), dtype=np.float32)
    atoms[0, 0, 0] = 0
    called = []
    xhii = ionized_fraction(
        atoms * np.float32(1.01), atoms, filter_radii(10, 2.0), on_radius=lambda: called.append(1)
    )
    assert (xhii[atoms > 0] == 1).all()
    assert len(called) == len(filter_radii(10, 2.0))


def test_radii_may_come_in_any_order() -> None:
    rng = np.random.default_rng(1)
    photons = rng.exponential(0.8, (16, 16, 16)).astype(np.float32)
    atoms = np.ones_like(photons)
    radii = filter_radii(16, 4.0)
    forward = ionized_fraction(photons, atoms, radii)
    assert np.array_equal(forward, ionized_fraction(photons, atoms, radii[::-1]))
