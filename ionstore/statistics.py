"""Statistics of a field that can be gathered block by block and merged."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from ionstore.cube import Array


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
        """Return the statistics of an array of at least one value.

        Raises
        ------
        ValueError
            If there is no value.

        Notes
        -----
        Two passes in float64: the squares of densities in g/cm3 underflow float32.
        """
        wide = np.asarray(values, dtype=np.float64)
        mean = float(wide.mean())
        m2 = float(np.square(wide - mean).sum())
        return cls(wide.size, mean, m2, float(wide.min()), float(wide.max()))

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
