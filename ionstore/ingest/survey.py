"""The first pass over a simulation: everything is read and checked before anything is written."""

import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ionstore.build.base import Build
from ionstore.cube.fields import RANGES, REQUIRED
from ionstore.cube.mesh import Array, Corner, Mesh
from ionstore.cube.statistics import sum_in_float64
from ionstore.errors import SourceDataError
from ionstore.ingest.coarse_field import BlockMeans, CoarseField
from ionstore.ingest.plausibility import find_contradictions
from ionstore.readers.base import FieldSource, Simulation, SourceOfSource, Sources
from ionstore.storage.digest import in_words, start_digest
from ionstore.storage.disk_space import require_space
from ionstore.store.metadata import SourceFile
from ionstore.threads import ProgressCounter, run_in_threads

XHII_TOLERANCE = 1e-6  # fractions computed in float32 leave 0 to 1 by their rounding
_SLICE_CELLS = 1 << 16
_NON_NEGATIVE = {"n_igm": "a gas density", "n_src": "a number or mass of sources"}

FileName = tuple[str, str]
"""Folder and name by which a store records a file."""


class FoundValues(BaseModel):
    """Range, mean and zeros of a field at a redshift, in the unit in which it is stored."""

    model_config = ConfigDict(frozen=True)

    field: str
    redshift: float
    # Of the values as float32; the mean is summed in float64.
    min: float
    max: float
    mean: float
    n_zeros: int


@dataclass(frozen=True, slots=True)
class SourceSurvey:
    """Findings of one pass over the values of a field at a redshift."""

    file: SourceFile
    modified_ns: int
    values: FoundValues
    n_clipped: int  # ionized fractions outside of 0 to 1 by rounding, which will be clipped
    integral: bool  # whether all values are whole numbers


Surveys = Mapping[str, Mapping[float, SourceSurvey]]
"""For every field, what was found at every redshift."""


@dataclass(frozen=True)
class SurveyedSource(SourceOfSource):
    """The values of a source, refused once its file is not the one that was surveyed."""

    # Otherwise a part made from a file that was another one for a while would count as done when
    # the file is back as it was and the build is resumed.
    survey: SourceSurvey

    def read_block(self, start: Corner, shape: Corner) -> Array:
        """Return the values of a block; raise SourceDataError if the file has changed."""
        values = self.source.read_block(start, shape)
        # After the values, so that a change while they were read is noticed too.
        check_unchanged(self.source, self.survey)
        return values


def check_shapes(simulation: Simulation) -> Mesh:
    """Return the mesh that all cubes share, without its length; raise SourceDataError if none."""
    first: FieldSource | None = None
    for _, _, source in _each_source(simulation):
        shape = source.shape
        if len(shape) != 3 or len(set(shape)) != 1 or shape[0] < 1:
            raise SourceDataError(
                f"{source.path}: expected a cube of shape (n, n, n), got {shape}; cut or reshape it"
            )
        first = first or source
        if shape != first.shape:
            raise SourceDataError(
                f"{source.path}: expected the shape {first.shape} of {first.path.name}, "
                f"got {shape}; all cubes must share one mesh"
            )
    assert first is not None  # a simulation has at least one cube
    return Mesh(first.shape[0])


def survey_simulation(
    simulation: Simulation,
    names: Mapping[Path, FileName],
    build: Build,
    progress: ProgressCounter,
    *,
    trust: Collection[str] = (),
) -> tuple[Sources, Surveys]:
    """Check all values; return sources that can be cut into blocks, and what was found.

    Values that cannot be cut in their files are spooled into the build. `trust` names fields that
    are taken even if their values contradict what they are called.
    """
    items = _each_source(simulation)
    require_space(build.folder, sum(one.spool_bytes for _, _, one in items), build.target)
    plausibility = _Plausibility(simulation, trust)

    def survey(item: tuple[str, float, FieldSource]) -> tuple[FieldSource, SourceSurvey]:
        name, redshift, source = item
        spool = None
        if source.spool_bytes:
            spool = build.spool_path(name, simulation.redshifts.index(redshift))
        means = BlockMeans(source.shape[0], fortran_order=source.fortran_order)

        def take(values: Array) -> None:
            means.add(values)
            progress.add(values.nbytes)

        found = survey_source(
            *(name, redshift, source), named=names[source.path], spool=spool, on_values=take
        )
        plausibility.add(name, redshift, means.of_blocks())
        # Spooled values are safe from changes of their file.
        return source.from_spool(spool) if spool else SurveyedSource(source, found), found

    sources: dict[str, dict[float, FieldSource]] = {name: {} for name in simulation.cubes}
    surveys: dict[str, dict[float, SourceSurvey]] = {name: {} for name in simulation.cubes}
    for (name, redshift, _), result in zip(items, run_in_threads(survey, items), strict=True):
        sources[name][redshift], surveys[name][redshift] = result
    return sources, surveys


