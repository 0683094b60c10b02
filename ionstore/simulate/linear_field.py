"""Linear overdensity on a periodic mesh: drawing it, displacing with it, smoothing it."""

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


def top_hat_window(kr: NDArray[Any]) -> NDArray[np.float64]:
    """Return the Fourier transform of a spherical top-hat of unit integral.

    Parameters
    ----------
    kr : ndarray of float, any shape
        Wavenumber times radius, dimensionless, >= 0.

    Returns
    -------
    ndarray of float64, same shape
        ``3 (sin x - x cos x) / x^3``, 1 at 0.
    """
    x = np.asarray(kr, dtype=np.float64)
    # The difference cancels below 0.01, where the series is exact to double precision.
    far = np.maximum(x, 0.01)
    near = 1 - x**2 / 10 + x**4 / 280
    return np.where(x < 0.01, near, 3 * (np.sin(far) - far * np.cos(far)) / far**3)


def transfer_no_wiggle(cosmology: Cosmology, wavenumber: NDArray[Any]) -> NDArray[np.float64]:
    """Return the matter transfer function without acoustic oscillations.

    Parameters
    ----------
    cosmology : Cosmology
        Must tell h, omega_m and omega_b.
    wavenumber : ndarray of float, any shape
        Comoving wavenumber, 1/cMpc, >= 0.

    Returns
    -------
    ndarray of float64, same shape
        Dimensionless, 1 at wavenumber 0.

    Raises
    ------
    ValueError
        If the cosmology leaves out a parameter.

    References
    ----------
    Eisenstein & Hu 1998, ApJ 496, 605, equations 26 and 28 to 31.
    """
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
    """Linear power spectrum of matter today, of amplitude `Cosmology.sigma_8`.

    Parameters
    ----------
    cosmology : Cosmology
        Must tell all of its parameters.

    Raises
    ------
    ValueError
        If the cosmology leaves out a parameter.
    """

    cosmology: Cosmology
    _amplitude: float = field(init=False, default=1.0)

    def __post_init__(self) -> None:
        h, sigma_8, _ = self.cosmology.known("h", "sigma_8", "n_s")
        raw = self.sigma(8 / h)
        object.__setattr__(self, "_amplitude", (sigma_8 / raw) ** 2)

    def power(self, wavenumber: NDArray[Any]) -> NDArray[np.float64]:
        """Return the power at redshift 0, cMpc^3.

        Parameters
        ----------
        wavenumber : ndarray of float, any shape
            Comoving wavenumber, 1/cMpc, >= 0; the power at 0 is 0.

        Returns
        -------
        ndarray of float64, same shape
            ``A k^n_s T(k)^2``.
        """
        (n_s,) = self.cosmology.known("n_s")
        k = np.asarray(wavenumber, dtype=np.float64)
        power: NDArray[np.float64] = (
            self._amplitude * k**n_s * transfer_no_wiggle(self.cosmology, k) ** 2
        )
        return power

    def sigma(self, radius_cmpc: float) -> float:
        """Return the standard deviation of the linear overdensity in spheres at redshift 0.

        Parameters
        ----------
        radius_cmpc : float
            Radius of the top-hat, cMpc, > 0.

        Notes
        -----
        ``sigma^2 = ∫ dln k k^3 P(k) W(kR)^2 / (2 π^2)`` by the trapezoidal rule.
        """
        k = _WAVENUMBERS
        integrand = k**3 * self.power(k) * top_hat_window(k * radius_cmpc) ** 2
        return math.sqrt(float(np.trapezoid(integrand, np.log(k))) / (2 * math.pi**2))


_AXES = (0, 1, 2)
Modes = NDArray[np.complex64]
"""Fourier modes of a real field, shape (n, n, n // 2 + 1), as `numpy.fft.rfftn` orders them."""


