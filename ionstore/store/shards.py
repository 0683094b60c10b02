"""Shards of chunks: which chunks a block needs, and how they are read, checked and decoded."""

import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import numpy as np
from google_crc32c import value as crc32c
from numcodecs import blosc
from numpy.typing import NDArray

from ionstore.cube.mesh import Array, Corner
from ionstore.errors import StoreDamageError
from ionstore.storage.files import NOT_THERE, why_unreadable
from ionstore.storage.paths import OpenFile, StorePath, open_file
from ionstore.storage.s3 import ObjectPath, OpenObject, Stamp
from ionstore.store.layout import Layout

ShardIndex = NDArray[np.uint64]
"""Where the chunks of a shard lie in its file, shape (chunk, 2): first byte, number of bytes."""

Place = Callable[[Array, Corner, Corner, Corner], None]
"""Takes decoded chunks, and the `source`, `target` and `shape` of their run."""

Item = TypeVar("Item")

_Run = tuple[int, int, int, int, int]
"""Along one axis: place of the first chunk, chunks, first cell in it and in the block, cells."""

MISSING = 2**64 - 1
_CHECKSUM_BYTES = 4
_RESIDUE = 0x48674BC7  # CRC-32C of any bytes that end in their own CRC-32C
_HEADER = struct.Struct("<4xI4xI")  # of Blosc: size of the values, size of the frame
_RUN_CELLS = 2**18  # a megabyte of float32
_CACHE_BYTES = 8 * 2**20  # indexes of half a million chunks
_FETCH_BYTES = 16 * 2**20  # of chunks of an object, held until they are decoded
_PARTS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class ChunkRun:
    """The box of cells that chunks in a row along z share with a block.

    Parameters
    ----------
    chunk : int
        Place of the first chunk in its shard, in C order; the others follow it.
    n_chunks : int
        How many chunks, at least 1.
    source, target : tuple of three int
        First cell of the box in the first chunk and in the block.
    shape : tuple of three int
        Cells of the box along each axis, over all chunks.
    """

    chunk: int
    n_chunks: int
    source: Corner
    target: Corner
    shape: Corner


@dataclass(frozen=True, slots=True)
class ShardPart:
    """The chunks of one shard that a block needs.

    Parameters
    ----------
    shard : tuple of three int
        Indices of the shard.
    runs : tuple of ChunkRun
        Its chunks, in C order.
    """

    shard: Corner
    runs: tuple[ChunkRun, ...]

    @property
    def n_chunks(self) -> int:
        """Chunks of all runs."""
        return sum(run.n_chunks for run in self.runs)


