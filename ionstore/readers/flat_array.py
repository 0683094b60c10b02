"""Numbers of one array lying one after the other in a file, from some offset on."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from ionstore.cube import Array
from ionstore.errors import SourceDataError
from ionstore.layout import Corner
from ionstore.readers.base import STREAM_BYTES, FieldSource, OnBytes, naming


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
        """Yield the values in the order of the file."""
        with naming(self.path), self.path.open("rb") as file:
            for piece in pieces(file, self.offset):
                on_bytes(piece)
            done = 0
            for piece in pieces(file, self.n_bytes):
                on_bytes(piece)
                done += len(piece)
                yield np.frombuffer(piece, self.dtype)
            if done != self.n_bytes:
                raise SourceDataError(f"{self.path}: the file shrank while it was read; try again")
            for piece in pieces(file):
                on_bytes(piece)

    def read_block(self, start: Corner, shape: Corner) -> Array:
        """Return a block, copied out of the memory-mapped file."""
        cube = np.memmap(
            self.path,
            self.dtype,
            "r",
            self.offset,
            self.shape,
            order="F" if self.fortran_order else "C",
        )
        x, y, z = (slice(first, first + cells) for first, cells in zip(start, shape, strict=True))
        return np.array(cube[x, y, z], order="C")


def read_pieces(path: Path, on_bytes: OnBytes) -> None:
    """Hand all bytes of a file to `on_bytes`."""
    with naming(path), path.open("rb") as file:
        for piece in pieces(file):
            on_bytes(piece)


def pieces(file: IO[bytes], n_bytes: int | None = None) -> Iterator[bytes]:
    """Yield the next bytes of a file, as many as asked for or are there, in pieces."""
    left = n_bytes
    while left is None or left > 0:
        piece = file.read(STREAM_BYTES if left is None else min(STREAM_BYTES, left))
        if not piece:
            return
        if left is not None:
            left -= len(piece)
        yield piece
