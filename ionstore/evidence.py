"""Statistical evidence that a field is not what it is said to be."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ionstore.coarse_field import COARSE_CELLS, CoarseField, block_means
from ionstore.cube import Array

_FEWEST_CELLS = 16  # a side: below, there are too few shifts far from each other
_FAR = 0.25  # of a side: copies shifted by this have forgotten where they were

# Of pairs of unrelated fields, smooth or ragged, 10,000 made at random correlate by up to 4.3 times
# the scatter and 1.3 times the largest value among shifted copies. Density and ionized fraction of
# simulations do by 8.6 times (32³ cells, redshift 7) to 129 times the scatter (200³ cells), and by
# 2.6 times the largest value or more.
_SCATTERS = 6.0
_LARGEST = 1.5
_WEAKEST = 0.1

# Where fields correlate, one of them reversed still does by up to 0.21 of that: near the plane
# x = z cells stay where they were.
_LOST = 1 / 3

# At the ends of reionization a neutral fraction cannot be told from an ionized one: what is left
# neutral in an ionized box is the densest gas, or what is left of voids.
_MEAN_XHII = (0.1, 0.9)
_LEAST_STD_XHII = 0.1

_TRACERS = ("n_igm", "n_src", "src_mass")
_MEAN_OF_RELATIVE_DENSITY = 0.01

# A list of a mesh of half the cells fills one octant. So many sources do not gather there by
# chance: where they are as likely in either half along each axis, once in 8**50.
_FEWEST_OCCUPIED = 50
_PART_OF_THE_BOX = 0.5


@dataclass(frozen=True, slots=True)
class Correlation:
    """How two fields vary together, and how copies of them that are shifted do.

    Parameters
    ----------
    r : float
        Pearson's correlation of the cells, -1 to 1.
    scatter : float
        Root mean square of the correlation over all periodic shifts of one of the fields by a
        quarter of the box or more.
    largest : float
        Largest magnitude among these.
    """

    r: float
    scatter: float
    largest: float

    @property
    def significance(self) -> float:
        """The correlation in units of its scatter, with its sign."""
        return self.r / max(self.scatter, np.finfo(np.float64).tiny)

    @property
    def is_decisive(self) -> bool:
        """Whether it is far outside of what shifted copies show."""
        return abs(self.r) >= max(_WEAKEST, _SCATTERS * self.scatter, _LARGEST * self.largest)

    def in_words(self) -> str:
        """Return the numbers for people."""
        times = abs(self.significance)
        return f"{self.r:.2f}, {times:.0f} times its scatter among shifted copies of the fields"


@dataclass(frozen=True, slots=True)
class Contradiction:
    """What the numbers of a field say against what it is said to be.

    Parameters
    ----------
    fields : tuple of str
        Fields of which one is wrong; who trusts any of them takes them as they are.
    sentence : str
        The evidence with its numbers, and how to go on.
    """

    fields: tuple[str, ...]
    sentence: str


def find_contradictions(fields: Mapping[str, Array]) -> tuple[Contradiction, ...]:
    """Return all evidence against the fields of one cube; none where nothing can be decided.

    Parameters
    ----------
    fields : mapping of str to ndarray, each of shape (n, n, n)
        Fields at one redshift by their names in a store, indexed [x, y, z], or their means over
        blocks as `BlockMeans` gives them; larger ones than 64 cells a side are averaged to that.

    Notes
    -----
    An ionized fraction that falls where density or sources rise looks like a neutral one, unless
    the box is almost neutral or almost ionized. Two fields that vary together only when the axes
    of one are reversed were written in different order. A density about 1 is relative to its mean.
    Many sources that all lie in the first octant belong to a coarser mesh. Correlations count when
    they are far outside of their scatter over all periodic shifts of the same fields, which knows
    of their structure what no formula does.

    Takes about 0.1 s for three fields.

    References
    ----------
    Lotwick, Silverman 1982, Methods for analysing spatial processes of several types of points
    (tests by periodic shifts of one field against the other).
    """
    coarse = {
        name: _Field(name, block_means(values, COARSE_CELLS)) for name, values in fields.items()
    }
    found = [
        _looks_relative(coarse["n_igm"].values) if "n_igm" in coarse else None,
        _fills_an_octant(coarse["n_src"].values) if "n_src" in coarse else None,
        _looks_neutral(coarse) if "xhii" in coarse else None,
        *_written_in_another_order(tuple(coarse.values())),
    ]
    return tuple(contradiction for contradiction in found if contradiction is not None)


def correlate(one: Array, other: Array) -> Correlation | None:
    """Return how two fields of one mesh vary together.

    Parameters
    ----------
    one, other : ndarray, shape (n, n, n)
        The fields, periodic.

    Returns
    -------
    Correlation or None
        None where there is nothing to decide: a field is constant, or has fewer than 16 cells a
        side.

    Raises
    ------
    ValueError
        If the shapes differ.

    Notes
    -----
    The correlation at all shifts s at once is ``irfft(conj(rfft(a)) rfft(b))`` of the standardized
    fields a and b, at the cost of three Fourier transforms.
    """
    if one.shape != other.shape:
        raise ValueError(f"one and other must share a mesh, got {one.shape} and {other.shape}")
    return _correlation(_Field("one", one), _Field("other", other), reverse=False)


class _Field:
    """A field with its Fourier transforms, each computed once."""

    def __init__(self, name: str, values: Array) -> None:
        self.name = name
        self.values = values.astype(np.float64)
        # In units of the largest: squares of a density in g/cm3 lose their digits or vanish.
        largest = float(np.abs(self.values).max())
        deviations = self.values / largest if largest else self.values
        deviations = deviations - deviations.mean()
        std = float(deviations.std())
        # What float32 adds to a constant is no structure.
        self.varies = std > float(np.finfo(np.float32).eps)
        self._standardized = deviations / std if self.varies else deviations
        self.transform = cache(self._transform)

    @property
    def can_tell(self) -> bool:
        """Whether shifted copies of it can be told apart."""
        return self.varies and len(self.values) >= _FEWEST_CELLS

    def _transform(self, reverse: bool) -> NDArray[np.complex128]:
        values = self._standardized
        transform: NDArray[np.complex128] = np.fft.rfftn(values.T if reverse else values)
        return transform


def _correlation(one: _Field, other: _Field, *, reverse: bool) -> Correlation | None:
    """Return the correlation, of the reversed axes of the other field if asked for."""
    if not (one.can_tell and other.can_tell):
        return None
    product = one.transform(False).conj() * other.transform(reverse)
    at_shift = np.fft.irfftn(product, one.values.shape, axes=(0, 1, 2)) / one.values.size
    far = at_shift[_far_shifts(len(one.values))]
    return Correlation(
        float(at_shift[0, 0, 0]),
        float(np.sqrt(np.square(far).mean())),
        float(np.abs(far).max()),
    )


@cache
def _far_shifts(cells: int) -> NDArray[np.bool_]:
    step = np.arange(cells)
    squares = np.minimum(step, cells - step) ** 2
    distance_squared = squares[:, None, None] + squares[:, None] + squares
    far: NDArray[np.bool_] = distance_squared >= (_FAR * cells) ** 2
    return far


def _looks_relative(n_igm: CoarseField) -> Contradiction | None:
    """Tell a density that is divided by its mean; negative ones are refused where they are read."""
    least, mean = float(n_igm.min()), float(n_igm.mean())
    if least >= 0 and abs(mean - 1) <= _MEAN_OF_RELATIVE_DENSITY and least < n_igm.max():
        return Contradiction(
            ("n_igm",),
            f"n_igm has a mean of {mean:.4f}: this is a density divided by its mean; give the "
            "density itself in g/cm3, or --trust n_igm to take it as it is",
        )
    return None


def _fills_an_octant(n_src: CoarseField) -> Contradiction | None:
    """Tell sources of a coarser mesh: all of them lie in the first octant of the box."""
    occupied = np.argwhere(n_src != 0)
    if len(occupied) < _FEWEST_OCCUPIED:
        return None
    parts = (occupied.max(axis=0) + 1) / len(n_src)
    if parts.max() > _PART_OF_THE_BOX:
        return None
    x, y, z = parts
    return Contradiction(
        ("n_src",),
        f"all sources of n_src lie in one octant of the box, the farthest at ({x:.2f}, {y:.2f}, "
        f"{z:.2f}) of its sides, as those of a coarser mesh do; give the sources of the mesh of "
        "the other fields, or --trust n_src to take them as they are",
    )


def _looks_neutral(fields: Mapping[str, _Field]) -> Contradiction | None:
    """Tell a neutral fraction by what it does where density and sources are."""
    xhii = fields["xhii"]
    low, high = _MEAN_XHII
    if not low <= xhii.values.mean() <= high or xhii.values.std() < _LEAST_STD_XHII:
        return None
    correlations = {
        name: correlation
        for name in _TRACERS
        if name in fields
        and (correlation := _correlation(fields[name], xhii, reverse=False)) is not None
        and correlation.is_decisive
    }
    if not correlations or any(correlation.r > 0 for correlation in correlations.values()):
        return None
    name = min(correlations, key=lambda tracer: correlations[tracer].significance)
    return Contradiction(
        ("xhii",),
        f"xhii falls where {name} rises, like a neutral fraction: their correlation is "
        f"{correlations[name].in_words()}; give the ionized fraction, or --trust xhii if it is one",
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two fields, as they are given and with the axes of the second reversed."""

    names: tuple[str, str]
    given: Correlation
    reverse: Correlation

    @classmethod
    def of(cls, one: _Field, other: _Field) -> Self | None:
        """Return the pair, None where it tells nothing."""
        given = _correlation(one, other, reverse=False)
        if given is None:
            return None
        reverse = _correlation(one, other, reverse=True)
        assert reverse is not None  # it depends on the fields alone
        return cls((one.name, other.name), given, reverse)

    @property
    def agrees(self) -> bool:
        """Whether the fields vary together as they are given."""
        return self.given.is_decisive and not self.disagrees

    @property
    def disagrees(self) -> bool:
        """Whether they vary together only when one is reversed."""
        return self.reverse.is_decisive and abs(self.given.r) <= _LOST * abs(self.reverse.r)


