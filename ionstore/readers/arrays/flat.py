"""Numbers of one array lying one after the other in a file, from some offset on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ionstore.cube.mesh import Array, Corner
from ionstore.errors import SourceDataError
from ionstore.readers.base import FieldSource
from ionstore.storage.files import OnBytes, naming, pieces

# A row read by itself costs about as much as 30 kB out of the page cache, and more from disk,
# where rows 11 kB apart took four times as long one by one as with what lies between them, which is
# nineteen times as much. Shards along the fastest axis share it while the page cache keeps it.
_GAP_BYTES = 1 << 15


@dataclass(frozen=True)
class FlatArray(FieldSource):
    """An uncompressed array inside of a file.

    Parameters
    ----------
    path : Path
        The file.
    shape : tuple of int
        Shape of the array.
    dtype : numpy.dtype
        Dtype in the file, byte order included.
    offset : int
        Bytes before the array.
    fortran_order : bool
        Whether the first index runs fastest.

    Raises
    ------
    SourceDataError
        If the file is too short for the array.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int = 0
    fortran_order: bool = False

    def __post_init__(self) -> None:
        there = self.path.stat().st_size
        if there < self.offset + self.n_bytes:
            raise SourceDataError(
                f"{self.path}: an array of shape {self.shape} and {self.dtype} needs "
                f"{self.offset + self.n_bytes} bytes, the file has {there}; "
                "it is truncated, copy it again"
            )

    @property
    def n_bytes(self) -> int:
        """Bytes of the array."""
        return prod(self.shape) * self.dtype.itemsize

    def stream(self, on_bytes: OnBytes) -> Iterator[Array]:
        """Yield the values in the order of the file.

        Parameters
        ----------
        on_bytes : callable
            Called with all bytes of the file in their order, for a digest of it.

        Raises
        ------
        SourceDataError
            If the file has become too short.
        OSError
            If it cannot be read.
        """
        with naming(self.path), self.path.open("rb") as file:
            for piece in pieces(file, self.offset):
                on_bytes(piece)
            done = 0
            for piece in pieces(file, self.n_bytes):
                on_bytes(piece)
                if len(piece) % self.dtype.itemsize:  # its end, in the midst of a value
                    raise shrunk(self.path)
                done += len(piece)
                yield np.frombuffer(piece, self.dtype)
            if done != self.n_bytes:
                raise shrunk(self.path)
            for piece in pieces(file):
                on_bytes(piece)

    def read_block(self, start: Corner, shape: Corner) -> Array:
        """Return a block.

        Raises
        ------
        SourceDataError
            If the file has become too short.
        OSError
            If it cannot be read.
        """
        with naming(self.path), self.path.open("rb", buffering=0) as file:

            def fill(first: int, out: memoryview) -> None:
                fill_from(self.path, file, self.offset + first, out)

            return read_rows(fill, self.shape, self.dtype, (start, shape), self.fortran_order)


def read_rows(
    fill: Callable[[int, memoryview], object],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    block: tuple[Corner, Corner],
    fortran_order: bool,
) -> Array:
    """Return a block of an array out of its bytes.

    Parameters
    ----------
    fill : callable
        Called with a place in bytes from the beginning of the array, and memory to fill from there.
    shape : tuple of three int
        Shape of the array.
    dtype : numpy.dtype
        Its dtype.
    block : tuple of two tuples of three int
        First cell and cells along x, y, z.
    fortran_order : bool
        Whether the first index runs fastest.

    Returns
    -------
    ndarray
        New array, indexed [x, y, z], C-contiguous.

    Notes
    -----
    Files are not memory-mapped: the system kills a process when a mapped file shrinks or fails.
    """
    axes = (2, 1, 0) if fortran_order else (0, 1, 2)  # the slowest one first
    mesh, start, cells = ([sizes[axis] for axis in axes] for sizes in (shape, *block))
    item = dtype.itemsize
    row, pitch = cells[2] * item, mesh[2] * item
    # Rows near to each other are read with what lies between them, others one by one.
    together = pitch - row <= _GAP_BYTES
    stride = pitch if together else row
    plane = memoryview(bytearray((cells[1] - 1) * stride + row))
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
    """Fill memory with the bytes of a file from an offset on.

    Raises
    ------
    SourceDataError
        If the file ends before.
    """
    file.seek(offset)
    done = 0
    while done < len(out):
        n_read = file.readinto(out[done:])
        if not n_read:
            raise shrunk(path)
        done += n_read


def shrunk(path: Path) -> SourceDataError:
    """Return the error of a file that is shorter than it was when it was opened first."""
    return SourceDataError(f"{path}: the file shrank while it was read; try again")
