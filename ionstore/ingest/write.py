"""The second pass of an ingest: shards, each converted, written, read back and recorded."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ionstore.build.base import Build
from ionstore.build.parts import PartRecords, write_part
from ionstore.build.shard_writer import ShardWriter
from ionstore.build.store_writer import StoredField, StoreWriter
from ionstore.cube.mesh import Array, Corner
from ionstore.cube.statistics import FieldStatistics
from ionstore.ingest.append import by_redshift
from ionstore.ingest.cluster import run_on_cluster
from ionstore.ingest.plan import IngestPlan
from ionstore.ingest.survey import SourceSurvey, Surveys
from ionstore.readers.arrays.bucket import FlatObject
from ionstore.readers.arrays.flat import FlatArray
from ionstore.readers.base import FieldSource, Sources
from ionstore.storage.files import OnBytes, link_or_copy, sync
from ionstore.store.codecs import blosc, round_to_bits
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Part
from ionstore.threads import ProgressCounter, run_in_threads

_DISK_MARGIN = 1.1  # shards are estimated from a few chunks
_METADATA_BYTES = 1 << 16
_SAMPLES_PER_SIDE = 2


class StoredSource(FieldSource):
    """The values of a field at a redshift of an older store, read block by block."""

    def __init__(self, store: CubeStore, field: str, redshift: float) -> None:
        self._store, self._field, self._redshift = store, field, redshift
        self.path = Path(store.path)
        self.shape = store.mesh.shape
        self.dtype: np.dtype[Any] = store.dtype(field)
        store.redshift_index(redshift)  # raises for a redshift that is not there

    def stream(self, on_bytes: OnBytes) -> Iterator[Array]:
        """Not supported; use the store's recorded statistics."""
        raise NotImplementedError("use the statistics that the store has recorded")

    def read_block(self, start: Corner, shape: Corner) -> Array:
        """Return the values of a block."""
        return self._store.read_block(self._field, self._redshift, start, shape)


@dataclass(frozen=True, slots=True)
class PartWriter:
    """Writes the parts of a planned store; each call is independent of the others."""

    # Pickled for other processes, it refers to the same folders there. A part may be written twice.
    plan: IngestPlan
    sources: Sources
    writer: ShardWriter
    records: PartRecords

    def source_bytes(self, part: Part) -> int:
        """Return how many bytes of its source a part holds."""
        return (
            prod(self.plan.layout.shard_region(part.shard)[1]) * self._source(part).dtype.itemsize
        )

    def write(self, part: Part) -> None:
        """Write one part, read it back, and record it as done."""
        start, shape = self.plan.layout.shard_region(part.shard)
        field = next(field for field in self.plan.fields if field.name == part.field)
        values = stored_values(self._source(part).read_block(start, shape), field)
        write_part(part, values, self.writer, self.records)

    def _source(self, part: Part) -> FieldSource:
        return self.sources[part.field][self.plan.redshifts[part.redshift_index]]


def stored_values(values: Array, field: StoredField) -> Array:
    """Return values in the stored dtype: clipped or rounded as their field is, or as they are."""
    single = values.astype(np.float32, copy=False)
    if field.numpy_dtype.kind == "u":
        # Whole numbers as the survey judges them: a bare cast would cut 2.9999999999 to 2.
        return np.rint(single).astype(field.numpy_dtype)
    if field.name == "xhii" and not 0 <= single.min() <= single.max() <= 1:
        single = np.clip(single, 0, 1)
    return single if field.keep_bits is None else round_to_bits(single, field.keep_bits)


def with_old_values(sources: Sources, plan: IngestPlan, old: CubeStore | None) -> Sources:
    """Return sources that also give fields to be rewritten at their old redshifts."""
    chosen = {field.name: dict(sources[field.name]) for field in plan.fields}
    for name in plan.rewritten:
        assert old is not None
        chosen[name] |= {redshift: StoredSource(old, name, redshift) for redshift in old.redshifts}
    return chosen


