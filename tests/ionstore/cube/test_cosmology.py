import math

import numpy as np
import pytest

from ionstore.cube.cosmology import (
    PLANCK18,
    Cosmology,
    growth_factor,
    matter_density,
    mean_gas_density,
)


@pytest.mark.parametrize("redshift", [0.0, 0.5, 8.397, 50.0])
def test_growth_without_dark_energy_is_the_scale_factor(redshift: float) -> None:
    flat = Cosmology(omega_m=1.0)
    assert growth_factor(flat, redshift) == pytest.approx(1 / (1 + redshift), rel=1e-6)


@pytest.mark.parametrize("redshift", [0.5, 1.0, 3.0, 8.397])
def test_growth_agrees_with_the_carroll_press_turner_fit(redshift: float) -> None:
    def fit(z: float) -> float:
        omega_m, omega_l = 0.3, 0.7
        square = omega_m * (1 + z) ** 3 + omega_l
        m, dark = omega_m * (1 + z) ** 3 / square, omega_l / square
        return 2.5 * m / (math.pow(m, 4 / 7) - dark + (1 + m / 2) * (1 + dark / 70)) / (1 + z)

    growth = growth_factor(Cosmology(omega_m=0.3), redshift)
    assert growth == pytest.approx(fit(redshift) / fit(0.0), rel=5e-3)


def test_densities_of_the_universe() -> None:
    assert matter_density(PLANCK18) == pytest.approx(0.30966 * 2.7754e11 * 0.6766**2, rel=1e-3)
    ratio = mean_gas_density(PLANCK18, 9.0) / mean_gas_density(PLANCK18, 0.0)
    assert ratio == pytest.approx(1000.0)
    assert np.isclose(mean_gas_density(PLANCK18, 0.0), 4.2108e-31, rtol=1e-4)


def test_a_cosmology_names_what_it_does_not_tell() -> None:
    with pytest.raises(ValueError, match="omega_m, n_s"):
        Cosmology(h=0.7).known("h", "omega_m", "n_s")
    assert PLANCK18.known("h", "n_s") == (0.6766, 0.9665)