def check_all_unchanged(simulation: Simulation, surveys: Surveys) -> None:
    """Check that all files are still the ones that were surveyed."""
    for name, redshift, source in _each_source(simulation):
        check_unchanged(source, surveys[name][redshift])


def source_bytes(simulation: Simulation) -> int:
    """Return the bytes of all values, as they are in the files."""
    return sum(source.n_bytes for _, _, source in _each_source(simulation))


def survey_source(
    field: str,
    redshift: float,
    source: FieldSource,
    *,
    named: FileName | None = None,
    spool: Path | None = None,
    on_values: Callable[[Array], object] = lambda values: None,
) -> SourceSurvey:
    """Read all values of a source once, check them, and digest the file.

    Keeps the values in `spool` where one is given, and calls `on_values` with each piece of them,
    flat and in the order of the file. Memory is bounded by the pieces, about 8 MB each.
    """
    folder, name = named or (None, source.path.name)
    digest = start_digest()
    tally = _Tally(field)
    before = source.path.stat()
    with spool.open("wb") if spool else nullcontext() as spooled:
        for values in source.stream(digest.update):
            if spooled is not None:
                spooled.write(values.data)
            tally.add(values)
            on_values(values)
    tally.check(source.path)
    return SourceSurvey(
        SourceFile(
            folder=folder,
            name=name,
            size_bytes=before.st_size,
            digest=in_words(digest),
            fields=(field,),
            redshifts=(redshift,),
        ),
        before.st_mtime_ns,
        FoundValues(
            field=field,
            redshift=redshift,
            min=tally.min,
            max=tally.max,
            mean=tally.sum / tally.count,
            n_zeros=tally.n_zeros,
        ),
        tally.n_outside,
        tally.integral,
    )


def check_unchanged(source: FieldSource, survey: SourceSurvey) -> None:
    """Check that a file is still the one that was surveyed; raise SourceDataError if it is not."""
    now = source.path.stat()
    if (now.st_size, now.st_mtime_ns) != (survey.file.size_bytes, survey.modified_ns):
        raise SourceDataError(
            f"{source.path}: the file changed while it was ingested; "
            "run the same command again once it is complete"
        )


def _each_source(simulation: Simulation) -> list[tuple[str, float, FieldSource]]:
    # Redshift by redshift, so that the fields of one cube are soon weighed against each other.
    return [
        (name, redshift, cubes[redshift])
        for redshift in simulation.redshifts
        for name, cubes in simulation.cubes.items()
    ]


class _Plausibility:
    """Weighs the required fields of a cube against each other as soon as all were read."""

    def __init__(self, simulation: Simulation, trust: Collection[str]) -> None:
        self._simulation = simulation
        # Those that are there: some can be left out of all cubes.
        self._weighed = [field.name for field in REQUIRED if field.name in simulation.cubes]
        self._trust = set(trust)
        self._waiting: dict[float, dict[str, CoarseField]] = {}
        self._lock = threading.Lock()

    def add(self, name: str, redshift: float, means: CoarseField) -> None:
        """Take in a field; raise SourceDataError if one of its cube is not what it is called."""
        if name not in self._weighed:
            return
        with self._lock:
            cube = self._waiting.setdefault(redshift, {})
            cube[name] = means
            if len(cube) < len(self._weighed):
                return
            del self._waiting[redshift]
        # Threads end in any order; the message must not depend on it.
        for found in find_contradictions({name: cube[name] for name in self._weighed}):
            if not set(found.fields) & self._trust:
                path = self._simulation.cubes[found.fields[0]][redshift].path
                raise SourceDataError(f"{path}: {found.sentence}")


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
        # Slice by slice, each of which stays in the cache of the processor while it is checked.
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

    def check(self, path: Path) -> None:
        """Raise SourceDataError if the values are unfit for their field."""
        field = self._field
        if self.overflow is not None:
            raise SourceDataError(
                f"{path}: {field} must fit float32, got {self.overflow:g}; use a smaller unit"
            )
        if self.n_not_finite:
            raise SourceDataError(
                f"{path}: {field} must be finite, got NaN or infinity in {self.n_not_finite:,} "
                f"cell{'s' * (self.n_not_finite > 1)}; fix the file"
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
            hint = "fix the file"
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
                f"{path}: n_igm is a gas density and cannot be zero everywhere; fix the file"
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
