"""Shards of chunks: which chunks a block needs, and how they are read, checked and decoded."""

import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from google_crc32c import value as crc32c
from numcodecs import blosc
from numpy.typing import NDArray

from ionstore.cube import Array
from ionstore.errors import StoreDamageError
from ionstore.layout import Corner, Layout

ShardIndex = NDArray[np.uint64]
"""Where the chunks of a shard lie in its file, shape (chunk, 2): first byte, number of bytes."""

Place = Callable[[Array, Corner, Corner, Corner], None]
"""Takes decoded chunks, and the `source`, `target` and `shape` of their run."""

_Run = tuple[int, int, int, int, int]
"""Along one axis: place of the first chunk, chunks, first cell in it and in the block, cells."""

_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_MISSING = 2**64 - 1
_CHECKSUM_BYTES = 4
_RESIDUE = 0x48674BC7  # CRC-32C of any bytes that end in their own CRC-32C
_HEADER = struct.Struct("<4xI4xI")  # of Blosc: size of the values, size of the frame
_RUN_CELLS = 2**18  # a megabyte of float32
_CACHE_BYTES = 8 * 2**20  # indexes of half a million chunks


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
    A shard that was written again since its index was read is noticed by its size, time or inode.
    """

    def __init__(self, max_bytes: int = _CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[Path, tuple[tuple[int, int, int], ShardIndex]] = OrderedDict()

    def index_of(self, path: Path, file: FileIO, n_chunks: int) -> ShardIndex:
        """Return the checked index of an open shard.

        Raises
        ------
        StoreDamageError
            If the index does not match its checksum, or points out of the file.
        """
        status = os.fstat(file.fileno())
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        with self._lock:
            kept = self._kept.get(path)
            if kept is not None and kept[0] == stamp:
                self._kept.move_to_end(path)
                return kept[1]
        index = _read_index(path, file, n_chunks, status.st_size)
        with self._lock:
            before = self._kept.pop(path, None)
            self._kept[path] = (stamp, index)
            self._n_bytes += index.nbytes - (before[1].nbytes if before else 0)
            while self._n_bytes > self._max_bytes and len(self._kept) > 1:
                _, (_, dropped) = self._kept.popitem(last=False)
                self._n_bytes -= dropped.nbytes
        return index


def read_chunks(
    path_of: Callable[[Corner], Path],
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
        Returns the file of a shard.
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
    decoded chunks, and one chunk that is not.
    """
    n_chunks = (layout.shard_cells // layout.chunk_cells) ** 3
    longest = max(run.n_chunks for part in parts for run in part.runs)
    chunks = np.empty((longest, *(layout.chunk_cells,) * 3), dtype)
    rooms = list(chunks.reshape(longest, -1))
    with _one_thread_in_blosc():
        for part in parts:
            path = path_of(part.shard)
            with _open(path) as file:
                index = indexes.index_of(path, file, n_chunks)
                for run in part.runs:
                    _decode_run(path, file.fileno(), index, run, rooms)
                    place(chunks, run.source, run.target, run.shape)


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
    path: Path, shard: Corner, *, layout: Layout, dtype: np.dtype[Any]
) -> Iterator[CheckedBlock]:
    """Read, check and decode every chunk of a shard; damage is told, not raised.

    Parameters
    ----------
    path : Path
        File of the shard.
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

    Notes
    -----
    Memory: one chunk, encoded and decoded.
    """
    start, shape = layout.shard_region(shard)
    side = layout.chunk_cells
    per_side = layout.shard_cells // side
    room = np.empty((side,) * 3, dtype)
    try:
        file = FileIO(path)
    except OSError as error:
        yield CheckedBlock(start, shape, None, _why_unreadable(error))
        return
    with file, _one_thread_in_blosc():
        try:
            index = _find_index(file, per_side**3, os.fstat(file.fileno()).st_size)
        except OSError as error:
            index = _why_unreadable(error)
        if isinstance(index, str):
            yield CheckedBlock(start, shape, None, index)
            return
        for place in product(*(range(-(-cells // side)) for cells in shape)):
            x, y, z = (low + side * at for low, at in zip(start, place, strict=True))
            a, b, c = (min(side, cells - side * at) for cells, at in zip(shape, place, strict=True))
            first, n_bytes = index[np.ravel_multi_index(place, (per_side,) * 3)].tolist()
            try:
                damage = _decode(file.fileno(), first, n_bytes, room.reshape(-1))
            except OSError as error:
                damage = _why_unreadable(error)
            values = room[:a, :b, :c] if damage is None else None
            yield CheckedBlock((x, y, z), (a, b, c), values, damage)


def _why_unreadable(error: OSError) -> str:
    if isinstance(error, _NOT_THERE):
        return "is missing"
    return f"cannot be read ({error.strerror or error})"


def _open(path: Path) -> FileIO:
    try:
        return FileIO(path)
    except _NOT_THERE as error:
        raise StoreDamageError(
            f"{path}: this part of the field is missing; ingest the simulation again"
        ) from error


def _decode_run(
    path: Path, descriptor: int, index: ShardIndex, run: ChunkRun, rooms: list[Array]
) -> None:
    entries = index[run.chunk : run.chunk + run.n_chunks].tolist()
    for place, ((first, n_bytes), room) in enumerate(zip(entries, rooms, strict=False)):
        damage = _decode(descriptor, first, n_bytes, room)
        if damage is not None:
            raise _damage(path, f"chunk {run.chunk + place} {damage}")


def _decode(descriptor: int, first: int, n_bytes: int, room: Array) -> str | None:
    """Decode a chunk into its room; return what is wrong with it, None if nothing is."""
    frame = b"" if first == _MISSING else _read(descriptor, n_bytes, first)
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
    if n_bytes == _MISSING:
        return "is missing"
    if len(frame) != n_bytes:
        return "is cut short"
    if crc32c(frame) != _RESIDUE:
        return "does not match its checksum"
    return "is not of the size of a chunk"


def _read_index(path: Path, file: FileIO, n_chunks: int, file_bytes: int) -> ShardIndex:
    index = _find_index(file, n_chunks, file_bytes)
    if isinstance(index, str):
        raise _damage(path, index)
    return index


def _find_index(file: FileIO, n_chunks: int, file_bytes: int) -> ShardIndex | str:
    """Return the index of a shard, or what is wrong with it."""
    index_bytes = 16 * n_chunks + _CHECKSUM_BYTES
    data_bytes = file_bytes - index_bytes
    stored = _read(file.fileno(), index_bytes, data_bytes) if data_bytes >= 0 else b""
    if len(stored) != index_bytes or crc32c(stored) != _RESIDUE:
        return "its index does not match its checksum"
    index: ShardIndex = np.frombuffer(stored, "<u8", count=2 * n_chunks).reshape(n_chunks, 2)
    first, n_bytes = index[(index != _MISSING).any(axis=1)].T
    least = _HEADER.size + _CHECKSUM_BYTES
    if (
        (first > data_bytes).any()
        or (n_bytes > data_bytes - first).any()
        or (n_bytes < least).any()
    ):
        return "its index points out of the file"
    return index


def _read(descriptor: int, n_bytes: int, first: int) -> bytes:
    """Return bytes of a file, fewer only where it ends."""
    stored = os.pread(descriptor, n_bytes, first)
    while len(stored) < n_bytes:  # some file systems give less than they have
        more = os.pread(descriptor, n_bytes - len(stored), first + len(stored))
        if not more:
            break
        stored += more
    return stored


@contextmanager
def _one_thread_in_blosc() -> Iterator[None]:
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


def _damage(path: Path, what: str) -> StoreDamageError:
    return StoreDamageError(f"{path}: {what}; the file is damaged, ingest the simulation again")