def with_shared_spools(
    sources: Sources, plan: IngestPlan, todo: Collection[Part], build: Build
) -> Sources:
    """Return sources whose spooled values, where they are still needed, other machines see."""
    needed = {(part.field, plan.redshifts[part.redshift_index]) for part in todo}

    def shared(name: str, redshift: float, source: FieldSource) -> FieldSource:
        spooled = isinstance(source, FlatArray) and source.path.parent == build.folder
        if not spooled or (name, redshift) not in needed:
            return source
        place = build.share_spool(source.path)
        if isinstance(place, Path):
            return source
        return FlatObject(place, source.shape, source.dtype, source.fortran_order)

    return {
        name: {redshift: shared(name, redshift, source) for redshift, source in cubes.items()}
        for name, cubes in sources.items()
    }


def take_over(old: CubeStore, plan: IngestPlan, writer: ShardWriter) -> None:
    """Give the shards of an old store that stay as they are their place in the new one."""
    folders = set()
    for part in plan.parts:
        linked = plan.linked(part)
        if linked is None:
            continue
        path = Path(writer.shard_path(part))
        path.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(Path(old.shard_path(linked.field, linked.redshift_index, linked.shard)), path)
        folders.add(path.parent)
    # Each folder once, after all of its links: a link lasts only when its folder is on the disk.
    for folder in folders:
        sync(folder)


def write_parts(
    writer: PartWriter,
    todo: Sequence[Part],
    done: Collection[Part],
    progress: ProgressCounter,
    scheduler: str | None,
) -> None:
    """Write parts, in threads of this process or by the workers of a dask scheduler."""
    progress.add(sum(map(writer.source_bytes, done)))

    def count(part: Part) -> None:
        progress.add(writer.source_bytes(part))

    def write(part: Part) -> None:
        writer.write(part)
        count(part)

    if scheduler is None:
        run_in_threads(write, todo)
    else:
        # Workers have working folders of their own.
        sources = {
            name: {redshift: source.absolute() for redshift, source in cubes.items()}
            for name, cubes in writer.sources.items()
        }
        run_on_cluster(replace(writer, sources=sources).write, todo, scheduler, count)


def finalize(
    writer: StoreWriter,
    plan: IngestPlan,
    old: CubeStore | None,
    surveys: Surveys,
    statistics: Mapping[str, Mapping[int, FieldStatistics]],
) -> None:
    """Complete the store with what is known of old and new redshifts."""
    place_of = {redshift: place for place, redshift in enumerate(plan.redshifts)}
    said = old.attributes if old is not None else None

    def counts(
        name: str, before: Mapping[str, Sequence[int]], now: Callable[[SourceSurvey], int]
    ) -> dict[str, Sequence[int]]:
        if name not in statistics:
            return {}
        new = {place_of[redshift]: now(survey) for redshift, survey in surveys[name].items()}
        return {name: by_redshift(plan, before.get(name, (0,) * len(plan.old_places)), new)}

    writer.finalize(
        {
            name: by_redshift(plan, said.statistics[name] if said else (), new)
            for name, new in statistics.items()
        },
        n_clipped=counts("xhii", said.n_clipped if said else {}, lambda one: one.n_clipped),
        n_zeros=counts("n_igm", said.n_zeros if said else {}, lambda one: one.values.n_zeros),
    )


def check_disk(build: Build, plan: IngestPlan, sources: Sources, share: float) -> None:
    """Raise DiskSpaceError if the disk cannot hold the share of the parts still to be written."""
    build.check_shard_space(
        lambda: int(_DISK_MARGIN * share * _estimate_bytes(plan, sources)) + _METADATA_BYTES
    )


def _estimate_bytes(plan: IngestPlan, sources: Sources) -> int:
    """Return about how many bytes the compressed fields take, from a few chunks of each."""
    mesh_cells, chunk = plan.layout.mesh_cells, plan.layout.chunk_cells
    last = mesh_cells - chunk
    corners = sorted({last * step // _SAMPLES_PER_SIDE for step in range(_SAMPLES_PER_SIDE + 1)})
    total = 0.0
    for field in plan.fields:
        codec = blosc(plan.compression[field.name], field.numpy_dtype)
        for source in sources[field.name].values():
            raw = packed = 0
            for corner in corners:
                values = stored_values(source.read_block((corner,) * 3, (chunk,) * 3), field)
                raw += values.nbytes
                packed += len(codec.encode(values))
            total += plan.mesh.n_cells * field.numpy_dtype.itemsize * packed / raw
    return int(total)
