"""How many halos form from the matter of a cell: conditional Press-Schechter, then Poisson."""

import math
from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ionstore.cube.cosmology import growth_factor, matter_density
from ionstore.simulate.linear_field import LinearSpectrum

CRITICAL_OVERDENSITY = 1.686  # of spherical collapse, linear theory
_ST_AMPLITUDE, _ST_A, _ST_P = 0.3222, 0.707, 0.3
_ERFC = np.frompyfunc(math.erfc, 1, 1)


def mass_radius(spectrum: LinearSpectrum, mass_msun: float) -> float:
    """Return the comoving radius in cMpc of the sphere that holds a mass at the mean density."""
    volume = mass_msun / matter_density(spectrum.cosmology)
    return math.cbrt(3 * volume / (4 * math.pi))


@dataclass(frozen=True, slots=True)
class HaloModel:
    """Mean number of halos that form from regions of given mass and linear overdensity.

    Parameters
    ----------
    spectrum : LinearSpectrum
        Spectrum at redshift 0.
    min_mass_msun : float
        Smallest halo mass, Msun, > 0.
    region_mass_msun : float
        Mass of the regions whose overdensity is known, Msun; several times the smallest halo.
    region_variance : float
        Variance of that overdensity at redshift 0.

    Raises
    ------
    ValueError
        If no halo mass varies more than the regions: they are smaller than the halos.

    References
    ----------
    Bond et al. 1991, ApJ 379, 440 (conditional mass function); Sheth & Tormen 1999, MNRAS
    308, 119, equation 10 (mean abundance); Barkana & Loeb 2004, ApJ 609, 474 (the one scaled to
    the other).
    """

    spectrum: LinearSpectrum
    min_mass_msun: float
    region_mass_msun: float
    region_variance: float
    _masses: NDArray[np.float64] = field(init=False, repr=False)
    _variances: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        masses = np.geomspace(self.min_mass_msun, self.region_mass_msun, 201)
        sigmas = [self.spectrum.sigma(mass_radius(self.spectrum, float(mass))) for mass in masses]
        variances = np.square(sigmas)
        varied = variances > 1.001 * self.region_variance
        if not varied.any():
            raise ValueError(
                f"region_mass_msun {self.region_mass_msun:.3g} of variance "
                f"{self.region_variance:.3g} must exceed min_mass_msun {self.min_mass_msun:.3g}"
            )
        object.__setattr__(self, "_masses", masses[varied])
        object.__setattr__(self, "_variances", variances[varied])

    def mean_abundance(self, redshift: float) -> float:
        """Return the mean number of halos per Msun of matter.

        Notes
        -----
        ``n = ∫ F(ν) dν / M`` with ``ν = δ_c / (D σ(M))`` and ``F = A sqrt(2a/π)
        [1 + (a ν²)^-p] exp(-a ν²/2)``, where A = 0.3222, a = 0.707, p = 0.3.
        """
        masses = self.min_mass_msun * np.geomspace(1.0, 1e7, 281)
        sigmas = [self.spectrum.sigma(mass_radius(self.spectrum, float(mass))) for mass in masses]
        growth = growth_factor(self.spectrum.cosmology, redshift)
        nu = CRITICAL_OVERDENSITY / growth / np.array(sigmas)
        density = (
            _ST_AMPLITUDE
            * math.sqrt(2 * _ST_A / math.pi)
            * (1 + (_ST_A * nu**2) ** -_ST_P)
            * np.exp(-_ST_A * nu**2 / 2)
        )
        return float(np.trapezoid(density / masses, nu))

    def conditional_abundance(
        self, redshift: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return halos per Msun of matter as a function of linear overdensity.

        Parameters
        ----------
        redshift : float
            Not below 0.

        Returns
        -------
        overdensities : ndarray of float64, shape (points,)
            Linear overdensity of a region at redshift 0, ascending.
        abundances : ndarray of float64, shape (points,)
            Halos per Msun, never falling; their mean over Gaussian regions is
            `mean_abundance`.

        Notes
        -----
        ``n = ∫ dF / M`` with ``F(>M) = erfc((b - δ) / sqrt(2 (σ²(M) - σ²_region)))`` and
        ``b = sqrt(a) δ_c / D``: with the ``a`` of Sheth & Tormen in the barrier, halos cluster
        as theirs do, and less than those of Press & Schechter.
        """
        growth = growth_factor(self.spectrum.cosmology, redshift)
        barrier = math.sqrt(_ST_A) * CRITICAL_OVERDENSITY / growth
        sigma = math.sqrt(self.region_variance)
        overdensities = np.linspace(-8 * sigma, 8 * sigma, 801)
        distance = np.maximum(barrier - overdensities, 0.0)[:, None]
        widths = np.sqrt(2 * (self._variances - self.region_variance))
        above = np.array(_ERFC(distance / widths), dtype=np.float64)  # (overdensity, mass)
        above = np.append(above, np.zeros_like(distance), axis=1)
        middle = np.sqrt(self._masses[1:] * self._masses[:-1])
        middle = np.append(middle, self._masses[-1])
        # Regions about to collapse as a whole hold few but large halos; as sources they count
        # no less than emptier regions.
        abundances = np.maximum.accumulate((-np.diff(above, axis=1) / middle).sum(axis=1))
        weights = np.exp(-0.5 * (overdensities / sigma) ** 2)
        mean = float((abundances * weights).sum() / weights.sum())
        scale = self.mean_abundance(redshift) / mean if mean > 0 else 0.0
        return overdensities, abundances * scale


def draw_halo_counts(means: NDArray[np.float64], normals: NDArray[np.float32]) -> NDArray[np.int64]:
    """Draw Poisson counts that never fall when their means rise.

    Parameters
    ----------
    means : ndarray of float64, any shape
        Mean counts, >= 0.
    normals : ndarray of float32, same shape
        Standard normal numbers: how rare each count is. The same ones at two redshifts give
        halos that stay.

    Returns
    -------
    ndarray of int64, same shape
    """
    counts = np.empty(means.shape, dtype=np.int64)
    _draw_counts(means.reshape(-1), normals.reshape(-1), counts.reshape(-1))
    return counts


@njit(cache=True, nogil=True)
def _poisson_quantile(mean: float, normal: float) -> int:
    """Return the Poisson count that is as rare as a standard normal number."""
    if mean > 60.0:
        # Cornish-Fisher: off by less than one count, while summing terms would take long.
        count = mean + math.sqrt(mean) * normal + (normal * normal - 1) / 6
        return max(0, math.floor(count + 0.5))
    rank = 0.5 * math.erfc(-normal / math.sqrt(2.0))
    term = math.exp(-mean)
    below = term
    result = 0
    while rank > below and result < 1000:  # rounding may keep the sum below a rank near 1
        result += 1
        term *= mean / result
        below += term
    return result


@njit(cache=True, nogil=True)
def _draw_counts(
    means: NDArray[np.float64], normals: NDArray[np.float32], out: NDArray[np.int64]
) -> None:
    for cell in range(out.size):
        out[cell] = _poisson_quantile(means[cell], normals[cell])
