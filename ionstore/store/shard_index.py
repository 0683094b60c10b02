"""The index of a shard, which says where its chunks lie, and a cache of indexes."""

import struct
import threading
from collections import OrderedDict

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

from ionstore.errors import StoreDamageError
from ionstore.storage.paths import OpenFile, StorePath
from ionstore.storage.s3 import OpenObject, Stamp

ShardIndex = NDArray[np.uint64]
"""Where the chunks of a shard lie in its file, shape (chunk, 2): first byte, number of bytes."""

MISSING = 2**64 - 1  # both numbers of a chunk that is not stored, as Zarr v3 has it
CHECKSUM_BYTES = 4
CRC_RESIDUE = 0x48674BC7  # CRC-32C of any bytes that end in their own CRC-32C
FRAME_HEADER = struct.Struct("<4xI4xI")  # of Blosc: size of the values, size of the frame
_CACHE_BYTES = 8 * 2**20  # indexes of half a million chunks


class ShardIndexes:
    """The indexes of the shards read last, for all threads of a process."""

    def __init__(self, max_bytes: int = _CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[StorePath, tuple[Stamp, ShardIndex]] = OrderedDict()

    def index_of(self, path: StorePath, file: OpenFile | OpenObject, n_chunks: int) -> ShardIndex:
        """Return the checked index of an open shard; raise StoreDamageError if it is damaged."""
        with self._lock:
            kept = self._kept.get(path)
            # A file rewritten since is known by its size, time or inode. An object counts as the
            # same until what its index says turns out to be wrong: asking costs a request.
            if kept is not None and file.is_still(kept[0]):
                self._kept.move_to_end(path)
                return kept[1]
        # Read without the lock, so that other threads do not wait for the disk.
        index, stamp = find_index(file, n_chunks)
        if isinstance(index, str):
            raise damage_of(path, index)
        with self._lock:
            self._drop(path)
            self._kept[path] = (stamp, index)
            self._n_bytes += index.nbytes
            # The newest is kept whatever its size, as it is in use.
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


def find_index(file: OpenFile | OpenObject, n_chunks: int) -> tuple[ShardIndex | str, Stamp]:
    """Return the index of a shard, or what is wrong with it, and the stamp of its file."""
    index_bytes = 16 * n_chunks + CHECKSUM_BYTES
    stored, file_bytes, stamp = file.read_end(index_bytes)
    return _parse_index(stored, n_chunks, file_bytes - index_bytes), stamp


def _parse_index(stored: bytes, n_chunks: int, data_bytes: int) -> ShardIndex | str:
    """Return the index that follows the chunks in a shard, or what is wrong with it."""
    is_whole = data_bytes >= 0 and len(stored) == 16 * n_chunks + CHECKSUM_BYTES
    if not is_whole or crc32c(stored) != CRC_RESIDUE:
        return "its index does not match its checksum"
    index: ShardIndex = np.frombuffer(stored, "<u8", count=2 * n_chunks).reshape(n_chunks, 2)
    first, n_bytes = index[(index != MISSING).any(axis=1)].T
    least = FRAME_HEADER.size + CHECKSUM_BYTES  # shorter chunks have no header to unpack
    if (
        (first > data_bytes).any()
        or (n_bytes > data_bytes - first).any()
        or (n_bytes < least).any()
    ):
        return "its index points out of the file"
    return index


def damage_of(path: StorePath, what: str) -> StoreDamageError:
    """Return the error that says what is wrong with a shard."""
    return StoreDamageError(f"{path}: {what}; the file is damaged, ingest the simulation again")
