import math

import numpy as np
import pytest

from ionstore.cube.cosmology import PLANCK18, Cosmology
from ionstore.cube.mesh import Mesh
from ionstore.simulate.linear_field import (
    LinearSpectrum,
    displacements,
    draw_linear_modes,
    forward_transform,
    inverse_transform,
    mode_variance,
    mode_wavenumbers,
    smooth_modes,
    squared_frequencies,
    top_hat_window,
    transfer_no_wiggle,
)

SPECTRUM = LinearSpectrum(PLANCK18)


def test_sigma_8_is_recovered() -> None:
    assert SPECTRUM.sigma(8 / 0.6766) == pytest.approx(0.8102, rel=1e-6)


def test_sigma_agrees_with_an_integral_over_another_grid() -> None:
    k = np.linspace(1e-4, 40.0, 400_001)
    integrand = k**2 * SPECTRUM.power(k) * top_hat_window(k * 2.0) ** 2 / (2 * math.pi**2)
    assert SPECTRUM.sigma(2.0) == pytest.approx(math.sqrt(np.trapezoid(integrand, k)), rel=1e-3)


def test_power_rises_as_primordial_then_falls_beyond_equality() -> None:
    large = SPECTRUM.power(np.array([1e-5, 2e-5]))
    assert large[1] / large[0] == pytest.approx(2**0.9665, rel=1e-2)
    k = np.geomspace(1e-4, 10.0, 2000)
    assert 0.008 < k[np.argmax(SPECTRUM.power(k))] < 0.015
    assert SPECTRUM.power(np.array([0.0]))[0] == 0.0


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


@pytest.mark.parametrize("n", [8, 9])
def test_squared_frequencies_follow_fftfreq(n: int) -> None:
    full = np.fft.fftfreq(n) * n
    half = np.fft.rfftfreq(n) * n
    expected = full[:, None, None] ** 2 + full[None, :, None] ** 2 + half**2
    assert np.array_equal(squared_frequencies(n), np.rint(expected))
    assert len(mode_wavenumbers(Mesh(n))) == squared_frequencies(n).max() + 1


@pytest.mark.parametrize("n", [48, 49])
def test_field_has_the_power_of_its_spectrum(n: int) -> None:
    mesh = Mesh(n, 100.0)
    modes = draw_linear_modes(mesh, SPECTRUM, np.random.default_rng(3))
    assert modes.dtype == np.complex64
    volume = 100.0**3
    ratio = np.abs(modes.astype(complex)) ** 2 * volume / mesh.n_cells**2
    squares = squared_frequencies(n)
    expected = SPECTRUM.power(mode_wavenumbers(mesh))[squares]
    for low, high in [(1, 16), (16, 100), (100, 400), (400, 1200)]:
        shell = (squares >= low) & (squares < high)
        mean = (ratio[shell] / expected[shell]).mean()
        # Each mode scatters by its own power; mirror images make at most every other one new.
        assert abs(mean - 1) < 4 * np.sqrt(2 / shell.sum())


@pytest.mark.parametrize("n", [32, 33])
def test_variance_of_drawn_fields_is_the_sum_over_modes(n: int) -> None:
    mesh = Mesh(n, 80.0)
    drawn = [
        inverse_transform(draw_linear_modes(mesh, SPECTRUM, np.random.default_rng(seed)), n)
        for seed in range(8)
    ]
    assert np.mean([field.var() for field in drawn]) == pytest.approx(
        mode_variance(mesh, SPECTRUM), rel=0.05
    )
    assert all(abs(field.mean()) < 1e-6 for field in drawn)
    smooth = mode_variance(mesh, SPECTRUM, radius_cmpc=8.0)
    # Waves longer than the box are left out, so it is somewhat below that of all space.
    assert 0.75 * SPECTRUM.sigma(8.0) ** 2 < smooth < SPECTRUM.sigma(8.0) ** 2


def test_a_plane_wave_displaces_toward_its_crest() -> None:
    n, m = 16, 2
    x = np.arange(n)
    wave = np.cos(2 * np.pi * m * x / n).astype(np.float32)
    field = np.broadcast_to(wave[:, None, None], (n, n, n)).copy()
    along = list(displacements(forward_transform(field), n))
    expected = -np.sin(2 * np.pi * m * x / n) * n / (2 * np.pi * m)
    assert along[0][:, 3, 5] == pytest.approx(expected, abs=1e-5)
    assert np.abs(along[1]).max() < 1e-6
    assert np.abs(along[2]).max() < 1e-6


@pytest.mark.parametrize("n", [16, 15])
def test_divergence_of_the_displacement_is_minus_the_overdensity(n: int) -> None:
    rng = np.random.default_rng(0)
    field = rng.standard_normal((n, n, n), dtype=np.float32)
    modes = smooth_modes(forward_transform(field), n, 1.0)
    modes[0, 0, 0] = 0
    if n % 2 == 0:  # waves from cell to cell have no slope at the cells
        modes[n // 2] = modes[:, n // 2] = modes[:, :, n // 2] = 0
    frequencies = 2 * np.pi * np.fft.fftfreq(n)
    divergence = np.zeros((n, n, n))
    for axis, along in enumerate(displacements(modes, n)):
        assert along.dtype == np.float32
        shape = [1, 1, 1]
        shape[axis] = n
        slope = np.fft.fftn(along) * 1j * frequencies.reshape(shape)
        divergence += np.fft.ifftn(slope).real
    overdensity = inverse_transform(modes, n)
    assert np.corrcoef(divergence.ravel(), -overdensity.ravel())[0, 1] > 0.9999


def test_unknown_box_length_is_refused() -> None:
    with pytest.raises(ValueError, match="box length"):
        draw_linear_modes(Mesh(8), SPECTRUM, np.random.default_rng(0))
    with pytest.raises(ValueError, match="box length"):
        mode_variance(Mesh(8), SPECTRUM)
