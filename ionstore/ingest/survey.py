"""The first pass over a simulation: digests, ranges, and all that would make it unfit to ingest."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ionstore.cube.fields import RANGES
from ionstore.cube.mesh import Array, Mesh
from ionstore.cube.statistics import sum_in_float64
from ionstore.errors import SourceDataError
from ionstore.readers.base import FieldSource, Simulation
from ionstore.storage.digest import in_words, start_digest
from ionstore.store.metadata import SourceFile

XHII_TOLERANCE = 1e-6
_SLICE_CELLS = 1 << 16
_NON_NEGATIVE = {"n_igm": "a gas density", "n_src": "a number or mass of sources"}


@dataclass(frozen=True, slots=True)
class SourceSurvey:
    """What one pass over the values of a field at a redshift found.

    Parameters
    ----------
    file : SourceFile
        The file, with size and digest.
    modified_ns : int
        When the file was last changed, nanoseconds.
    min, max, mean : float
        Of the values as float32, the mean summed in float64.
    n_zeros : int
        Cells that are exactly zero.
    n_clipped : int
        Ionized fractions outside of 0 to 1 by rounding, to be clipped.
    integral : bool
        Whether all values are whole numbers.
    """

    file: SourceFile
    modified_ns: int
    min: float
    max: float
    mean: float
    n_zeros: int
    n_clipped: int
    integral: bool


def check_shapes(simulation: Simulation) -> Mesh:
    """Return the mesh that all cubes of a simulation share, its box length still open.

    Raises
    ------
    SourceDataError
        If a cube is not three-dimensional, not cubic, or not of the shape of the others.
    """
    first: FieldSource | None = None
    for redshift in simulation.redshifts:
        for cubes in simulation.cubes.values():
            source = cubes[redshift]
            shape = source.shape
            if len(shape) != 3 or len(set(shape)) != 1 or shape[0] < 1:
                raise SourceDataError(
                    f"{source.path}: expected a cube of shape (n, n, n), got {shape}; "
                    "cut or reshape it"
                )
            first = first or source
            if shape != first.shape:
                raise SourceDataError(
                    f"{source.path}: expected the shape {first.shape} of {first.path.name}, "
                    f"got {shape}; all cubes must share one mesh"
                )
    assert first is not None  # a simulation has at least one cube
    return Mesh(first.shape[0])


def survey_source(
    field: str,
    source: FieldSource,
    *,
    spool: Path | None = None,
    on_values: Callable[[Array], object] = lambda values: None,
) -> SourceSurvey:
    """Read all values of a source once, check them, and digest the file.

    Parameters
    ----------
    field : str
        Name of the field.
    source : FieldSource
        Its values at one redshift.
    spool : Path, optional
        Where to keep the values of a source that cannot be cut into blocks.
    on_values : callable
        Called with each piece of the values, flat and in the order of the file.

    Raises
    ------
    SourceDataError
        If values are not finite, leave float32, or are out of the range of their field.
    OSError
        If the file cannot be read.

    Notes
    -----
    Memory is bounded by the pieces of the stream, about 8 MB and their temporaries.
    """
    digest = start_digest()
    tally = _Tally(field)
    before = source.path.stat()
    with spool.open("wb") if spool else nullcontext() as spooled:
        for values in source.stream(digest.update):
            if spooled is not None:
                spooled.write(values.data)
            tally.add(values)
            on_values(values)
    tally.check(field, source.path)
    return SourceSurvey(
        SourceFile(
            name=source.path.name,
            size_bytes=before.st_size,
            digest=in_words(digest),
        ),
        before.st_mtime_ns,
        tally.min,
        tally.max,
        tally.sum / tally.count,
        tally.n_zeros,
        tally.n_outside,
        tally.integral,
    )


def check_unchanged(source: FieldSource, survey: SourceSurvey) -> None:
    """Check that a file is still the one that was surveyed.

    Raises
    ------
    SourceDataError
        If it has been written since.
    OSError
        If it is gone.
    """
    now = source.path.stat()
    if (now.st_size, now.st_mtime_ns) != (survey.file.size_bytes, survey.modified_ns):
        raise SourceDataError(
            f"{source.path}: the file changed while it was ingested; "
            "run the same command again once it is complete"
        )


class _Tally:
    """Running range and counts of the pieces of a stream."""

    def __init__(self, field: str) -> None:
        self._field = field
        self.count = self.n_zeros = self.n_outside = self.n_not_finite = 0
        self.sum = 0.0
        self.min, self.max = np.inf, -np.inf
        self.integral = True
        self.overflow: float | None = None

    def add(self, values: Array) -> None:
        """Take in a piece."""
        # Slice by slice: each stays in the cache of the processor while it is looked at.
        for first in range(0, values.size, _SLICE_CELLS):
            self._add(values[first : first + _SLICE_CELLS])

    def _add(self, values: Array) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # of NaN that signal
            single = values.astype(np.float32, copy=False)
        n_not_finite = _count_not_finite(single.view(np.uint32))
        if n_not_finite:
            finite = np.isfinite(single)
            lost = ~finite & np.isfinite(values)
            if lost.any():
                self.overflow = float(values[lost][0])
            self.n_not_finite += n_not_finite
            single = single[finite]
        if single.size == 0:
            return
        low, high = float(single.min()), float(single.max())
        self.count += single.size
        self.n_zeros += _count_zeros(single)
        if self._field == "xhii" and (low < 0 or high > 1):
            self.n_outside += int(np.count_nonzero((single < 0) | (single > 1)))
        self.sum += sum_in_float64(single)
        self.min, self.max = min(self.min, low), max(self.max, high)
        self.integral = self.integral and _are_integral(single)

    def check(self, field: str, path: Path) -> None:
        """Raise what makes the values unfit for their field."""
        if self.overflow is not None:
            raise SourceDataError(
                f"{path}: {field} must fit float32, got {self.overflow:g}; use a smaller unit"
            )
        if self.n_not_finite:
            raise SourceDataError(
                f"{path}: {field} must be finite, got NaN or infinity in {self.n_not_finite:,} "
                f"cell{'s' * (self.n_not_finite > 1)}; mend the file"
            )
        low, high = RANGES.get(field, (-np.inf, np.inf))
        if field == "xhii" and not (
            low - XHII_TOLERANCE <= self.min <= self.max <= high + XHII_TOLERANCE
        ):
            raise SourceDataError(
                f"{path}: xhii must lie between 0 and 1, got {self.min:g} to {self.max:g}; "
                "give the ionized fraction of hydrogen"
            )
        if field in _NON_NEGATIVE and self.min < low:
            hint = "mend the file"
            if field == "n_igm" and self.min >= -1:
                hint = (
                    "of an overdensity give the density itself in g/cm3, 1 + overdensity times "
                    "the mean; no store holds negative ones, so --trust n_igm does not help"
                )
            raise SourceDataError(
                f"{path}: {field} is {_NON_NEGATIVE[field]} and cannot be negative, got "
                f"{self.min:g} to {self.max:g} with a mean of {self.sum / self.count:.2g}; {hint}"
            )
        if field == "n_igm" and self.max == 0:
            raise SourceDataError(
                f"{path}: n_igm is a gas density and cannot be zero everywhere; mend the file"
            )


@njit(nogil=True, cache=True)
def _count_not_finite(bits: NDArray[np.uint32]) -> int:
    """Count the infinities and NaN among the bits of float32 values: fewer than 2**32."""
    exponent = np.uint32(0x7F800000)
    count = np.uint32(0)
    for index in range(bits.size):
        count = np.uint32(count + np.uint32(bits[index] & exponent == exponent))
    return int(count)


@njit(nogil=True, cache=True)
def _count_zeros(values: NDArray[np.float32]) -> int:
    count = np.uint32(0)
    for index in range(values.size):
        count = np.uint32(count + np.uint32(values[index] == 0))
    return int(count)


@njit(nogil=True, cache=True)
def _are_integral(values: NDArray[np.float32]) -> bool:
    count = np.uint32(0)
    for index in range(values.size):
        count = np.uint32(count + np.uint32(values[index] != np.rint(values[index])))
    return bool(count == 0)


Surveys = Mapping[str, Mapping[float, SourceSurvey]]
"""For every field what was found at every redshift."""
