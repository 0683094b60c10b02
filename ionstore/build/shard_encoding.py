"""A shard as it is stored: its chunks compressed, each with its checksum, and an index of them."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from google_crc32c import value as crc32c

from ionstore.cube.arrays import Array
from ionstore.store.codecs import Compression, blosc
from ionstore.store.layout import Layout
from ionstore.store.shards import MISSING, ShardIndex, one_thread_in_blosc


def encode_shard(values: Array, *, layout: Layout, compression: Compression) -> Iterator[bytes]:
    """Yield the bytes of a shard, piece by piece.

    Parameters
    ----------
    values : ndarray, shape (a, b, c)
        Values of all cells of the shard that lie on the mesh, in the stored dtype.
    layout : Layout
        Chunks and shards of the field.
    compression : Compression
        Settings of Blosc.

    Yields
    ------
    bytes
        Every chunk that has cells on the mesh, in C order, all-zero ones too; then the index.
        Cells of a chunk off the mesh hold the fill value: NaN of floats, 0 of integers. Chunks
        wholly off the mesh are missing, as Zarr's sharding codec has it.

    Notes
    -----
    Blosc runs in the calling thread alone, without the global interpreter lock. Memory: one chunk,
    and what it is compressed to.

    References
    ----------
    Zarr v3 specification, codecs ``sharding_indexed``, ``blosc`` and ``crc32c``.
    """
    codec = blosc(compression, values.dtype)
    side = layout.chunk_cells
    per_side = layout.shard_cells // side
    chunk = np.empty((side,) * 3, values.dtype)
    index: ShardIndex = np.full((per_side**3, 2), MISSING, "<u8")
    first = 0
    with one_thread_in_blosc():
        for place in product(*(range(-(-cells // side)) for cells in values.shape)):
            i, j, k = (side * at for at in place)
            there = values[i : i + side, j : j + side, k : k + side]
            if there.shape != chunk.shape:
                chunk.fill(_fill_value(values.dtype))
            chunk[tuple(slice(cells) for cells in there.shape)] = there
            frame = _with_checksum(codec.encode(chunk))
            index[np.ravel_multi_index(place, (per_side,) * 3)] = first, len(frame)
            first += len(frame)
            yield frame
    yield _with_checksum(index.tobytes())


def _fill_value(dtype: np.dtype[Any]) -> float:
    return np.nan if dtype.kind == "f" else 0


def _with_checksum(content: bytes) -> bytes:
    return b"".join((content, crc32c(content).to_bytes(4, "little")))
