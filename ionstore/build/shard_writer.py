"""`ShardWriter`: writes the shards of a store, each as one file or object, and checks them."""

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from google_crc32c import value as crc32c

from ionstore.cube.mesh import Array, Corner
from ionstore.errors import StoreDamageError
from ionstore.storage.files import sync, whole_file
from ionstore.storage.paths import StorePath
from ionstore.storage.s3_lock import LockClaim
from ionstore.store.codecs import Compression, blosc
from ionstore.store.layout import Layout, Part
from ionstore.store.shard_index import MISSING, ShardIndex
from ionstore.store.shards import check_shard, one_thread_in_blosc


def encode_shard(values: Array, *, layout: Layout, compression: Compression) -> Iterator[bytes]:
    """Yield the bytes of a shard: its chunks on the mesh in C order, then the index.

    As Zarr v3 specifies for ``sharding_indexed``, ``blosc`` and ``crc32c``.
    """
    codec = blosc(compression, values.dtype)
    side = layout.chunk_cells
    per_side = layout.shard_cells // side
    chunk = np.empty((side,) * 3, values.dtype)
    # Chunks wholly off the mesh stay missing. All-zero chunks on it are written all the same.
    index: ShardIndex = np.full((per_side**3, 2), MISSING, "<u8")
    first = 0
    # The caller has a thread for each shard, and Blosc lets go of the interpreter lock.
    with one_thread_in_blosc():
        for place in product(*(range(-(-cells // side)) for cells in values.shape)):
            i, j, k = (side * at for at in place)
            there = values[i : i + side, j : j + side, k : k + side]
            if there.shape != chunk.shape:
                # The cells off the mesh; the chunk still holds those of the one before.
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


@dataclass(frozen=True, slots=True)
class Encoding:
    """Stored dtype and compression of a field."""

    dtype: np.dtype[Any]
    compression: Compression


@dataclass(frozen=True, slots=True)
class ShardWriter:
    """Writes the shards of a store that is being built; pickled for other processes.

    Every write covers one whole shard, so that several writers never meet in one file; the caller
    decides which writer takes which shard.
    """

    place: StorePath
    layout: Layout
    encodings: Mapping[str, Encoding]
    claim: LockClaim | None = None  # of a bucket: checked before every write

    def shard_path(self, part: Part) -> StorePath:
        """Return the file or object of a shard."""
        numbers = (part.redshift_index, *part.shard)
        return self.place.joinpath(part.field, "c", *map(str, numbers))

    def write_block(
        self, field: str, redshift_index: int, start: Corner, values: Array
    ) -> StorePath:
        """Write one whole shard of a field, from its first cell, and bring it to the disk."""
        encoding = self.encodings[field]
        if values.dtype != encoding.dtype:
            raise ValueError(f"values must be {encoding.dtype} for {field}, got {values.dtype}")
        i, j, k = values.shape
        shard = self.layout.shard_of_region(start, (i, j, k))
        path = self.shard_path(Part(field, redshift_index, shard))
        pieces = encode_shard(values, layout=self.layout, compression=encoding.compression)
        if isinstance(path, Path):
            _write(path, pieces)
        else:
            # An object is put whole, so it is encoded whole; a file takes one chunk at a time.
            content = b"".join(pieces)
            # After the encoding: the later the check, the less can happen before the write.
            if self.claim is not None:
                self.claim.check()
            path.write_bytes(content)
        return path

    def check_block(self, field: str, redshift_index: int, start: Corner, values: Array) -> None:
        """Read a shard back, decode it as loaders do, and compare it with what was written."""
        i, j, k = values.shape
        shard = self.layout.shard_of_region(start, (i, j, k))
        path = self.shard_path(Part(field, redshift_index, shard))
        for block in check_shard(path, shard, layout=self.layout, dtype=values.dtype):
            written = values[
                tuple(
                    slice(here - first, here - first + cells)
                    for here, first, cells in zip(block.start, start, block.shape, strict=True)
                )
            ]
            if block.values is None or not np.array_equal(block.values, written):
                what = block.damage or "holds other values than were written"
                raise StoreDamageError(
                    f"{path}: read back, the chunk from cell {block.start} on {what}; check the "
                    "disk and run the same command again"
                )


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Never written in place: the file may have a second name in another store, and a scheduler
    # may run the same part twice at once.
    with whole_file(path, mark=f".{uuid.uuid4().hex}") as temporary, temporary.open("wb") as file:
        file.writelines(pieces)
    sync(path.parent)