def squared_frequencies(cells_per_side: int) -> NDArray[np.int32]:
    """Return the squared length of the integer wave vector of every mode.

    Parameters
    ----------
    cells_per_side : int
        Cells along each axis of the mesh.

    Returns
    -------
    ndarray of int32, shape (n, n, n // 2 + 1)
        ``m^2``, where the wavenumber is ``2 π m / box length``.

    Notes
    -----
    The squares are small integers, so a function of the wavenumber is evaluated once for each
    integer and looked up per mode: no sine or square root per cell.
    """
    full = _frequencies(cells_per_side).astype(np.int32) ** 2
    half = np.arange(cells_per_side // 2 + 1, dtype=np.int32) ** 2
    return full[:, None, None] + full[None, :, None] + half


def mode_wavenumbers(mesh: Mesh) -> NDArray[np.float64]:
    """Return the wavenumber for every value of `squared_frequencies`, 1/cMpc.

    Returns
    -------
    ndarray of float64, shape (3 * (n // 2)**2 + 1,)
        Entry ``m2`` is ``2 π sqrt(m2) / box length``; in 1/cells where the length is unknown.
    """
    length = mesh.cells_per_side if mesh.box_length_cmpc is None else mesh.box_length_cmpc
    largest = 3 * (mesh.cells_per_side // 2) ** 2
    return 2 * np.pi / length * np.sqrt(np.arange(largest + 1, dtype=np.float64))


def draw_linear_modes(mesh: Mesh, spectrum: LinearSpectrum, rng: np.random.Generator) -> Modes:
    """Draw a Gaussian overdensity field with the given power spectrum.

    Parameters
    ----------
    mesh : Mesh
        Its box length must be known.
    spectrum : LinearSpectrum
        Spectrum at redshift 0.
    rng : numpy.random.Generator
        Source of one standard normal number per cell.

    Returns
    -------
    ndarray of complex64, shape (n, n, n // 2 + 1)
        Modes of the linear overdensity at redshift 0; the mean overdensity is exactly 0.

    Raises
    ------
    ValueError
        If the box length is unknown.

    Notes
    -----
    White noise of unit variance times ``sqrt(P(k) / cell volume)``: real by construction.
    """
    if mesh.cell_size_cmpc is None:
        raise ValueError(f"mesh must have a box length, got {mesh}")
    noise = rng.standard_normal(mesh.shape, dtype=np.float32)
    modes = forward_transform(noise)
    amplitude = np.sqrt(spectrum.power(mode_wavenumbers(mesh)) / mesh.cell_size_cmpc**3)
    modes *= amplitude.astype(np.float32)[squared_frequencies(mesh.cells_per_side)]
    return modes


def mode_variance(mesh: Mesh, spectrum: LinearSpectrum, *, radius_cmpc: float = 0.0) -> float:
    """Return the variance at redshift 0 of fields that `draw_linear_modes` draws.

    Parameters
    ----------
    mesh : Mesh
        Its box length must be known.
    spectrum : LinearSpectrum
        Spectrum at redshift 0.
    radius_cmpc : float
        Radius of a top-hat that smooths the field, cMpc; 0 for none.

    Returns
    -------
    float
        Dimensionless. The sum over the modes of the mesh, so waves longer than the box and
        shorter than two cells are left out, as in the field.

    Raises
    ------
    ValueError
        If the box length is unknown.
    """
    if mesh.box_length_cmpc is None:
        raise ValueError(f"mesh must have a box length, got {mesh}")
    n = mesh.cells_per_side
    wavenumbers = mode_wavenumbers(mesh)
    power = spectrum.power(wavenumbers) * top_hat_window(wavenumbers * radius_cmpc) ** 2
    squares = squared_frequencies(n)
    weights = np.full(n // 2 + 1, 2.0)  # a mode and its mirror image
    weights[0] = 1.0
    if n % 2 == 0:
        weights[-1] = 1.0
    total = sum(float((power[plane] @ weights).sum()) for plane in squares)
    return total / mesh.box_length_cmpc**3


def displacements(modes: Modes, cells_per_side: int) -> Iterator[NDArray[np.float32]]:
    """Yield the linear displacement along x, then y, then z, in cells.

    Parameters
    ----------
    modes : ndarray of complex64, shape (n, n, n // 2 + 1)
        Modes of the linear overdensity.
    cells_per_side : int
        Cells along each axis of the mesh.

    Yields
    ------
    ndarray of float32, shape (n, n, n)
        ``ψ`` with ``-∇·ψ = δ``, in cells: to move by at the redshift of the modes.

    References
    ----------
    Zel'dovich 1970, A&A 5, 84.
    """
    n = cells_per_side
    squares = squared_frequencies(n)
    squares[0, 0, 0] = 1  # the mean does not move
    scaled: Modes = np.divide(modes, squares.astype(np.float32), dtype=np.complex64)
    del squares
    full = _frequencies(n)
    half = np.arange(n // 2 + 1, dtype=np.float64)
    if n % 2 == 0:
        # The derivative of the wave that alternates from cell to cell vanishes at the cells.
        full[n // 2] = half[-1] = 0.0
    for axis, frequencies in enumerate((full, full, half)):
        factor = (1j * n / (2 * np.pi) * frequencies).astype(np.complex64)
        shape = [1, 1, 1]
        shape[axis] = -1
        along: Modes = scaled * factor.reshape(shape)
        yield inverse_transform(along, n)


def forward_transform(field: NDArray[np.float32]) -> Modes:
    """Return the modes of a real field of shape (n, n, n), as `numpy.fft.rfftn` gives them."""
    return np.fft.rfftn(field, axes=_AXES).astype(np.complex64, copy=False)


def inverse_transform(modes: Modes, cells_per_side: int) -> NDArray[np.float32]:
    """Return the real field, shape (n, n, n), of modes as `numpy.fft.rfftn` gives them."""
    field = np.fft.irfftn(modes, s=(cells_per_side,) * 3, axes=_AXES)
    return field.astype(np.float32, copy=False)


def smooth_modes(modes: Modes, cells_per_side: int, radius_cells: float) -> Modes:
    """Return the modes of a field averaged over spheres.

    Parameters
    ----------
    modes : ndarray of complex64, shape (n, n, n // 2 + 1)
        Modes of the field.
    cells_per_side : int
        Cells along each axis of the mesh.
    radius_cells : float
        Radius of the spheres, in cells.
    """
    window = top_hat_window(mode_wavenumbers(Mesh(cells_per_side)) * radius_cells)
    return modes * window.astype(np.float32)[squared_frequencies(cells_per_side)]


def _frequencies(cells_per_side: int) -> NDArray[np.float64]:
    frequencies: NDArray[np.float64] = np.rint(np.fft.fftfreq(cells_per_side) * cells_per_side)
    return frequencies
