"""Statistical checks that fields are what they are said to be."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ionstore.cube.mesh import Array
from ionstore.ingest.coarse_field import COARSE_CELLS, CoarseField, block_means

_FEWEST_CELLS = 16  # a side; fewer leave too few shifts that are far from each other
_FAR = 0.25  # of a side; copies shifted by this much are as good as unrelated

# 10,000 pairs of unrelated random fields, smooth or ragged, correlate by up to 4.3 times the
# scatter and 1.3 times the largest value among shifted copies. Density and ionized fraction of
# simulations do by 8.6 times (32³ cells, redshift 7) to 129 times the scatter (200³ cells), and by
# at least 2.6 times the largest value.
_SCATTERS = 6.0
_LARGEST = 1.5
_WEAKEST = 0.1

# Two fields that correlate still do by up to 0.21 of that when the axes of one are permuted: if
# these are reversed, for example, cells near the plane x = z stay where they were.
_LOST = 1 / 3

_Axes = tuple[int, int, int]
_REVERSED: _Axes = (2, 1, 0)
_GIVEN: _Axes = (0, 1, 2)
_OTHER_ORDERS: tuple[_Axes, ...] = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), _REVERSED)

# At the ends of reionization, a neutral fraction cannot be distinguished from an ionized one: the
# last neutral cells of an ionized box are its densest gas, or its voids.
_MEAN_XHII = (0.1, 0.9)
_LEAST_STD_XHII = 0.1

# Values that are all below this are a gas density in g/cm3, not an ionized fraction: recombination
# leaves 1e-4 of the hydrogen ionized in the cosmic mean, and gas of 1e-20 g/cm3, thousands of atoms
# in a cm3, fills no cell of a cosmological box.
_LEAST_XHII = 1e-20

# Inside ionized bubbles xHII is 1, and few cells are just below; values of other fields thin out
# toward their largest.
_NEARLY_ONE = 0.99
_JUST_BELOW = 0.98
_FEWEST_AT_ONE = 0.001  # of the cells
_PILED_UP = 3.0
_ROUNDING = 1e-6  # of float32 near 1
_MANY_ZEROS = 0.1  # of the cells

_INSTEAD = {
    "n_igm": "the gas density",
    "n_src": "the numbers or masses of sources",
    "xhii": "the ionized fraction",
}

_TRACERS = ("n_igm", "n_src", "src_mass")
_MEAN_OF_RELATIVE_DENSITY = 0.01

# A list made for a mesh of half the cells a side fills one octant. Fifty sources that are equally
# likely in all octants fall into the first one by chance once in 8**50.
_FEWEST_OCCUPIED = 50
_PART_OF_THE_BOX = 0.5


@dataclass(frozen=True, slots=True)
class Correlation:
    """Correlation of two fields, compared with that of copies that are shifted."""

    r: float  # Pearson's, over all cells
    # Root mean square and largest magnitude over all periodic shifts by a quarter of the box or
    # more.
    scatter: float
    largest: float

    @property
    def significance(self) -> float:
        """The correlation in units of its scatter, with its sign."""
        return self.r / max(self.scatter, np.finfo(np.float64).tiny)

    @property
    def is_decisive(self) -> bool:
        """True if the correlation is far outside of those of shifted copies."""
        return abs(self.r) >= max(_WEAKEST, _SCATTERS * self.scatter, _LARGEST * self.largest)

    def in_words(self) -> str:
        """Return the numbers for people."""
        times = abs(self.significance)
        return f"{self.r:.2f}, {times:.0f} times its scatter among shifted copies of the fields"


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A field with values that are implausible for it."""

    # One of them is wrong; if the user trusts any of them, all are taken as they are.
    fields: tuple[str, ...]
    sentence: str


def find_contradictions(fields: Mapping[str, Array]) -> tuple[Contradiction, ...]:
    """Return the contradictions among fields of one cube, indexed [x, y, z]; none if undecided.

    Fields of more than 64 cells a side are averaged to that; takes about 0.1 s for three fields.
    """
    coarse = {
        name: _Field(name, block_means(values, COARSE_CELLS)) for name, values in fields.items()
    }
    found = [
        *(_looks_like_another(field) for field in coarse.values()),
        _looks_relative(coarse["n_igm"].values) if "n_igm" in coarse else None,
        _fills_an_octant(coarse["n_src"].values) if "n_src" in coarse else None,
        _looks_neutral(coarse) if "xhii" in coarse else None,
        *_written_in_another_order(tuple(coarse.values())),
    ]
    return tuple(contradiction for contradiction in found if contradiction is not None)


