"""Numbers of one array that lie one after the other in a file, from some offset on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ionstore.cube.mesh import Array, Corner
from ionstore.errors import SourceDataError
from ionstore.readers.base import FieldSource
from ionstore.storage.files import OnBytes, naming, pieces

ByteOrder = Literal["<", ">"]

# A row read by itself costs about as much as 30 kB out of the page cache, and more from disk,
# where rows 11 kB apart took four times as long one by one as with what lies between them, which is
# nineteen times as much. Shards along the fastest axis share it while the page cache keeps it.
_GAP_BYTES = 1 << 15


@dataclass(frozen=True)
class FlatArray(FieldSource):
    """An uncompressed array inside of a file."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int = 0  # bytes of the file before the array
    fortran_order: bool = False

    def __post_init__(self) -> None:
        # Looked at once for all formats, so that a truncated file is refused before it is read.
        there = self.path.stat().st_size
        if there < self.offset + self.n_bytes:
            raise SourceDataError(
                f"{self.path}: an array of shape {self.shape} and {self.dtype} needs "
                f"{self.offset + self.n_bytes} bytes, the file has {there}; "
                "it is truncated, copy it again"
            )

    def stream(self, on_bytes: OnBytes) -> Iterator[Array]:
        """Yield the values in the order of the file."""
        with naming(self.path), self.path.open("rb") as file:
            for piece in pieces(file, self.offset):
                on_bytes(piece)
            done = 0
            for piece in pieces(file, self.n_bytes):
                on_bytes(piece)
                # Pieces have a power of two of bytes, so only the end of a file cuts a value.
                if len(piece) % self.dtype.itemsize:
                    raise shrunk(self.path)
                done += len(piece)
                yield np.frombuffer(piece, self.dtype)
            if done != self.n_bytes:
                raise shrunk(self.path)
            for piece in pieces(file):
                on_bytes(piece)

    def read_block(self, start: Corner, shape: Corner) -> Array:
        """Return a block."""
        # Unbuffered: what a block needs is read into its place, without a copy in between.
        with naming(self.path), self.path.open("rb", buffering=0) as file:

            def fill(first: int, out: memoryview) -> None:
                fill_from(self.path, file, self.offset + first, out)

            return read_rows(fill, self.shape, self.dtype, (start, shape), self.fortran_order)


class SpooledSource(FieldSource):
    """A source that can be streamed, not cut: its blocks are read from a spool file."""

    @property
    def spool_bytes(self) -> int:
        """Bytes of all values."""
        return self.n_bytes

    def read_block(self, start: Corner, shape: Corner) -> Array:
        """Raise an error, as only the source that `from_spool` returns reads blocks."""
        raise NotImplementedError(f"{self.path}: read blocks from the spool file of its values")

    def from_spool(self, path: Path) -> FlatArray:
        """Return the source that reads the spooled values."""
        return FlatArray(path, self.shape, self.dtype, 0, self.fortran_order)


def read_rows(
    fill: Callable[[int, memoryview], object],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    block: tuple[Corner, Corner],
    fortran_order: bool,
) -> Array:
    """Return a block (its start and shape) of an array out of its bytes.

    `fill` is called with a place in bytes from the beginning of the array, and memory to fill
    from there.
    """
    # Files are not memory-mapped: the system kills a process when a mapped file shrinks or fails.
    axes = (2, 1, 0) if fortran_order else (0, 1, 2)  # the slowest one first
    mesh, start, cells = ([sizes[axis] for axis in axes] for sizes in (shape, *block))
    item = dtype.itemsize
    row, pitch = cells[2] * item, mesh[2] * item
    # Rows near to each other are read with what lies between them, others one by one.
    together = pitch - row <= _GAP_BYTES
    stride = pitch if together else row
    plane = memoryview(bytearray((cells[1] - 1) * stride + row))
    # One view of the memory that each plane is read into: the gaps are skipped by its strides.
    plane_values = np.ndarray(cells[1:], dtype, plane, 0, (stride, item))
    values = np.empty(block[1], dtype)
    for index in range(cells[0]):
        first = ((start[0] + index) * mesh[1] + start[1]) * pitch + start[2] * item
        if together:
            fill(first, plane)
        else:
            for line in range(cells[1]):
                fill(first + line * pitch, plane[line * row : (line + 1) * row])
        values.transpose(axes)[index] = plane_values
    return values


def fill_from(path: Path, file: FileIO, offset: int, out: memoryview) -> None:
    """Fill memory with the bytes of a file from an offset on."""
    file.seek(offset)
    done = 0
    # One call may read less than asked for: Linux stops at 2 GB, network file systems before.
    while done < len(out):
        n_read = file.readinto(out[done:])
        if not n_read:
            raise shrunk(path)
        done += n_read


def float_dtype(
    byte_order: ByteOrder, n_bytes: int, shape: tuple[int, ...]
) -> np.dtype[Any] | None:
    """Return float32 or float64, whichever fills a mesh with a number of bytes, None if neither."""
    # The codes write no dtype, and read in the wrong one, values would be plausible garbage.
    for dtype in (np.dtype(f"{byte_order}f4"), np.dtype(f"{byte_order}f8")):
        if n_bytes == prod(shape) * dtype.itemsize:
            return dtype
    return None


def shrunk(path: Path) -> SourceDataError:
    """Return the error of a file that is shorter than it was when it was opened first."""
    return SourceDataError(f"{path}: the file shrank while it was read; try again")
