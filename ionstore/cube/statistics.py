"""Statistics of a field that can be gathered block by block and merged."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numba import njit

from ionstore.cube.mesh import Array


@dataclass(frozen=True, slots=True)
class FieldStatistics:
    """Count, mean, M2, minimum and maximum of a set of values, all in float64.

    Parameters
    ----------
    count : int
        Number of values.
    mean : float
        Their mean, in the unit of the field.
    m2 : float
        Sum of squared deviations from the mean.
    min, max : float
        Smallest and largest value.
    """

    count: int
    mean: float
    m2: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Array) -> Self:
        """Return the statistics of an array; raise ValueError for an empty one."""
        # Two passes in float64: squares of densities in g/cm3 underflow float32.
        if values.size == 0:
            raise ValueError("values must hold at least one, got none")
        flat = values.ravel()
        mean = sum_in_float64(flat) / flat.size
        return cls(
            flat.size, mean, _sum_of_squares(flat, mean), float(flat.min()), float(flat.max())
        )

    @property
    def variance(self) -> float:
        """Population variance."""
        return self.m2 / self.count

    def merge(self, other: Self) -> Self:
        """Return the statistics of both sets together.

        References
        ----------
        Chan, Golub, LeVeque 1979, Updating formulae and a pairwise algorithm for computing
        sample variances, equation 2.1.
        """
        count = self.count + other.count
        delta = other.mean - self.mean
        return type(self)(
            count,
            self.mean + delta * other.count / count,
            self.m2 + other.m2 + delta**2 * self.count * other.count / count,
            min(self.min, other.min),
            max(self.max, other.max),
        )


def sum_in_float64(values: Array) -> float:
    """Return the sum of values, shape (n,), of any real dtype, without a copy in float64."""
    return float(_sum(values))


# Sums in vectors: the order of their terms, and so their last digits, are up to the compiler.
@njit(nogil=True, cache=True, fastmath={"reassoc"})
def _sum(values: Array) -> float:
    total = 0.0
    for index in range(values.size):
        total += np.float64(values[index])
    return total


@njit(nogil=True, cache=True, fastmath={"reassoc"})
def _sum_of_squares(values: Array, mean: float) -> float:
    """Sum the squares of deviations from the mean."""
    total = 0.0
    for index in range(values.size):
        deviation = np.float64(values[index]) - mean
        total += deviation * deviation
    return total
