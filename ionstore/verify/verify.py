"""`verify_store`: whether a store is whole and intact, and what is damaged in it."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
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
from ionstore.storage.digest import find_digest
from ionstore.storage.files import read_pieces
from ionstore.store.cube_store import CubeStore
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
    why_unreadable,
)
from ionstore.verify.sources import FileComparison, plan_comparison

# Sums of the same values in another order differ by less, relative to the root mean square.
_ROUNDING = 1e-11


class Verification(BaseModel):
    """What `verify_store` found.

    Parameters
    ----------
    path : str
        Where the store lies.
    damage : tuple of Damage
        All that is wrong: with metadata and coordinates, cube by cube, with source files.
    stray_files : tuple of str
        Files in the store that are no part of it, relative to it; they do no harm.
    n_chunks : int
        Chunks that were found and checked.
    value_bytes : int
        Bytes of the values that were looked for.
    n_source_files : int
        Source files that were compared.
    n_not_compared : int
        Source files that were recorded, but are not in the folders that were named.
    seconds : float
        Time that it took.
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
        """Whether nothing is wrong."""
        return not self.damage


def verify_store(
    store: CubeStore,
    *,
    sources: Sequence[Path] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Check all of a store: metadata, coordinates, every chunk, and the recorded statistics.

    Parameters
    ----------
    store : CubeStore
        The store.
    sources : sequence of Path
        Folders of the simulation that it was made from, whose files are then compared too, as
        `ionstore.verify.sources.plan_comparison` says.
    on_progress : callable, optional
        Called with the bytes done and the total, of values and of source files.

    Returns
    -------
    Verification
        With all damage that was found.

    Raises
    ------
    StoreFormatError
        If the store is replaced meanwhile.
    OSError
        If its root metadata cannot be read, or an object store does not answer.

    Notes
    -----
    Chunks are read, checked and decoded as loaders do it. A chunk that its shard does not list is
    damage: Zarr would read it as fill values. Memory: one chunk a thread, encoded and decoded.
    """
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
    planned = plan_comparison(recorded, sources)
    value_bytes = sum(shard.value_bytes for shard in shards)
    source_bytes = sum(map(_recorded_bytes, planned.comparisons))
    progress = ProgressCounter(value_bytes + source_bytes, on_progress)
    checked = run_in_threads(partial(_check_shard, progress), shards)
    damage += _damage_by_cube(store.attributes, shards, checked)
    compared = run_in_threads(partial(_compare, progress), planned.comparisons)
    damage += [one.damage for one in compared if one.damage is not None]
    damage += [
        Damage(file=str(folder), what="holds no file of the names that the store was made from")
        for folder in planned.strange
    ]
    strays = tuple(stray_files(store, layouts))
    if read_root_metadata(store.path) != root:
        raise StoreFormatError(
            f"{store.path}: the store was replaced while it was verified; "
            "run the same command again"
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
    """Return how recorded statistics differ from those of the values.

    Parameters
    ----------
    recorded, found : FieldStatistics
        Statistics of the same values, perhaps merged in another order.

    Returns
    -------
    str
        The predicate of a sentence; empty if count, minimum and maximum are equal, and mean and
        M2 to rounding.
    """
    std = math.sqrt(found.variance)
    error = _ROUNDING * math.hypot(found.mean, std)
    tolerances = {"mean": error, "m2": found.count * error * (2 * std + error)}
    differing = [
        f"{name} {getattr(recorded, name):.17g} (its values give {getattr(found, name):.17g})"
        for name in ("count", "mean", "m2", "min", "max")
        # Written so that NaN differs from everything.
        if not abs(getattr(recorded, name) - getattr(found, name)) <= tolerances.get(name, 0)
    ]
    return f"has wrong statistics recorded: {', '.join(differing)}" if differing else ""


@dataclass(frozen=True, slots=True)
class _Shard:
    """A shard that a store is to have."""

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
    """What was found in a shard; without statistics where values are missing."""

    damage: tuple[Damage, ...]
    statistics: FieldStatistics | None
    n_chunks: int


def _check_shard(progress: ProgressCounter, shard: _Shard) -> _Checked:
    """Check all chunks of a shard."""
    store, part = shard.store, shard.part
    path = store.shard_path(part.field, part.redshift_index, part.shard)
    dtype = store.dtype(part.field)
    damage: list[Damage] = []
    statistics: list[FieldStatistics] = []
    n_blocks = n_chunks = 0
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
    """Yield what is wrong with values that were decoded."""
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
    """Yield the damage of all shards, cube by cube, each followed by that of its statistics."""
    cubes: dict[tuple[str, float], list[_Checked]] = {}
    for shard, result in zip(shards, checked, strict=True):
        cubes.setdefault((shard.part.field, shard.redshift), []).append(result)
    for (field, redshift), results in cubes.items():
        for result in results:
            yield from result.damage
        # Where statistics are missing, the metadata were found to be damaged.
        of_field = attributes.statistics.get(field, ())
        recorded = dict(zip(attributes.redshifts, of_field, strict=False))
        statistics = [result.statistics for result in results if result.statistics is not None]
        if len(statistics) == len(results) and redshift in recorded:
            found = reduce(FieldStatistics.merge, statistics)
            if what := statistics_damage(recorded[redshift], found):
                yield Damage(field=field, redshift=redshift, file=ROOT_METADATA, what=what)


@dataclass(frozen=True, slots=True)
class _Compared:
    """What came of comparing a file: of how many that were recorded it is known how they are."""

    damage: Damage | None
    n_settled: int


def _compare(progress: ProgressCounter, comparison: FileComparison) -> _Compared:
    """Compare a source file with what was recorded of files of its name."""
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
    """Return how many of the files that were recorded a file is, and why where it is none."""
    with path.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
    alike = [file for file in recorded if file.size_bytes == size]
    if not alike:
        had = " or ".join(dict.fromkeys(f"{file.size_bytes:,}" for file in recorded))
        return 0, f"has {size:,} bytes, had {had} when it was ingested"
    algorithms = {file.digest.partition(":")[0] for file in alike}
    digests = {name: made for name in algorithms if (made := find_digest(name)) is not None}
    if not digests:
        return 0, f"cannot be compared, its digest was made with {' or '.join(sorted(algorithms))}"

    def update(content: bytes) -> None:
        for digest in digests.values():
            digest.update(content)

    read_pieces(path, update)
    found = {f"{name}:{digest.hexdigest()}" for name, digest in digests.items()}
    same = sum(file.digest in found for file in alike)
    return same, "has other bytes than when it was ingested"


def _recorded_bytes(comparison: FileComparison) -> int:
    return max(file.size_bytes for file in comparison.recorded)