def _written_in_another_order(fields: tuple[_Field, ...]) -> list[Contradiction]:
    """Tell fields in Fortran order from others in C order."""
    pairs = [pair for two in combinations(fields, 2) if (pair := _Pair.of(*two)) is not None]
    standing = {field.name: 0 for field in fields}
    for pair in pairs:
        for name in pair.names:
            standing[name] += pair.agrees - pair.disagrees
    found: dict[tuple[str, ...], _Pair] = {}
    for pair in pairs:
        if pair.disagrees:
            # The wrong one is that which the others speak against, either where none is.
            worst = min(standing[name] for name in pair.names)
            suspects = tuple(name for name in pair.names if standing[name] == worst)
            before = found.get(suspects)
            if before is None or abs(pair.reverse.r) > abs(before.reverse.r):
                found[suspects] = pair
    return [_another_order(suspects, pair) for suspects, pair in found.items()]


def _another_order(suspects: tuple[str, ...], pair: _Pair) -> Contradiction:
    first, second = pair.names
    what = suspects[0] if len(suspects) == 1 else "one of them"
    trust = " or ".join(f"--trust {name}" for name in suspects)
    return Contradiction(
        suspects,
        f"{first} and {second} hardly correlate ({pair.given.r:.2f}) until the axes of one are "
        f"reversed ({pair.reverse.in_words()}): {what} is in another axis order; write it as "
        f"[x, y, z], or {trust} to take it as it is",
    )
