"""`verify_store`: find everything that is missing or damaged in a store."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from math import prod
from pathlib import Path
from time import monotonic

import numpy as np
from pydantic import BaseModel, ConfigDict, computed_field

from ionstore.cube.fields import RANGES
from ionstore.cube.mesh import Array
from ionstore.cube.statistics import FieldStatistics
from ionstore.errors import StoreFormatError
from ionstore.reporter import SILENT, Reporter
from ionstore.storage.digest import find_digest
from ionstore.storage.files import read_pieces, why_unreadable
from ionstore.store.cube_store import CubeStore, StoreLike, open_store
from ionstore.store.layout import Layout, Part, plan_parts
from ionstore.store.metadata import ROOT_METADATA, SourceFile, StoreAttributes, read_root_metadata
from ionstore.store.shards import check_shard
from ionstore.threads import ProgressCounter, run_in_threads
from ionstore.verify.damage import (
    Damage,
    coordinate_damage,
    metadata_damage,
    readable_fields,
    stray_files,
)
from ionstore.verify.sources import FileComparison, plan_comparison

# Sums of the same values in another order differ by less, relative to the root mean square.
_ROUNDING = 1e-11


class Verification(BaseModel):
    """Findings of `verify_store`.

    Parameters
    ----------
    path : str
        Path or address of the store.
    damage : tuple of Damage
        All damage: of metadata and coordinates, then cube by cube, then of source files.
    stray_files : tuple of str
        Files in the store that are not part of it, relative to it. They are harmless.
    n_chunks : int
        Chunks that were found and checked.
    value_bytes : int
        Uncompressed bytes that the store must hold.
    n_source_files : int
        Source files that were compared.
    n_not_compared : int
        Recorded source files that are in none of the given folders.
    seconds : float
        Duration of the check.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    damage: tuple[Damage, ...]
    stray_files: tuple[str, ...]
    n_chunks: int
    value_bytes: int
    n_source_files: int
    n_not_compared: int = 0
    seconds: float

    @computed_field  # type: ignore[prop-decorator]
    @property
    def is_intact(self) -> bool:
        """True if no damage was found."""
        return not self.damage


def verify_store(
    store: StoreLike,
    *,
    sources: Sequence[str | os.PathLike[str]] = (),
    reporter: Reporter = SILENT,
) -> Verification:
    """Check all of a store: metadata, coordinates, every chunk, and the recorded statistics.

    Parameters
    ----------
    store : CubeStore, str or path-like
        The store, or its path.
    sources : sequence of str or path-like
        Folders of the simulation that it was made from. Their files are compared with what the
        store recorded about them.
    reporter : Reporter
        Gets the bytes checked and the total, values and source files together.

    Returns
    -------
    Verification
        All damage that was found.

    Raises
    ------
    StoreFormatError
        If a path holds no complete store, or the store is replaced during the check.
    OSError
        If its root metadata cannot be read, or an object store does not answer.

    Notes
    -----
    Chunks are read, checked and decoded as in a loader. Memory: one chunk per thread, encoded
    and decoded.
    """
    store = open_store(store)
    began = monotonic()
    root = read_root_metadata(store.path)
    members = root["consolidated_metadata"]["metadata"]
    layouts = readable_fields(store, members)
    damage = [*metadata_damage(store, members), *coordinate_damage(store, members)]
    shards = [
        _Shard(store, part, layout)
        for name, layout in layouts.items()
        for part in plan_parts([name], len(store.redshifts), layout)
    ]
    recorded = store.attributes.sources if sources else ()
    planned = plan_comparison(recorded, [Path(folder) for folder in sources])
    value_bytes = sum(shard.value_bytes for shard in shards)
    source_bytes = sum(map(_recorded_bytes, planned.comparisons))
    progress = ProgressCounter(value_bytes + source_bytes, reporter.progress)
    checked = run_in_threads(partial(_check_shard, progress), shards)
    damage += _damage_by_cube(store.attributes, shards, checked)
    compared = run_in_threads(partial(_compare, progress), planned.comparisons)
    damage += [one.damage for one in compared if one.damage is not None]
    damage += [
        Damage(file=str(folder), what="holds none of the files that the store was made from")
        for folder in planned.strange
    ]
    strays = tuple(stray_files(store, layouts))
    # `ionstore ingest` may swap in a new store at any time, and then shards of both were checked.
    if read_root_metadata(store.path) != root:
        raise StoreFormatError(
            f"{store.path}: the store was replaced while it was verified; verify it again"
        )
    return Verification(
        path=str(store.path),
        damage=tuple(damage),
        stray_files=strays,
        n_chunks=sum(result.n_chunks for result in checked),
        value_bytes=value_bytes,
        n_source_files=len(compared),
        n_not_compared=len(recorded) - sum(one.n_settled for one in compared),
        seconds=monotonic() - began,
    )


def statistics_damage(recorded: FieldStatistics, found: FieldStatistics) -> str:
    """Return how recorded statistics differ from those of the values, "" if they agree."""
    # Blocks are merged here in another order than while writing, so mean and M2 may round apart;
    # count, minimum and maximum are exact. M2 is count * std**2, hence its tolerance for the same
    # error of std.
    std = math.sqrt(found.variance)
    error = _ROUNDING * math.hypot(found.mean, std)
    tolerances = {"mean": error, "m2": found.count * error * (2 * std + error)}
    differing = [
        f"{name} {getattr(recorded, name):.17g} (its values give {getattr(found, name):.17g})"
        for name in ("count", "mean", "m2", "min", "max")
        # "not <=", because NaN must count as a difference, and every comparison with it is false.
        if not abs(getattr(recorded, name) - getattr(found, name)) <= tolerances.get(name, 0)
    ]
    return f"has wrong statistics recorded: {', '.join(differing)}" if differing else ""


