"""Cosmological parameters that simulations and stores name."""

import math
from dataclasses import dataclass

import numpy as np

GRAVITATIONAL_CONSTANT_CGS = 6.67430e-8  # cm3 g-1 s-2, CODATA 2018
CM_PER_MPC = 3.0856775814913673e24  # IAU 2015
GRAMS_PER_MSUN = 1.988409870698051e33  # IAU 2015 nominal GM, CODATA 2018 G


@dataclass(frozen=True, slots=True)
class Cosmology:
    """A flat ΛCDM cosmology, or as much of one as a simulation tells.

    Parameters
    ----------
    name : str, optional
        Name, such as "Planck18".
    h : float, optional
        Hubble constant today in units of 100 km/s/Mpc.
    omega_m, omega_b : float, optional
        Density parameters of matter and of baryons today.
    sigma_8 : float, optional
        Linear density fluctuation in spheres of 8 Mpc/h today.
    n_s : float, optional
        Slope of the primordial power spectrum.
    """

    name: str | None = None
    h: float | None = None
    omega_m: float | None = None
    omega_b: float | None = None
    sigma_8: float | None = None
    n_s: float | None = None

    def known(self, *names: str) -> tuple[float, ...]:
        """Return the parameters of these names.

        Raises
        ------
        ValueError
            If one of them is None.
        """
        values = {name: getattr(self, name) for name in names}
        missing = [name for name, value in values.items() if value is None]
        if missing:
            raise ValueError(f"cosmology must tell {', '.join(missing)}, got {self}")
        return tuple(values.values())


PLANCK18 = Cosmology(
    "Planck18", h=0.6766, omega_m=0.30966, omega_b=0.04897, sigma_8=0.8102, n_s=0.9665
)
"""Planck Collaboration 2020, table 2, last column."""


def critical_density(h: float) -> float:
    """Return the critical density today in g/cm3, 3 H² / (8 π G).

    Examples
    --------
    >>> f"{critical_density(0.7):.3e}"
    '9.204e-30'
    """
    hubble_per_s = h * 1e7 / CM_PER_MPC  # 100 km/s/Mpc in cm/s/Mpc
    return 3 * hubble_per_s**2 / (8 * math.pi * GRAVITATIONAL_CONSTANT_CGS)


def matter_density(cosmology: Cosmology) -> float:
    """Return the comoving density of matter in Msun/cMpc3.

    Raises
    ------
    ValueError
        If the cosmology leaves out h or omega_m.

    Examples
    --------
    >>> f"{matter_density(PLANCK18):.3e}"
    '3.934e+10'
    """
    h, omega_m = cosmology.known("h", "omega_m")
    return omega_m * critical_density(h) * CM_PER_MPC**3 / GRAMS_PER_MSUN


def mean_gas_density(cosmology: Cosmology, redshift: float) -> float:
    """Return the mean proper density of baryons in g/cm3, Omega_b rho_crit (1 + z)³.

    Raises
    ------
    ValueError
        If the cosmology leaves out h or omega_b.

    Examples
    --------
    >>> f"{mean_gas_density(PLANCK18, 8.397):.3e}"
    '3.494e-28'
    """
    h, omega_b = cosmology.known("h", "omega_b")
    return omega_b * critical_density(h) * (1 + redshift) ** 3


def growth_factor(cosmology: Cosmology, redshift: float) -> float:
    """Return the growth of linear overdensities, 1 at redshift 0.

    Parameters
    ----------
    cosmology : Cosmology
        Must tell omega_m; flat, radiation left out.
    redshift : float
        Not below 0.

    Returns
    -------
    float
        ``D(z) / D(0)``, dimensionless; ``1 / (1 + z)`` where omega_m is 1.

    Raises
    ------
    ValueError
        If the cosmology leaves out omega_m.

    Notes
    -----
    ``D ∝ H(a) ∫ da / (a H)^3`` from 0 to a (Heath 1977, MNRAS 179, 351), with ``x = a^(5/2)``
    as the variable, in which the integrand is smooth and constant at early times.

    Examples
    --------
    >>> round(growth_factor(PLANCK18, 0.0), 3), round(growth_factor(PLANCK18, 8.397), 3)
    (1.0, 0.136)
    """
    (omega_m,) = cosmology.known("omega_m")

    def unnormalized(scale: float) -> float:
        x = np.linspace(0.0, scale**2.5, 2001)
        integrand = 0.4 * (omega_m + (1 - omega_m) * x**1.2) ** -1.5
        hubble = math.sqrt(omega_m / scale**3 + 1 - omega_m)
        return hubble * float(np.trapezoid(integrand, x))

    return unnormalized(1 / (1 + redshift)) / unnormalized(1.0)