def correlate(one: Array, other: Array) -> Correlation | None:
    """Return the correlation of two periodic fields of one mesh; None if nothing is to decide.

    That is where a field is constant, or has fewer than 16 cells a side.
    """
    if one.shape != other.shape:
        raise ValueError(f"one and other must share a mesh, got {one.shape} and {other.shape}")
    return _correlation(_Field("one", one), _Field("other", other), _GIVEN)


class _Field:
    """A field with its Fourier transforms, each computed once."""

    def __init__(self, name: str, values: Array) -> None:
        self.name = name
        self.values = values.astype(np.float64)
        # In units of the largest value: squares of a density in g/cm3 would underflow.
        largest = float(np.abs(self.values).max())
        deviations = self.values / largest if largest else self.values
        deviations = deviations - deviations.mean()
        std = float(deviations.std())
        # Variation within the rounding to float32 is no structure.
        self.varies = std > float(np.finfo(np.float32).eps)
        self._standardized = deviations / std if self.varies else deviations
        self.transform = cache(self._transform)

    @property
    def can_tell(self) -> bool:
        """True if shifted copies of it can be distinguished."""
        return self.varies and len(self.values) >= _FEWEST_CELLS

    def r(self, other: Self, axes: _Axes) -> float:
        """Return the correlation with another field whose axes are permuted."""
        product = self._standardized * other._standardized.transpose(axes)
        return float(product.mean())

    def _transform(self, axes: _Axes) -> NDArray[np.complex128]:
        transform: NDArray[np.complex128] = np.fft.rfftn(self._standardized.transpose(axes))
        return transform


def _correlation(one: _Field, other: _Field, axes: _Axes) -> Correlation | None:
    """Return the correlation with the other field, whose axes are permuted."""
    # Significance comes from shifted copies of the same fields, since no formula knows their
    # structure (Lotwick and Silverman 1982, tests by periodic shifts). The correlation at all
    # shifts at once is irfft(conj(rfft(a)) rfft(b)) of standardized fields.
    if not (one.can_tell and other.can_tell):
        return None
    product = one.transform(_GIVEN).conj() * other.transform(axes)
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


def _looks_like_another(field: _Field) -> Contradiction | None:
    """Recognize a field that was mistaken for another by the range of its values."""
    name, values = field.name, field.values
    if name not in _INSTEAD or not field.varies:
        return None
    least, largest = float(values.min()), float(values.max())
    at_one = np.count_nonzero(values >= _NEARLY_ONE)
    below = np.count_nonzero((values >= _JUST_BELOW) & (values < _NEARLY_ONE))
    is_integral = bool((values == np.rint(values)).all())
    is_fraction = (
        least >= 0
        and largest <= 1 + _ROUNDING
        and not is_integral
        and values.std() >= _LEAST_STD_XHII
        and at_one >= max(_FEWEST_AT_ONE * values.size, _PILED_UP * below, 2)
    )
    zeros = np.count_nonzero(values == 0) / values.size
    said = None
    if name == "xhii" and least >= 0 and largest <= _LEAST_XHII:
        said = f"is nowhere above {largest:.2g}, like a gas density in g/cm3"
    elif name == "n_src" and least > 0 and largest <= _LEAST_XHII:
        said = f"lies between {least:.2g} and {largest:.2g} everywhere, like a gas density in g/cm3"
    elif is_fraction and (name == "n_igm" or (name == "n_src" and least > 0)):
        said = (
            f"lies between {least:.2g} and {largest:.2g} and near 1 in {at_one / values.size:.1%} "
            "of its cells, like an ionized fraction"
        )
    elif name == "n_igm" and is_integral and least >= 0 and zeros >= _MANY_ZEROS:
        said = (
            f"is a whole number everywhere, and 0 in {zeros:.0%} of its cells, like counts of "
            "sources"
        )
    if said is None:
        return None
    return Contradiction(
        (name,), f"{name} {said}; give {_INSTEAD[name]}, or --trust {name} to take it as it is"
    )


