import math

import numpy as np
import pytest

from ionstore.cube.cosmology import PLANCK18, matter_density
from ionstore.simulate.halos import HaloModel, draw_halo_counts, mass_radius
from ionstore.simulate.linear_field import LinearSpectrum

SPECTRUM = LinearSpectrum(PLANCK18)
HALOS = HaloModel(SPECTRUM, 1e9, 5e11, 6.0)


def test_radius_of_a_mass_encloses_it() -> None:
    radius = mass_radius(SPECTRUM, 5e11)
    assert 4 / 3 * math.pi * radius**3 * matter_density(PLANCK18) == pytest.approx(5e11)


def test_abundance_of_halos_today_is_the_known_one() -> None:
    # A few thousandths of a halo above 1e12 Msun in each cMpc^3.
    halos = HaloModel(SPECTRUM, 1e12, 1e14, 0.5)
    density = halos.mean_abundance(0.0) * matter_density(PLANCK18)
    assert 1e-3 < density < 4e-3


def test_regions_average_to_the_mean_abundance() -> None:
    overdensities, abundances = HALOS.conditional_abundance(8.397)
    regions = np.random.default_rng(0).normal(0, math.sqrt(6.0), 400_000)
    mean = np.interp(regions, overdensities, abundances).mean()
    assert mean == pytest.approx(HALOS.mean_abundance(8.397), rel=0.03)


def test_denser_regions_and_later_times_hold_more_halos() -> None:
    early = HALOS.conditional_abundance(10.11)[1]
    late = HALOS.conditional_abundance(7.305)[1]
    assert (np.diff(early) >= 0).all()
    middle = slice(300, 600)
    assert (late[middle] > early[middle]).all()


def test_no_halos_where_none_can_have_formed() -> None:
    abundances = HALOS.conditional_abundance(50.0)[1]
    assert np.isfinite(abundances).all()
    assert abundances[400] < 1e-20


def test_regions_smaller_than_halos_are_refused() -> None:
    with pytest.raises(ValueError, match="region_mass_msun"):
        HaloModel(SPECTRUM, 1e9, 1e9, 50.0)


@pytest.mark.parametrize("mean", [0.0, 0.05, 1.0, 7.5, 59.0, 61.0, 5000.0])
def test_counts_are_poisson(mean: float) -> None:
    normals = np.random.default_rng(4).standard_normal(40_000, dtype=np.float32)
    counts = draw_halo_counts(np.full(normals.shape, mean), normals)
    sigma = math.sqrt(mean / normals.size)
    assert abs(counts.mean() - mean) <= 4 * sigma
    assert counts.var() == pytest.approx(mean, rel=0.1, abs=1e-12)
    if mean:
        skewness = ((counts - mean) ** 3).mean() / mean**1.5
        assert skewness == pytest.approx(1 / math.sqrt(mean), abs=0.5 if mean < 0.1 else 0.1)


def test_counts_never_fall_when_their_mean_rises() -> None:
    means = np.linspace(0, 120, 2001)
    for normal in (-2.5, 0.0, 3.0):
        counts = draw_halo_counts(means, np.full(means.shape, normal, dtype=np.float32))
        assert (np.diff(counts) >= 0).all()
