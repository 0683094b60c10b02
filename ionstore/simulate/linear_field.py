"""Linear overdensity: its power spectrum, and drawing, displacing, smoothing it on a mesh."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ionstore.cube.cosmology import Cosmology
from ionstore.cube.mesh import Mesh

CMB_TEMPERATURE_K = 2.7255  # Fixsen 2009
_WAVENUMBERS = np.geomspace(1e-5, 1e3, 4001)  # 1/cMpc; the integrands vanish at both ends
_AXES = (0, 1, 2)

Modes = NDArray[np.complex64]
"""Fourier modes of a real field, shape (n, n, n // 2 + 1), in the order of `numpy.fft.rfftn`."""


def top_hat_window(kr: NDArray[Any]) -> NDArray[np.float64]:
    """Return ``3 (sin x - x cos x) / x^3``, the transform of a sphere, for wavenumber × radius."""
    x = np.asarray(kr, dtype=np.float64)
    # Below 0.01 the difference loses its digits, and the series is exact to double precision.
    far = np.maximum(x, 0.01)
    near = 1 - x**2 / 10 + x**4 / 280
    return np.where(x < 0.01, near, 3 * (np.sin(far) - far * np.cos(far)) / far**3)


def transfer_no_wiggle(cosmology: Cosmology, wavenumber: NDArray[Any]) -> NDArray[np.float64]:
    """Return the matter transfer function without acoustic oscillations (1/cMpc in, 1 at 0)."""
    # Eisenstein & Hu 1998, ApJ 496, 605: equations 26 (sound horizon) and 28 to 31.
    h, omega_m, omega_b = cosmology.known("h", "omega_m", "omega_b")
    physical = omega_m * h**2
    baryons = omega_b / omega_m
    sound_horizon = 44.5 * math.log(9.83 / physical) / math.sqrt(1 + 10 * (omega_b * h**2) ** 0.75)
    alpha = (
        1
        - 0.328 * math.log(431 * physical) * baryons
        + 0.38 * math.log(22.3 * physical) * baryons**2
    )
    k = np.asarray(wavenumber, dtype=np.float64)
    gamma = omega_m * h * (alpha + (1 - alpha) / (1 + (0.43 * k * sound_horizon) ** 4))
    q = k / h * (CMB_TEMPERATURE_K / 2.7) ** 2 / gamma
    logarithm = np.log(2 * math.e + 1.8 * q)
    transfer: NDArray[np.float64] = logarithm / (logarithm + (14.2 + 731 / (1 + 62.5 * q)) * q**2)
    return transfer


@dataclass(frozen=True, slots=True)
class LinearSpectrum:
    """Linear power spectrum of matter at redshift 0, scaled to `Cosmology.sigma_8`."""

    cosmology: Cosmology
    _amplitude: float = field(init=False, default=1.0)

    def __post_init__(self) -> None:
        h, sigma_8, _ = self.cosmology.known("h", "sigma_8", "n_s")
        raw = self.sigma(8 / h)  # sigma_8 is defined in spheres of 8 cMpc/h
        object.__setattr__(self, "_amplitude", (sigma_8 / raw) ** 2)

    def power(self, wavenumber: NDArray[Any]) -> NDArray[np.float64]:
        """Return ``A k^n_s T(k)^2`` in cMpc^3, for wavenumbers in 1/cMpc."""
        (n_s,) = self.cosmology.known("n_s")
        k = np.asarray(wavenumber, dtype=np.float64)
        power: NDArray[np.float64] = (
            self._amplitude * k**n_s * transfer_no_wiggle(self.cosmology, k) ** 2
        )
        return power

    def sigma(self, radius_cmpc: float) -> float:
        """Return the standard deviation of the linear overdensity in spheres at redshift 0."""
        # sigma^2 = ∫ dln k k^3 P(k) W(kR)^2 / (2 π^2)
        k = _WAVENUMBERS
        integrand = k**3 * self.power(k) * top_hat_window(k * radius_cmpc) ** 2
        return math.sqrt(float(np.trapezoid(integrand, np.log(k))) / (2 * math.pi**2))


def squared_frequencies(cells_per_side: int) -> NDArray[np.int32]:
    """Return ``m^2`` of every mode, whose wavenumber is ``2 π m / box length``."""
    # The squares are small integers, so a function of the wavenumber is evaluated once for each
    # integer and looked up for each mode: no sine or square root per cell.
    full = _frequencies(cells_per_side).astype(np.int32) ** 2
    half = np.arange(cells_per_side // 2 + 1, dtype=np.int32) ** 2
    return full[:, None, None] + full[None, :, None] + half


def mode_wavenumbers(mesh: Mesh) -> NDArray[np.float64]:
    """Return ``2 π sqrt(m2) / box length`` for every ``m2`` of `squared_frequencies`.

    In 1/cMpc, or in 1/cells if the box length is unknown.
    """
    length = mesh.cells_per_side if mesh.box_length_cmpc is None else mesh.box_length_cmpc
    largest = 3 * (mesh.cells_per_side // 2) ** 2
    return 2 * np.pi / length * np.sqrt(np.arange(largest + 1, dtype=np.float64))


def draw_linear_modes(mesh: Mesh, spectrum: LinearSpectrum, rng: np.random.Generator) -> Modes:
    """Draw the modes of a Gaussian overdensity at redshift 0; its mean is exactly 0."""
    if mesh.cell_size_cmpc is None:
        raise ValueError(f"mesh must have a box length, got {mesh}")
    # White noise of unit variance in the cells, times sqrt(P(k) / cell volume): the field is real
    # by construction, which random modes would be only with their mirror images matched.
    noise = rng.standard_normal(mesh.shape, dtype=np.float32)
    modes = forward_transform(noise)
    amplitude = np.sqrt(spectrum.power(mode_wavenumbers(mesh)) / mesh.cell_size_cmpc**3)
    modes *= amplitude.astype(np.float32)[squared_frequencies(mesh.cells_per_side)]
    return modes


def mode_variance(mesh: Mesh, spectrum: LinearSpectrum, *, radius_cmpc: float = 0.0) -> float:
    """Return the variance of fields of `draw_linear_modes`, smoothed over spheres if radius > 0."""
    # A sum over the modes of the mesh, not `LinearSpectrum.sigma`: waves longer than the box or
    # shorter than two cells are missing in the field too.
    if mesh.box_length_cmpc is None:
        raise ValueError(f"mesh must have a box length, got {mesh}")
    n = mesh.cells_per_side
    wavenumbers = mode_wavenumbers(mesh)
    power = spectrum.power(wavenumbers) * top_hat_window(wavenumbers * radius_cmpc) ** 2
    squares = squared_frequencies(n)
    weights = np.full(n // 2 + 1, 2.0)  # a mode and its mirror image, which rfftn leaves out
    weights[0] = 1.0
    if n % 2 == 0:
        weights[-1] = 1.0
    total = sum(float((power[plane] @ weights).sum()) for plane in squares)
    return total / mesh.box_length_cmpc**3


def displacements(modes: Modes, cells_per_side: int) -> Iterator[NDArray[np.float32]]:
    """Yield the linear displacement along x, then y, then z, in cells."""
    # Zel'dovich 1970, A&A 5, 84: ψ with -∇·ψ = δ, which is i k δ / k^2 for each mode.
    n = cells_per_side
    squares = squared_frequencies(n)
    squares[0, 0, 0] = 1  # no division by 0: the mean has frequency 0 and does not move
    scaled: Modes = np.divide(modes, squares.astype(np.float32), dtype=np.complex64)
    del squares  # 2 bytes per cell
    full = _frequencies(n)
    half = np.arange(n // 2 + 1, dtype=np.float64)
    if n % 2 == 0:
        # The wave that alternates from cell to cell has no slope at the cells.
        full[n // 2] = half[-1] = 0.0
    # One axis at a time, so that one array of modes is there beside the scaled ones, not three.
    for axis, frequencies in enumerate((full, full, half)):
        factor = (1j * n / (2 * np.pi) * frequencies).astype(np.complex64)
        shape = [1, 1, 1]
        shape[axis] = -1
        along: Modes = scaled * factor.reshape(shape)
        yield inverse_transform(along, n)


def forward_transform(field: NDArray[np.float32]) -> Modes:
    """Return the modes of a real field of shape (n, n, n)."""
    return np.fft.rfftn(field, axes=_AXES).astype(np.complex64, copy=False)


def inverse_transform(modes: Modes, cells_per_side: int) -> NDArray[np.float32]:
    """Return the real field, shape (n, n, n), of modes."""
    field = np.fft.irfftn(modes, s=(cells_per_side,) * 3, axes=_AXES)
    return field.astype(np.float32, copy=False)


def smooth_modes(modes: Modes, cells_per_side: int, radius_cells: float) -> Modes:
    """Return the modes of a field averaged over spheres."""
    window = top_hat_window(mode_wavenumbers(Mesh(cells_per_side)) * radius_cells)
    return modes * window.astype(np.float32)[squared_frequencies(cells_per_side)]


def _frequencies(cells_per_side: int) -> NDArray[np.float64]:
    frequencies: NDArray[np.float64] = np.rint(np.fft.fftfreq(cells_per_side) * cells_per_side)
    return frequencies
