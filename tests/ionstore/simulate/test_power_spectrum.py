import math

import numpy as np
import pytest

from ionstore.cube.cosmology import PLANCK18, Cosmology
from ionstore.simulate.linear_field import LinearSpectrum, top_hat_window, transfer_no_wiggle


def test_sigma_8_is_recovered() -> None:
    assert LinearSpectrum(PLANCK18).sigma(8 / 0.6766) == pytest.approx(0.8102, rel=1e-6)


def test_sigma_agrees_with_an_integral_over_another_grid() -> None:
    spectrum = LinearSpectrum(PLANCK18)
    k = np.linspace(1e-4, 40.0, 400_001)
    integrand = k**2 * spectrum.power(k) * top_hat_window(k * 2.0) ** 2 / (2 * math.pi**2)
    assert spectrum.sigma(2.0) == pytest.approx(math.sqrt(np.trapezoid(integrand, k)), rel=1e-3)


def test_power_rises_as_primordial_then_falls_beyond_equality() -> None:
    spectrum = LinearSpectrum(PLANCK18)
    large = spectrum.power(np.array([1e-5, 2e-5]))
    assert large[1] / large[0] == pytest.approx(2**0.9665, rel=1e-2)
    k = np.geomspace(1e-4, 10.0, 2000)
    assert 0.008 < k[np.argmax(spectrum.power(k))] < 0.015
    assert spectrum.power(np.array([0.0]))[0] == 0.0


def test_transfer_without_baryons_is_a_function_of_gamma_alone() -> None:
    k = np.geomspace(1e-3, 10.0, 20)
    thin = Cosmology(h=0.5, omega_m=0.5, omega_b=1e-9)
    same_gamma = Cosmology(h=0.25, omega_m=1.0, omega_b=1e-9)
    assert transfer_no_wiggle(thin, k * 0.5) == pytest.approx(
        transfer_no_wiggle(same_gamma, k * 0.25), rel=1e-6
    )


def test_baryons_suppress_small_scales() -> None:
    k = np.array([0.0, 5.0])
    few = transfer_no_wiggle(Cosmology(h=0.7, omega_m=0.3, omega_b=0.01), k)
    many = transfer_no_wiggle(Cosmology(h=0.7, omega_m=0.3, omega_b=0.06), k)
    assert few[0] == many[0] == 1.0
    assert many[1] < few[1]


def test_window_is_smooth_where_the_series_takes_over() -> None:
    x = np.array([0.0, 0.00999, 0.01001, math.pi, 4.493409457909064])
    window = top_hat_window(x)
    assert window[0] == 1.0
    assert window[1] == pytest.approx(window[2], abs=1e-5)
    assert window[3] == pytest.approx(3 / math.pi**2)
    assert window[4] == pytest.approx(0.0, abs=1e-12)  # tan x = x
