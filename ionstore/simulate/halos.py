"""Halos that form from the matter of a cell: conditional Press-Schechter, then Poisson."""

import math
from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ionstore.cube.cosmology import growth_factor, matter_density
from ionstore.simulate.linear_field import LinearSpectrum

CRITICAL_OVERDENSITY = 1.686  # of spherical collapse, linear theory
_ST_AMPLITUDE, _ST_A, _ST_P = 0.3222, 0.707, 0.3  # Sheth & Tormen 1999
_ERFC = np.frompyfunc(math.erfc, 1, 1)


def mass_radius(spectrum: LinearSpectrum, mass_msun: float) -> float:
    """Return the radius in cMpc of a sphere that has a mass at the mean density."""
    volume = mass_msun / matter_density(spectrum.cosmology)
    return math.cbrt(3 * volume / (4 * math.pi))


@dataclass(frozen=True, slots=True)
class HaloModel:
    """Mean number of halos that form from regions of given mass and linear overdensity.

    The conditional mass function of Bond et al. 1991, ApJ 379, 440, scaled to the mean abundance of
    Sheth & Tormen 1999, MNRAS 308, 119, as Barkana & Loeb 2004, ApJ 609, 474 propose.
    """

    spectrum: LinearSpectrum  # at redshift 0
    min_mass_msun: float
    region_mass_msun: float  # several times the smallest halo
    region_variance: float  # of the overdensity of the regions at redshift 0
    _masses: NDArray[np.float64] = field(init=False, repr=False)
    _variances: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        masses = np.geomspace(self.min_mass_msun, self.region_mass_msun, 201)
        sigmas = [self.spectrum.sigma(mass_radius(self.spectrum, float(mass))) for mass in masses]
        variances = np.square(sigmas)
        # Halos form where smaller spheres vary more than the region that they are in; closer to its
        # mass the widths below would vanish.
        varied = variances > 1.001 * self.region_variance
        if not varied.any():
            raise ValueError(
                f"region_mass_msun {self.region_mass_msun:.3g} of variance "
                f"{self.region_variance:.3g} must exceed min_mass_msun {self.min_mass_msun:.3g}"
            )
        object.__setattr__(self, "_masses", masses[varied])
        object.__setattr__(self, "_variances", variances[varied])

    def mean_abundance(self, redshift: float) -> float:
        """Return the mean number of halos per Msun of matter."""
        # Sheth & Tormen 1999, equation 10: n = ∫ F(ν) dν / M with ν = δ_c / (D σ(M)) and
        # F = A sqrt(2a/π) [1 + (a ν²)^-p] exp(-a ν²/2).
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
        """Return linear overdensities at redshift 0, and halos per Msun of matter at each.

        The overdensities ascend; the mean over Gaussian regions is `mean_abundance`.
        """
        # Bond et al. 1991: n = ∫ dF / M with F(>M) = erfc((b - δ) / sqrt(2 (σ²(M) - σ²_region))).
        # The barrier is b = sqrt(a) δ_c / D: with the a of Sheth & Tormen, halos cluster as theirs
        # do, and less than those of Press & Schechter.
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
        # Regions that are about to collapse as a whole have few but large halos. As sources they
        # must count no less than emptier regions, so the abundance never falls.
        abundances = np.maximum.accumulate((-np.diff(above, axis=1) / middle).sum(axis=1))
        # Barkana & Loeb 2004: scaled so that the mean over all regions is that of Sheth & Tormen.
        weights = np.exp(-0.5 * (overdensities / sigma) ** 2)
        mean = float((abundances * weights).sum() / weights.sum())
        scale = self.mean_abundance(redshift) / mean if mean > 0 else 0.0
        return overdensities, abundances * scale


def draw_halo_counts(means: NDArray[np.float64], normals: NDArray[np.float32]) -> NDArray[np.int64]:
    """Draw Poisson counts from their means and standard normal numbers."""
    # A normal number says how rare the count is. With the same ones, counts never fall when their
    # means rise: halos stay from one redshift to the next.
    counts = np.empty(means.shape, dtype=np.int64)
    _draw_counts(means.reshape(-1), normals.reshape(-1), counts.reshape(-1))
    return counts


@njit(cache=True, nogil=True)
def _poisson_quantile(mean: float, normal: float) -> int:
    """Return the Poisson count that is as rare as a standard normal number."""
    if mean > 60.0:
        # Cornish-Fisher expansion: within one count, where summing terms would take long.
        count = mean + math.sqrt(mean) * normal + (normal * normal - 1) / 6
        return max(0, math.floor(count + 0.5))
    rank = 0.5 * math.erfc(-normal / math.sqrt(2.0))
    term = math.exp(-mean)
    below = term
    result = 0
    while rank > below and result < 1000:  # bounded: rounding may keep the sum below a rank near 1
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
