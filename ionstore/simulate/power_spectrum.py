"""The linear matter power spectrum of a flat ΛCDM cosmology, smooth (no baryon wiggles)."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ionstore.cube.cosmology import Cosmology

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
