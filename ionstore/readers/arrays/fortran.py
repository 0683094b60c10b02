"""Meshes in Fortran's sequential unformatted records: their three sizes, then their values.

A record stands between two markers of four bytes that hold its length, so that Fortran can skip it
in both directions. A record too long for a signed marker (2 GiB) is written as sub-records, each
between markers of its own: a negative leading marker says that another one follows, a negative
trailing marker that another one came before. Markers then lie in the midst of values.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np

from ionstore.cube.mesh import Array, Corner
from ionstore.errors import SourceDataError
from ionstore.readers.arrays.flat import (
    ByteOrder,
    FlatArray,
    fill_from,
    float_dtype,
    read_rows,
    shrunk,
)
from ionstore.readers.base import FieldSource
from ionstore.storage.files import OnBytes, naming, pieces

_SIZES_BYTES = 12
_VALUES_MARKER = 20  # after the record of sizes: 4 + 12 + 4 bytes
_UNMARKED_VALUES = 24  # after six int32: zero, the sizes, two zeros


@dataclass(frozen=True, slots=True)
class SubRecord:
    """Bytes of a record between two markers."""

    offset: int  # bytes of the file before them
    n_bytes: int


@dataclass(frozen=True)
class SplitArray(FieldSource):
    """An array in a record that is split into sub-records."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sub_records: tuple[SubRecord, ...]  # together, they have the bytes of the array
    fortran_order: bool = field(default=True, init=False)  # the order of Fortran's arrays

    def stream(self, on_bytes: OnBytes) -> Iterator[Array]:
        """Yield the values in the order of the file."""
        begun = b""  # bytes of a value that goes on in the next sub-record
        with naming(self.path), self.path.open("rb") as file:
            for sub_record in self.sub_records:
                for piece in pieces(file, sub_record.offset - file.tell()):
                    on_bytes(piece)
                for piece in pieces(file, sub_record.n_bytes):
                    on_bytes(piece)
                    begun += piece
                    n_values = len(begun) // self.dtype.itemsize
                    if n_values:
                        yield np.frombuffer(begun, self.dtype, n_values)
                        begun = begun[n_values * self.dtype.itemsize :]
                if file.tell() != sub_record.offset + sub_record.n_bytes:
                    raise shrunk(self.path)
            for piece in pieces(file):
                on_bytes(piece)

    def read_block(self, start: Corner, shape: Corner) -> Array:
        """Return a block."""
        begins = [0, *accumulate(sub_record.n_bytes for sub_record in self.sub_records)]
        with naming(self.path), self.path.open("rb", buffering=0) as file:

            def fill(first: int, out: memoryview) -> None:
                done = 0
                # A row, and even a value, may be interrupted by the markers between sub-records.
                while done < len(out):
                    index = bisect_right(begins, first + done) - 1
                    n_here = min(len(out) - done, begins[index + 1] - first - done)
                    offset = self.sub_records[index].offset + first + done - begins[index]
                    fill_from(self.path, file, offset, out[done : done + n_here])
                    done += n_here

            return read_rows(fill, self.shape, self.dtype, (start, shape), fortran_order=True)


def open_records(path: Path, head: bytes) -> FieldSource | None:
    """Return the values of a mesh written as two records, None if these are not its records."""
    found = sizes_in_record(head)
    if found is None:
        return None
    byte_order, shape = found
    with naming(path), path.open("rb") as file:
        sub_records = _read_record(path, file, _VALUES_MARKER, byte_order)
    n_bytes = sum(sub_record.n_bytes for sub_record in sub_records)
    dtype = float_dtype(byte_order, n_bytes, shape)
    if dtype is None:
        return None
    # Another mesh may follow, and it would be lost without a word.
    end, there = sub_records[-1].offset + sub_records[-1].n_bytes + 4, path.stat().st_size
    if there != end:
        raise SourceDataError(
            f"{path}: expected nothing after the values of the mesh {shape}, which end with byte "
            f"{end}, got a file of {there} bytes; it is damaged or holds more meshes, copy it again"
        )
    if len(sub_records) == 1:
        return FlatArray(path, shape, dtype, sub_records[0].offset, fortran_order=True)
    return SplitArray(path, shape, dtype, sub_records)


def open_imitated_records(path: Path, head: bytes) -> FieldSource | None:
    """Return the values of a mesh as tools21cm writes it, None if its size fits none."""
    # tools21cm 2.4.3, XfracFile.write_to_file, puts zeros where Fortran has markers, and none after
    # the values: no Fortran program can read it, but such files are passed around.
    shape = imitated_sizes(head)
    if shape is None:
        return None
    dtype = float_dtype("<", path.stat().st_size - _UNMARKED_VALUES, shape)
    if dtype is None:
        return None
    return FlatArray(path, shape, dtype, _UNMARKED_VALUES, fortran_order=True)


def imitated_sizes(head: bytes) -> Corner | None:
    """Return the sizes of a mesh that zeros stand around in place of markers, if they do."""
    if len(head) < _UNMARKED_VALUES:
        return None
    before, x, y, z, after, values = struct.unpack("<6i", head[:_UNMARKED_VALUES])
    return (x, y, z) if before == after == values == 0 and min(x, y, z) > 0 else None


def sizes_in_record(head: bytes) -> tuple[ByteOrder, Corner] | None:
    """Return byte order and sizes of a mesh, if a file begins with a whole record of them."""
    if len(head) < _VALUES_MARKER:
        return None
    # Fortran writes in the byte order of its machine; the known length of the record tells it.
    byte_orders: tuple[ByteOrder, ByteOrder] = ("<", ">")
    for byte_order in byte_orders:
        before, x, y, z, after = struct.unpack(f"{byte_order}5i", head[:_VALUES_MARKER])
        if before == after == _SIZES_BYTES and min(x, y, z) > 0:
            return byte_order, (x, y, z)
    return None


def begins_as_record(head: bytes) -> bool:
    """Tell whether a file begins with the marker of a record of three sizes."""
    return head[:4] in (struct.pack("<i", _SIZES_BYTES), struct.pack(">i", _SIZES_BYTES))


def _read_record(
    path: Path, file: IO[bytes], offset: int, byte_order: ByteOrder
) -> tuple[SubRecord, ...]:
    """Return the sub-records of the record that begins at an offset."""
    there = path.stat().st_size
    sub_records: list[SubRecord] = []
    while True:
        leading = _marker(file, offset, byte_order)
        end = offset + 4 + (abs(leading) if leading is not None else 0) + 4
        if leading is None or end > there:
            raise SourceDataError(
                f"{path}: its record of values needs {end} bytes or more, the file has {there}; "
                "it is truncated, copy it again"
            )
        # All markers are compared, as the only check that the format has against damage.
        trailing = _marker(file, end - 4, byte_order)
        expected = -abs(leading) if sub_records else abs(leading)
        if trailing != expected:
            raise SourceDataError(
                f"{path}: a record of {abs(leading)} bytes must end with the marker {expected}, "
                f"got {trailing}; the file is damaged, copy it again"
            )
        sub_records.append(SubRecord(offset + 4, abs(leading)))
        if leading >= 0:
            return tuple(sub_records)
        offset = end


def _marker(file: IO[bytes], offset: int, byte_order: ByteOrder) -> int | None:
    file.seek(offset)
    marker = file.read(4)
    return struct.unpack(f"{byte_order}i", marker)[0] if len(marker) == 4 else None