def _looks_relative(n_igm: CoarseField) -> Contradiction | None:
    """Recognize a density that is divided by its mean."""
    # A density with negative values, as overdensities have, is refused when it is read.
    least, mean = float(n_igm.min()), float(n_igm.mean())
    if least >= 0 and abs(mean - 1) <= _MEAN_OF_RELATIVE_DENSITY and least < n_igm.max():
        return Contradiction(
            ("n_igm",),
            f"n_igm has a mean of {mean:.4f}: this is a density divided by its mean; give the "
            "density itself in g/cm3, or --trust n_igm to take it as it is",
        )
    return None


def _fills_an_octant(n_src: CoarseField) -> Contradiction | None:
    """Recognize sources of a coarser mesh: all are in the first octant of the box."""
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
        f"{z:.2f}) of its sides, as those of a coarser mesh do; give sources on the mesh of "
        "the other fields, or --trust n_src to take them as they are",
    )


def _looks_neutral(fields: Mapping[str, _Field]) -> Contradiction | None:
    """Recognize a neutral fraction, which falls where density and sources rise."""
    xhii = fields["xhii"]
    low, high = _MEAN_XHII
    if not low <= xhii.values.mean() <= high or xhii.values.std() < _LEAST_STD_XHII:
        return None
    correlations = {
        name: correlation
        for name in _TRACERS
        if name in fields
        and (correlation := _correlation(fields[name], xhii, _GIVEN)) is not None
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
    """Two fields as given and, if it may be decisive, with the axes of the second permuted."""

    names: tuple[str, str]
    given: Correlation
    axes: _Axes
    permuted: Correlation | None

    @classmethod
    def of(cls, one: _Field, other: _Field) -> Self | None:
        """Return the pair, None if nothing is to decide."""
        given = _correlation(one, other, _GIVEN)
        if given is None:
            return None
        strengths = {axes: abs(one.r(other, axes)) for axes in _OTHER_ORDERS}
        axes = max(strengths, key=lambda axes: strengths[axes])
        # Transforms of permuted fields are computed only if the outcome may be decisive.
        is_lost = abs(given.r) <= _LOST * strengths[axes] and strengths[axes] >= _WEAKEST
        permuted = _correlation(one, other, axes) if is_lost else None
        return cls((one.name, other.name), given, axes, permuted)

    @property
    def agrees(self) -> bool:
        """True if the fields vary together as they are given."""
        return self.given.is_decisive and not self.disagrees

    @property
    def disagrees(self) -> bool:
        """True if the fields vary together only if the axes of one are permuted."""
        return self.permuted is not None and self.permuted.is_decisive

    def order_of(self, name: str) -> _Axes:
        """Return the axes by which one field must be transposed to fit the other."""
        x, y, z = self.axes if name == self.names[1] else np.argsort(self.axes).tolist()
        return x, y, z


def _written_in_another_order(fields: tuple[_Field, ...]) -> list[Contradiction]:
    """Recognize fields whose axes are in another order than those of the others."""
    pairs = [pair for two in combinations(fields, 2) if (pair := _Pair.of(*two)) is not None]
    standing = {field.name: 0 for field in fields}
    for pair in pairs:
        for name in pair.names:
            standing[name] += pair.agrees - pair.disagrees
    found: dict[tuple[str, ...], tuple[_Pair, Correlation]] = {}
    for pair in pairs:
        if pair.permuted is not None and pair.disagrees:
            # The wrong field is the one that fewer others agree with; in a draw, it may be either.
            worst = min(standing[name] for name in pair.names)
            suspects = tuple(name for name in pair.names if standing[name] == worst)
            before = found.get(suspects)
            if before is None or abs(pair.permuted.r) > abs(before[1].r):
                found[suspects] = pair, pair.permuted
    return [_another_order(suspects, *strongest) for suspects, strongest in found.items()]


def _another_order(suspects: tuple[str, ...], pair: _Pair, permuted: Correlation) -> Contradiction:
    first, second = pair.names
    moved = suspects[0] if len(suspects) == 1 else second
    if pair.axes == _REVERSED:
        how = "the axes of one are reversed"
    else:
        how = f"the axes of {moved} are permuted by transpose{pair.order_of(moved)}"
    what = suspects[0] if len(suspects) == 1 else "one of them"
    trust = " or ".join(f"--trust {name}" for name in suspects)
    return Contradiction(
        suspects,
        f"{first} and {second} hardly correlate ({pair.given.r:.2f}) until {how} "
        f"({permuted.in_words()}): {what} is in another axis order; write it as [x, y, z], or "
        f"{trust} to take it as it is",
    )