@dataclass(frozen=True, slots=True)
class _Shard:
    """A shard that the store must have."""

    store: CubeStore
    part: Part
    layout: Layout

    @property
    def redshift(self) -> float:
        return self.store.redshifts[self.part.redshift_index]

    @property
    def value_bytes(self) -> int:
        shape = self.layout.shard_region(self.part.shard)[1]
        return prod(shape) * self.store.dtype(self.part.field).itemsize


@dataclass(frozen=True, slots=True)
class _Checked:
    """Result of checking a shard; no statistics if any of its values is missing or not finite."""

    damage: tuple[Damage, ...]
    statistics: FieldStatistics | None
    n_chunks: int


def _check_shard(progress: ProgressCounter, shard: _Shard) -> _Checked:
    """Check every chunk of a shard."""
    store, part = shard.store, shard.part
    path = store.shard_path(part.field, part.redshift_index, part.shard)
    dtype = store.dtype(part.field)
    damage: list[Damage] = []
    statistics: list[FieldStatistics] = []
    n_blocks = n_chunks = 0
    # A chunk that the shard does not list is damage too: Zarr would read it as fill values.
    for block in check_shard(path, part.shard, layout=shard.layout, dtype=dtype):
        n_blocks += 1
        if block.values is None:
            wrong = [block.damage or ""]
        else:
            n_chunks += 1
            wrong = list(_value_damage(part.field, block.values))
            if np.isfinite(block.values).all():
                statistics.append(FieldStatistics.of(block.values))
        damage += [
            Damage(
                field=part.field,
                redshift=shard.redshift,
                start=block.start,
                shape=block.shape,
                file="/".join([part.field, "c", *map(str, (part.redshift_index, *part.shard))]),
                what=what,
            )
            for what in wrong
        ]
    progress.add(shard.value_bytes)
    is_whole = len(statistics) == n_blocks
    merged = reduce(FieldStatistics.merge, statistics) if is_whole else None
    return _Checked(tuple(damage), merged, n_chunks)


def _value_damage(field: str, values: Array) -> Iterator[str]:
    """Yield NaN, infinity and values out of the range of the field."""
    finite = np.isfinite(values)
    n_not_finite = finite.size - int(np.count_nonzero(finite))
    if n_not_finite:
        yield f"holds NaN or infinity in {n_not_finite:,} cell{'s' * (n_not_finite > 1)}"
        values = values[finite]
    low, high = RANGES.get(field, (-math.inf, math.inf))
    if values.size and not low <= values.min() <= values.max() <= high:
        required = "not be negative" if high == math.inf else f"lie between {low:g} and {high:g}"
        yield f"holds {values.min():g} to {values.max():g}, but must {required}"


def _damage_by_cube(
    attributes: StoreAttributes, shards: list[_Shard], checked: list[_Checked]
) -> Iterator[Damage]:
    """Yield the damage of all shards, cube by cube, with that of its statistics behind each."""
    cubes: dict[tuple[str, float], list[_Checked]] = {}
    for shard, result in zip(shards, checked, strict=True):
        cubes.setdefault((shard.part.field, shard.redshift), []).append(result)
    for (field, redshift), results in cubes.items():
        for result in results:
            yield from result.damage
        # Missing statistics were reported as damaged metadata, so they are skipped here, and a
        # cube with damaged values has no statistics that could agree.
        of_field = attributes.statistics.get(field, ())
        recorded = dict(zip(attributes.redshifts, of_field, strict=False))
        statistics = [result.statistics for result in results if result.statistics is not None]
        if len(statistics) == len(results) and redshift in recorded:
            found = reduce(FieldStatistics.merge, statistics)
            if what := statistics_damage(recorded[redshift], found):
                yield Damage(field=field, redshift=redshift, file=ROOT_METADATA, what=what)


@dataclass(frozen=True, slots=True)
class _Compared:
    """Result of comparing one file, and how many recorded files that settles."""

    damage: Damage | None
    n_settled: int


def _compare(progress: ProgressCounter, comparison: FileComparison) -> _Compared:
    """Compare a source file with the records of files of its name."""
    recorded = comparison.recorded
    try:
        same, what = _same_file(comparison.path, recorded)
    except OSError as error:
        same, what = 0, why_unreadable(error)
    progress.add(_recorded_bytes(comparison))
    if same:
        return _Compared(None, same)
    return _Compared(Damage(file=str(comparison.path), what=what), len(recorded))


def _same_file(path: Path, recorded: Sequence[SourceFile]) -> tuple[int, str]:
    """Return how many records a file matches, and why if none."""
    with path.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
    # Sizes first: files of another size need not be read.
    alike = [file for file in recorded if file.size_bytes == size]
    if not alike:
        had = " or ".join(dict.fromkeys(f"{file.size_bytes:,}" for file in recorded))
        return 0, f"has {size:,} bytes, had {had} when it was ingested"
    algorithms = {file.digest.partition(":")[0] for file in alike}
    # Stores of earlier versions hold other digests; one reading makes all that are needed.
    digests = {name: made for name in algorithms if (made := find_digest(name)) is not None}
    if not digests:
        return 0, f"cannot be compared, its digest was made with {' or '.join(sorted(algorithms))}"

    def update(content: bytes) -> None:
        for digest in digests.values():
            digest.update(content)

    read_pieces(path, update)
    found = {f"{name}:{digest.hexdigest()}" for name, digest in digests.items()}
    same = sum(file.digest in found for file in alike)
    return same, "has changed since it was ingested"


def _recorded_bytes(comparison: FileComparison) -> int:
    return max(file.size_bytes for file in comparison.recorded)