def plan_block(layout: Layout, start: Corner, shape: Corner) -> tuple[ShardPart, ...]:
    """Return the chunks that share cells with a block on the mesh, shard by shard.

    Parameters
    ----------
    layout : Layout
        Chunks and shards of the field.
    start : tuple of three int
        First cell (i, j, k) of a block that lies on the mesh.
    shape : tuple of three int
        Cells along each axis, at least 1.

    Notes
    -----
    Decoded chunks of a run lie in the processor's cache together: at most 2**18 cells, or one
    chunk.

    Examples
    --------
    >>> (shard,) = plan_block(Layout(8, 4, 8), (3, 0, 2), (2, 2, 4))
    >>> shard.runs[0]
    ChunkRun(chunk=0, n_chunks=2, source=(3, 0, 2), target=(0, 0, 0), shape=(1, 2, 4))
    >>> shard.runs[1]
    ChunkRun(chunk=4, n_chunks=2, source=(0, 0, 2), target=(1, 0, 0), shape=(1, 2, 4))
    """
    per_side = layout.shard_cells // layout.chunk_cells
    longest = max(1, _RUN_CELLS // layout.chunk_cells**3)
    along_x, along_y = (
        _plan_axis(layout, first, cells, longest=1)
        for first, cells in zip(start[:2], shape[:2], strict=True)
    )
    along_z = _plan_axis(layout, start[2], shape[2], longest=longest)
    parts = []
    for shard in product(along_x, along_y, along_z):
        runs = []
        for x, y, z in product(along_x[shard[0]], along_y[shard[1]], along_z[shard[2]]):
            places, n_chunks, source, target, cells = zip(x, y, z, strict=True)
            chunk = (places[0] * per_side + places[1]) * per_side + places[2]
            runs.append(ChunkRun(chunk, n_chunks[2], source, target, cells))
        parts.append(ShardPart(shard, tuple(runs)))
    return tuple(parts)


def _plan_axis(layout: Layout, first: int, cells: int, *, longest: int) -> dict[int, list[_Run]]:
    """Return the runs of chunks of each shard along an axis."""
    side = layout.chunk_cells
    per_shard = layout.shard_cells // side
    end = first + cells
    shards: dict[int, list[_Run]] = {}
    chunk = first // side
    while chunk * side < end:
        shard, place = divmod(chunk, per_shard)
        n_chunks = min(longest, per_shard - place, (end - 1) // side + 1 - chunk)
        low = max(first, chunk * side)
        high = min(end, (chunk + n_chunks) * side)
        run = (place, n_chunks, low - chunk * side, low - first, high - low)
        shards.setdefault(shard, []).append(run)
        chunk += n_chunks
    return shards


class ShardIndexes:
    """The indexes of the shards read last, for all threads of a process.

    Parameters
    ----------
    max_bytes : int
        Memory that they may take together; the one in use is kept in any case.

    Notes
    -----
    A shard that was written again since its index was read is noticed by its size, time or inode;
    one in an object store only where what its index says is not there any more.
    """

    def __init__(self, max_bytes: int = _CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[StorePath, tuple[Stamp, ShardIndex]] = OrderedDict()

    def index_of(self, path: StorePath, file: OpenFile | OpenObject, n_chunks: int) -> ShardIndex:
        """Return the checked index of an open shard.

        Raises
        ------
        StoreDamageError
            If the index does not match its checksum, or points out of the file.
        OSError
            If it cannot be read.
        """
        with self._lock:
            kept = self._kept.get(path)
            if kept is not None and file.is_still(kept[0]):
                self._kept.move_to_end(path)
                return kept[1]
        index, stamp = _find_index(file, n_chunks)
        if isinstance(index, str):
            raise _damage(path, index)
        with self._lock:
            self._drop(path)
            self._kept[path] = (stamp, index)
            self._n_bytes += index.nbytes
            while self._n_bytes > self._max_bytes and len(self._kept) > 1:
                _, (_, dropped) = self._kept.popitem(last=False)
                self._n_bytes -= dropped.nbytes
        return index

    def forget(self, path: StorePath) -> None:
        """Drop the index of a shard, if it is kept."""
        with self._lock:
            self._drop(path)

    def _drop(self, path: StorePath) -> None:
        dropped = self._kept.pop(path, None)
        if dropped is not None:
            self._n_bytes -= dropped[1].nbytes


def read_chunks(
    path_of: Callable[[Corner], StorePath],
    parts: tuple[ShardPart, ...],
    place: Place,
    *,
    layout: Layout,
    dtype: np.dtype[Any],
    indexes: ShardIndexes,
) -> None:
    """Read, check and decode the chunks of a block, and hand each run of them to `place`.

    Parameters
    ----------
    path_of : callable
        Returns the file or the object of a shard.
    parts : tuple of ShardPart
        The chunks, from `plan_block`.
    place : callable
        Called with the chunks of a run, shape (n, side, side, side), C-contiguous and overwritten
        afterwards, and with the `source`, `target` and `shape` of the run.
    layout : Layout
        Chunks and shards of the field.
    dtype : dtype
        Stored dtype.
    indexes : ShardIndexes
        Indexes read before.

    Raises
    ------
    StoreDamageError
        If a shard or a chunk is missing, cut short, does not match its checksum or does not
        decode to a chunk.
    OSError
        If a file cannot be read.

    Notes
    -----
    Blosc runs in the calling thread alone, without the global interpreter lock. Memory: one run of
    decoded chunks, and one chunk that is not; from an object store up to 16 MiB of each of four
    parts that are not, fetched in few requests at the same time.
    """
    n_chunks = (layout.shard_cells // layout.chunk_cells) ** 3
    longest = max(run.n_chunks for part in parts for run in part.runs)
    chunks = np.empty((longest, *(layout.chunk_cells,) * 3), dtype)
    rooms = list(chunks.reshape(longest, -1))

    def read_part(path: StorePath, file: OpenFile | OpenObject, runs: Sequence[ChunkRun]) -> None:
        index = indexes.index_of(path, file, n_chunks)
        for run in _at_hand(file, index, runs, _chunks_of_run):
            _decode_run(path, file, index, run, rooms)
            place(chunks, run.source, run.target, run.shape)

    def fetch(path: ObjectPath, runs: Sequence[ChunkRun]) -> OpenObject:
        file = OpenObject(path)
        with suppress(StoreDamageError, *NOT_THERE):  # met again where the part is decoded
            index = indexes.index_of(path, file, n_chunks)
            next(_at_hand(file, index, runs, _chunks_of_run))
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
                        if not file.was_replaced():
                            raise
                        indexes.forget(path)
                        read_part(path, file, runs)


@dataclass(frozen=True, slots=True, eq=False)
class CheckedBlock:
    """A chunk of a shard, or all of it where none of its chunks can be found.

    Parameters
    ----------
    start, shape : tuple of three int
        First cell, and cells along each axis, of what lies on the mesh.
    values : ndarray, optional
        The values, overwritten by the next block; None where there is damage.
    damage : str, optional
        What is wrong, as the predicate of a sentence; None where nothing is.
    """

    start: Corner
    shape: Corner
    values: Array | None
    damage: str | None = None


def check_shard(
    path: StorePath, shard: Corner, *, layout: Layout, dtype: np.dtype[Any]
) -> Iterator[CheckedBlock]:
    """Read, check and decode every chunk of a shard; damage is told, not raised.

    Parameters
    ----------
    path : Path or ObjectPath
        File or object of the shard.
    shard : tuple of three int
        Its indices.
    layout : Layout
        Chunks and shards of the field.
    dtype : dtype
        Stored dtype.

    Yields
    ------
    CheckedBlock
        Every chunk that has cells on the mesh, in C order; or the whole shard once, if it is
        missing, cannot be read, or its index is damaged. Nothing is expected off the mesh.

    Raises
    ------
    ObjectStoreError
        If an object store does not answer: that says nothing about the shard.

    Notes
    -----
    Memory: one chunk, encoded and decoded; from an object store up to 16 MiB that are encoded.
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
            index, _ = _find_index(file, per_side**3)
        except OSError as error:
            index = why_unreadable(error)
        if isinstance(index, str):
            yield CheckedBlock(start, shape, None, index)
            return
        places = [*product(*(range(-(-cells // side)) for cells in shape))]

        def chunk_at(place: tuple[int, ...]) -> slice:
            number = int(np.ravel_multi_index(place, (per_side,) * 3))
            return slice(number, number + 1)

        for place in _at_hand(file, index, places, chunk_at):
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
    """Return the objects of several parts, fetched at the same time; nothing for files."""
    objects = [(path, runs) for path, runs in parts if isinstance(path, ObjectPath)]
    if len(objects) < 2:
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


def _at_hand(
    file: OpenFile | OpenObject,
    index: ShardIndex,
    items: Sequence[Item],
    chunks_of: Callable[[Item], slice],
) -> Iterator[Item]:
    """Yield items in their order, the chunks of each fetched before where requests take long."""
    if isinstance(file, OpenFile):
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
            raise _damage(path, f"chunk {run.chunk + place} {damage}")


def _decode(file: OpenFile | OpenObject, first: int, n_bytes: int, room: Array) -> str | None:
    """Decode a chunk into its room; return what is wrong with it, None if nothing is."""
    frame = b"" if first == MISSING else file.read_at(n_bytes, first)
    # Blosc is not told where its input ends, and believes the sizes that stand in its header.
    if (
        len(frame) != n_bytes
        or crc32c(frame) != _RESIDUE
        or _HEADER.unpack_from(frame) != (room.nbytes, n_bytes - _CHECKSUM_BYTES)
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
    if crc32c(frame) != _RESIDUE:
        return "does not match its checksum"
    return "is not of the size of a chunk"


def _find_index(file: OpenFile | OpenObject, n_chunks: int) -> tuple[ShardIndex | str, Stamp]:
    """Return the index of a shard, or what is wrong with it, and the stamp of its file."""
    index_bytes = 16 * n_chunks + _CHECKSUM_BYTES
    stored, file_bytes, stamp = file.read_end(index_bytes)
    return _parse_index(stored, n_chunks, file_bytes - index_bytes), stamp


def _parse_index(stored: bytes, n_chunks: int, data_bytes: int) -> ShardIndex | str:
    """Return the index that lies behind chunks, or what is wrong with it."""
    is_whole = data_bytes >= 0 and len(stored) == 16 * n_chunks + _CHECKSUM_BYTES
    if not is_whole or crc32c(stored) != _RESIDUE:
        return "its index does not match its checksum"
    index: ShardIndex = np.frombuffer(stored, "<u8", count=2 * n_chunks).reshape(n_chunks, 2)
    first, n_bytes = index[(index != MISSING).any(axis=1)].T
    least = _HEADER.size + _CHECKSUM_BYTES
    if (
        (first > data_bytes).any()
        or (n_bytes > data_bytes - first).any()
        or (n_bytes < least).any()
    ):
        return "its index points out of the file"
    return index


@contextmanager
def one_thread_in_blosc() -> Iterator[None]:
    """Keep Blosc from threads of its own: it runs in the calling thread alone."""
    # Left to itself, Blosc uses threads of its own in the main thread and nowhere else, so that
    # this changes nothing for other threads.
    if blosc.use_threads is False or threading.current_thread() is not threading.main_thread():
        yield
        return
    before, blosc.use_threads = blosc.use_threads, False
    try:
        yield
    finally:
        blosc.use_threads = before


def _damage(path: StorePath, what: str) -> StoreDamageError:
    return StoreDamageError(f"{path}: {what}; the file is damaged, ingest the simulation again")
