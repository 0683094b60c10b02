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
"""Takes a decoded chunk, the first cell of a box in it and in the block, and the box's shape."""

_MISSING = 2**64 - 1
_CHECKSUM_BYTES = 4
_RESIDUE = 0x48674BC7  # CRC-32C of any bytes that end in their own CRC-32C
_HEADER = struct.Struct("<4xI4xI")  # of Blosc: size of the values, size of the frame
_CACHE_BYTES = 8 * 2**20  # indexes of half a million chunks


@dataclass(frozen=True, slots=True)
class ChunkPart:
    """The box of cells that one chunk shares with a block.

    Parameters
    ----------
    chunk : int
        Place of the chunk in its shard, in C order.
    source, target : tuple of three int
        First cell of the box in the chunk and in the block.
    shape : tuple of three int
        Cells of the box along each axis, at least 1.
    """

    chunk: int
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
    chunks : tuple of ChunkPart
        Its chunks, in C order.
    """

    shard: Corner
    chunks: tuple[ChunkPart, ...]


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

    Examples
    --------
    >>> (shard,) = plan_block(Layout(8, 4, 8), (3, 0, 4), (2, 2, 2))
    >>> shard.chunks[0]
    ChunkPart(chunk=1, source=(3, 0, 0), target=(0, 0, 0), shape=(1, 2, 2))
    >>> shard.chunks[1]
    ChunkPart(chunk=5, source=(0, 0, 0), target=(1, 0, 0), shape=(1, 2, 2))
    """
    per_side = layout.shard_cells // layout.chunk_cells
    along_x, along_y, along_z = (
        _plan_axis(layout, first, cells) for first, cells in zip(start, shape, strict=True)
    )
    parts = []
    for shard in product(along_x, along_y, along_z):
        chunks = []
        for x, y, z in product(along_x[shard[0]], along_y[shard[1]], along_z[shard[2]]):
            chunk, source, target, cells = zip(x, y, z, strict=True)
            place = (chunk[0] * per_side + chunk[1]) * per_side + chunk[2]
            chunks.append(ChunkPart(place, source, target, cells))
        parts.append(ShardPart(shard, tuple(chunks)))
    return tuple(parts)


def _plan_axis(
    layout: Layout, first: int, cells: int
) -> dict[int, list[tuple[int, int, int, int]]]:
    """Return the chunks of each shard along an axis: place, source, target, cells."""
    side = layout.chunk_cells
    per_shard = layout.shard_cells // side
    shards: dict[int, list[tuple[int, int, int, int]]] = {}
    for chunk in range(first // side, (first + cells - 1) // side + 1):
        begin = max(first, chunk * side)
        end = min(first + cells, (chunk + 1) * side)
        shard, place = divmod(chunk, per_shard)
        shards.setdefault(shard, []).append(
            (place, begin - chunk * side, begin - first, end - begin)
        )
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
    path: Path,
    parts: tuple[ChunkPart, ...],
    place: Place,
    *,
    layout: Layout,
    dtype: np.dtype[Any],
    indexes: ShardIndexes,
) -> None:
    """Read, check and decode chunks of a shard, and hand each to `place`.

    Parameters
    ----------
    path : Path
        File of the shard.
    parts : tuple of ChunkPart
        The chunks, as in `ShardPart.chunks`.
    place : callable
        Called with a decoded chunk, C-contiguous and overwritten afterwards, and with the
        `source`, `target` and `shape` of its part.
    layout : Layout
        Chunks and shards of the field.
    dtype : dtype
        Stored dtype.
    indexes : ShardIndexes
        Indexes read before.

    Raises
    ------
    StoreDamageError
        If the shard or a chunk is missing, cut short, does not match its checksum or does not
        decode to a chunk.
    OSError
        If the file cannot be read.

    Notes
    -----
    Chunks are taken in the order of the file. Blosc runs in the calling thread alone, without the
    global interpreter lock. Memory: one chunk, decoded and not.
    """
    n_chunks = (layout.shard_cells // layout.chunk_cells) ** 3
    chunk = np.empty((layout.chunk_cells,) * 3, dtype)
    try:
        file = FileIO(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise StoreDamageError(
            f"{path}: this part of the field is missing; ingest the simulation again"
        ) from error
    with file, _one_thread_in_blosc():
        index = indexes.index_of(path, file, n_chunks)
        entries = index[[part.chunk for part in parts]].tolist()
        for (first, n_bytes), part in sorted(
            zip(entries, parts, strict=True), key=lambda pair: pair[0][0]
        ):
            if first == _MISSING:
                raise _damage(path, f"chunk {part.chunk} is missing")
            frame = _read(file, n_bytes, first)
            _check_frame(path, frame, n_bytes, part.chunk, chunk.nbytes)
            try:
                blosc.decompress(frame, chunk)
            except (RuntimeError, ValueError) as error:
                what = f"chunk {part.chunk} cannot be decoded ({error})"
                raise _damage(path, what) from error
            place(chunk, part.source, part.target, part.shape)


def _check_frame(path: Path, frame: bytes, n_bytes: int, chunk: int, n_value_bytes: int) -> None:
    if len(frame) != n_bytes:
        raise _damage(path, f"chunk {chunk} is cut short")
    if crc32c(frame) != _RESIDUE:
        raise _damage(path, f"chunk {chunk} does not match its checksum")
    # Blosc is not told where its input ends, and believes the sizes that stand there.
    values, whole = _HEADER.unpack_from(frame)
    if (values, whole) != (n_value_bytes, n_bytes - _CHECKSUM_BYTES):
        raise _damage(path, f"chunk {chunk} is not of the size of a chunk")


def _read_index(path: Path, file: FileIO, n_chunks: int, file_bytes: int) -> ShardIndex:
    index_bytes = 16 * n_chunks + _CHECKSUM_BYTES
    data_bytes = file_bytes - index_bytes
    stored = _read(file, index_bytes, data_bytes) if data_bytes >= 0 else b""
    if len(stored) != index_bytes or crc32c(stored) != _RESIDUE:
        raise _damage(path, "its index does not match its checksum")
    index: ShardIndex = np.frombuffer(stored, "<u8", count=2 * n_chunks).reshape(n_chunks, 2)
    first, n_bytes = index[(index != _MISSING).any(axis=1)].T
    least = _HEADER.size + _CHECKSUM_BYTES
    if (
        (first > data_bytes).any()
        or (n_bytes > data_bytes - first).any()
        or (n_bytes < least).any()
    ):
        raise _damage(path, "its index points out of the file")
    return index


def _read(file: FileIO, n_bytes: int, first: int) -> bytes:
    """Return bytes of a file, fewer only where it ends."""
    stored = os.pread(file.fileno(), n_bytes, first)
    while len(stored) < n_bytes:  # some file systems give less than they have
        more = os.pread(file.fileno(), n_bytes - len(stored), first + len(stored))
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
