"""Cosmological parameters that simulations and stores name."""

from dataclasses import dataclass

GRAVITATIONAL_CONSTANT_CGS = 6.67430e-8  # cm3 g-1 s-2, CODATA 2018
CM_PER_MPC = 3.0856775814913673e24  # IAU 2015


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
    return 3 * hubble_per_s**2 / (8 * 3.141592653589793 * GRAVITATIONAL_CONSTANT_CGS)
