"""Read, check and decode chunks of shards: those of a block, or all of one shard."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import numpy as np
from google_crc32c import value as crc32c
from numcodecs import blosc

from ionstore.cube.mesh import Array, Corner
from ionstore.errors import StoreDamageError
from ionstore.storage.files import NOT_THERE, why_unreadable
from ionstore.storage.paths import OpenFile, StorePath, open_file
from ionstore.storage.s3 import ObjectPath, OpenObject
from ionstore.store.block_plan import ChunkRun, ShardPart
from ionstore.store.layout import Layout
from ionstore.store.shard_index import (
    CHECKSUM_BYTES,
    CRC_RESIDUE,
    FRAME_HEADER,
    MISSING,
    ShardIndex,
    ShardIndexes,
    damage_of,
    find_index,
)

Place = Callable[[Array, Corner, Corner, Corner], None]
"""Takes decoded chunks, shape (n, side, side, side), C-contiguous and overwritten afterwards, and
the `source`, `target` and `shape` of their run."""

Item = TypeVar("Item")

_FETCH_BYTES = 16 * 2**20  # of chunks of an object, held until they are decoded
_PARTS_AT_ONCE = 4  # of objects, fetched at the same time because each request takes long


def read_chunks(
    path_of: Callable[[Corner], StorePath],
    parts: tuple[ShardPart, ...],
    place: Place,
    *,
    layout: Layout,
    dtype: np.dtype[Any],
    indexes: ShardIndexes,
) -> None:
    """Read, check and decode the chunks of a block, and hand each run of them to `place`."""
    # Memory: one run of decoded chunks and one encoded chunk; from an object store up to 16 MiB of
    # encoded chunks of each of four parts.
    n_chunks = (layout.shard_cells // layout.chunk_cells) ** 3
    longest = max(run.n_chunks for part in parts for run in part.runs)
    chunks = np.empty((longest, *(layout.chunk_cells,) * 3), dtype)
    rooms = list(chunks.reshape(longest, -1))

    def read_part(path: StorePath, file: OpenFile | OpenObject, runs: Sequence[ChunkRun]) -> None:
        index = indexes.index_of(path, file, n_chunks)
        for run in _fetched_ahead(file, index, runs, _chunks_of_run):
            _decode_run(path, file, index, run, rooms)
            place(chunks, run.source, run.target, run.shape)

    def fetch(path: ObjectPath, runs: Sequence[ChunkRun]) -> OpenObject:
        file = OpenObject(path)
        with suppress(StoreDamageError, *NOT_THERE):  # met again where the part is decoded
            index = indexes.index_of(path, file, n_chunks)
            next(_fetched_ahead(file, index, runs, _chunks_of_run))  # fetches as many as fit
        return file

    with one_thread_in_blosc():
        for first in range(0, len(parts), _PARTS_AT_ONCE):
            some = [
                (path_of(part.shard), part.runs) for part in parts[first : first + _PARTS_AT_ONCE]
            ]
            fetched = _in_threads(fetch, some)
            for path, runs in some:
                with _open(path, fetched.get(path)) as file:
                    try:
                        read_part(path, file, runs)
                    except StoreDamageError:
                        # The shard may have been rewritten: then the index is that of the old one.
                        if not file.was_replaced():
                            raise
                        indexes.forget(path)
                        read_part(path, file, runs)


@dataclass(frozen=True, slots=True, eq=False)
class CheckedBlock:
    """A chunk of a shard, or all of it where none of its chunks can be found."""

    start: Corner
    shape: Corner  # of what lies on the mesh
    values: Array | None  # overwritten by the next block; None where there is damage
    damage: str | None = None  # the predicate of a sentence


def check_shard(
    path: StorePath, shard: Corner, *, layout: Layout, dtype: np.dtype[Any]
) -> Iterator[CheckedBlock]:
    """Yield every chunk of a shard on the mesh in C order; damage is yielded too, not raised.

    A shard that is missing, cannot be read or has a damaged index is yielded once, as a whole.
    """
    start, shape = layout.shard_region(shard)
    side = layout.chunk_cells
    per_side = layout.shard_cells // side
    room = np.empty((side,) * 3, dtype)
    try:
        file = open_file(path)
    except OSError as error:
        yield CheckedBlock(start, shape, None, why_unreadable(error))
        return
    with file, one_thread_in_blosc():
        index: ShardIndex | str
        try:
            index, _ = find_index(file, per_side**3)
        except OSError as error:
            index = why_unreadable(error)
        if isinstance(index, str):
            yield CheckedBlock(start, shape, None, index)
            return
        places = [*product(*(range(-(-cells // side)) for cells in shape))]

        def chunk_at(place: tuple[int, ...]) -> slice:
            number = int(np.ravel_multi_index(place, (per_side,) * 3))
            return slice(number, number + 1)

        for place in _fetched_ahead(file, index, places, chunk_at):
            x, y, z = (low + side * at for low, at in zip(start, place, strict=True))
            a, b, c = (min(side, cells - side * at) for cells, at in zip(shape, place, strict=True))
            ((first, n_bytes),) = index[chunk_at(place)].tolist()
            try:
                damage = _decode(file, first, n_bytes, room.reshape(-1))
            except OSError as error:
                damage = why_unreadable(error)
            values = room[:a, :b, :c] if damage is None else None
            yield CheckedBlock((x, y, z), (a, b, c), values, damage)


def _in_threads(
    fetch: Callable[[ObjectPath, Sequence[ChunkRun]], OpenObject],
    parts: Sequence[tuple[StorePath, Sequence[ChunkRun]]],
) -> dict[StorePath, OpenObject]:
    """Return the objects of several parts, fetched at the same time; files are left out."""
    objects = [(path, runs) for path, runs in parts if isinstance(path, ObjectPath)]
    if len(objects) < 2:  # one is read as well in this thread
        return {}
    paths, runs = zip(*objects, strict=True)
    with ThreadPoolExecutor(len(objects)) as pool:
        return dict(zip(paths, pool.map(fetch, paths, runs), strict=True))


@contextmanager
def _open(path: StorePath, fetched: OpenObject | None = None) -> Iterator[OpenFile | OpenObject]:
    try:
        with fetched or open_file(path) as file:
            yield file
    except NOT_THERE as error:
        raise StoreDamageError(
            f"{path}: this part of the field is missing; ingest the simulation again"
        ) from error


def _fetched_ahead(
    file: OpenFile | OpenObject,
    index: ShardIndex,
    items: Sequence[Item],
    chunks_of: Callable[[Item], slice],
) -> Iterator[Item]:
    """Yield items in order, with their chunks fetched before if the shard is an object."""
    if isinstance(file, OpenFile):  # a read takes microseconds, so one chunk at a time is fine
        yield from items
        return
    batch: list[Item] = []
    ranges: list[tuple[int, int]] = []
    ahead_bytes = 0
    for item in items:
        entries = index[chunks_of(item)]
        there = [(first, n) for first, n in entries.tolist() if first != MISSING]
        item_bytes = sum(n for _, n in there)
        if batch and ahead_bytes + item_bytes > _FETCH_BYTES:
            file.fetch(ranges)
            yield from batch
            batch, ranges, ahead_bytes = [], [], 0
        batch.append(item)
        ranges += there
        ahead_bytes += item_bytes
    file.fetch(ranges)
    yield from batch


def _chunks_of_run(run: ChunkRun) -> slice:
    return slice(run.chunk, run.chunk + run.n_chunks)


def _decode_run(
    path: StorePath,
    file: OpenFile | OpenObject,
    index: ShardIndex,
    run: ChunkRun,
    rooms: list[Array],
) -> None:
    entries = index[_chunks_of_run(run)].tolist()
    for place, ((first, n_bytes), room) in enumerate(zip(entries, rooms, strict=False)):
        damage = _decode(file, first, n_bytes, room)
        if damage is not None:
            raise damage_of(path, f"chunk {run.chunk + place} {damage}")


def _decode(file: OpenFile | OpenObject, first: int, n_bytes: int, room: Array) -> str | None:
    """Decode a chunk into its room; return what is wrong with it, or None."""
    frame = b"" if first == MISSING else file.read_at(n_bytes, first)
    # Blosc takes no length of its input and trusts the sizes in its header, so wrong ones would
    # make it read or write beyond the buffers.
    if (
        len(frame) != n_bytes
        or crc32c(frame) != CRC_RESIDUE
        or FRAME_HEADER.unpack_from(frame) != (room.nbytes, n_bytes - CHECKSUM_BYTES)
    ):
        return _what_is_wrong(frame, n_bytes)
    try:
        blosc.decompress(frame, room)
    except (RuntimeError, ValueError) as error:
        return f"cannot be decoded ({error})"
    return None


def _what_is_wrong(frame: bytes, n_bytes: int) -> str:
    if n_bytes == MISSING:
        return "is missing"
    if len(frame) != n_bytes:
        return "is cut short"
    if crc32c(frame) != CRC_RESIDUE:
        return "does not match its checksum"
    return "is not of the size of a chunk"


@contextmanager
def one_thread_in_blosc() -> Iterator[None]:
    """Run Blosc in the calling thread alone."""
    # By default Blosc starts threads of its own in the main thread only, so others need no switch.
    if blosc.use_threads is False or threading.current_thread() is not threading.main_thread():
        yield
        return
    before, blosc.use_threads = blosc.use_threads, False
    try:
        yield
    finally:
        blosc.use_threads = before
