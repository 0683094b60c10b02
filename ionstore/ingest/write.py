"""The second pass of an ingest: shards, each converted, written, read back and recorded."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from ionstore.build.base import Build
from ionstore.build.parts import PartRecords, write_part
from ionstore.build.shard_writer import ShardWriter
from ionstore.build.store_writer import StoredField
from ionstore.cube.mesh import Array
from ionstore.ingest.append import BuildPlan
from ionstore.ingest.plan import IngestPlan
from ionstore.readers.base import Sources
from ionstore.storage.files import link_or_copy, sync
from ionstore.store.codecs import blosc, round_to_bits
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Part

_DISK_MARGIN = 1.1
_METADATA_BYTES = 1 << 16
_SAMPLES_PER_SIDE = 2


@dataclass(frozen=True, slots=True)
class PartWriter:
    """Writes the parts of a planned store; each call is independent of the others.

    Parameters
    ----------
    plan : IngestPlan
        How the fields are stored.
    sources : mapping
        Where their values come from.
    writer : ShardWriter
        Writes their shards.
    records : PartRecords
        Where finished parts are recorded.

    Notes
    -----
    Pickled for other processes, it refers to the same folders there. A part may be written twice.
    """

    plan: IngestPlan
    sources: Sources
    writer: ShardWriter
    records: PartRecords

    def source_bytes(self, part: Part) -> int:
        """Return how many bytes of its source a part holds."""
        source = self.sources[part.field][self.plan.redshifts[part.redshift_index]]
        return prod(self.plan.layout.shard_region(part.shard)[1]) * source.dtype.itemsize

    def write(self, part: Part) -> None:
        """Write one part and record it as done.

        Raises
        ------
        StoreDamageError
            If what is read back is not what was written.
        StoreExistsError
            If another process has taken the build over.
        OSError
            If the values cannot be read, or a shard or record not be written.
        """
        start, shape = self.plan.layout.shard_region(part.shard)
        field = next(field for field in self.plan.fields if field.name == part.field)
        source = self.sources[part.field][self.plan.redshifts[part.redshift_index]]
        values = stored_values(source.read_block(start, shape), field)
        write_part(part, values, self.writer, self.records)


def stored_values(values: Array, field: StoredField) -> Array:
    """Return values as they are stored.

    Parameters
    ----------
    values : ndarray
        Block of a source, any real dtype.
    field : StoredField
        How the field is stored.

    Returns
    -------
    ndarray
        In the stored dtype, the given array where that changes nothing; ionized fractions are
        clipped to 0 to 1.

    Raises
    ------
    ValueError
        If the bits to keep are out of range.
    """
    single = values.astype(np.float32, copy=False)
    if field.numpy_dtype.kind == "u":
        # Whole numbers as the survey judges them: a bare cast would cut 2.9999999999 to 2.
        return np.rint(single).astype(field.numpy_dtype)
    if field.name == "xhii" and not 0 <= single.min() <= single.max() <= 1:
        single = np.clip(single, 0, 1)
    return single if field.keep_bits is None else round_to_bits(single, field.keep_bits)


def take_over(old: CubeStore, plan: BuildPlan, writer: ShardWriter) -> None:
    """Give the shards of an old store that stay as they are their place in the new one.

    Parameters
    ----------
    old : CubeStore
        The store, in a folder.
    plan : BuildPlan
        Says which part of the new store is which part of the old one.
    writer : ShardWriter
        That of the new store. Shards that are there already, of a build that is resumed, stay.
    """
    folders = set()
    for part in plan.parts:
        linked = plan.linked(part)
        if linked is None:
            continue
        path = Path(writer.shard_path(part))
        path.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(Path(old.shard_path(linked.field, linked.redshift_index, linked.shard)), path)
        folders.add(path.parent)
    for folder in folders:
        sync(folder)


def check_disk(build: Build, plan: IngestPlan, sources: Sources, share: float) -> None:
    """Check that the disk holds what is still to be written.

    Parameters
    ----------
    build : Build
        Names the disk.
    plan : IngestPlan
        How the fields are stored.
    sources : mapping
        Where the values come from.
    share : float
        Share of the parts that are still to be written, 0 to 1.

    Raises
    ------
    DiskSpaceError
        If it does not, going by the compression of a few chunks and a margin of 10 %.
    """
    build.check_shard_space(
        lambda: int(_DISK_MARGIN * share * estimate_bytes(plan, sources)) + _METADATA_BYTES
    )


def estimate_bytes(plan: IngestPlan, sources: Sources) -> int:
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
