"""Arrays in NumPy's files: ``.npy``, ``.npz``, and np.save streams under an ``.npz`` name."""

import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ionstore.cube.mesh import Array
from ionstore.errors import SourceDataError
from ionstore.readers.arrays.flat import FlatArray, SpooledSource
from ionstore.readers.base import FieldSource
from ionstore.storage.files import STREAM_BYTES, OnBytes, naming, read_pieces

NPY_MAGIC = b"\x93NUMPY"
"""First bytes of files of `numpy.save`."""

ZIP_MAGIC = b"PK\x03\x04"
"""First bytes of files of `numpy.savez`, as of all zip archives."""

# NumPy reads a header as a Python literal, so damage shows in whatever way Python refuses text.
_HEADER_DAMAGE = (
    *(ValueError, KeyError, TypeError, EOFError, OSError),
    *(SyntaxError, tokenize.TokenError, MemoryError, RecursionError, OverflowError),
)
_ZIP_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class _Header:
    """The array that a header describes, and the bytes of the header before it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    n_bytes: int


@dataclass(frozen=True)
class CompressedMember(SpooledSource):
    """An array in a compressed member of an ``.npz`` file."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    member: str
    header_bytes: int  # bytes of the member before the values
    fortran_order: bool

    def stream(self, on_bytes: OnBytes) -> Iterator[Array]:
        """Yield the values in the order of the member; its checksum is compared at the end."""
        # The archive is read out of order (its table lies at the end), so a pass of its own hands
        # over the bytes.
        read_pieces(self.path, on_bytes)
        left = self.n_bytes
        try:
            with (
                naming(self.path),
                zipfile.ZipFile(self.path) as archive,
                archive.open(self.member) as file,
            ):
                file.read(self.header_bytes)
                while piece := file.read(min(STREAM_BYTES, left)):
                    left -= len(piece)
                    yield np.frombuffer(piece, self.dtype, len(piece) // self.dtype.itemsize)
                file.read()  # to the end, where the checksum is compared
        except _ZIP_DAMAGE as error:
            raise _damaged(self.path, error) from error
        if left:
            raise SourceDataError(
                f"{self.path}: member {self.member} ends {left} bytes before its array of shape "
                f"{self.shape}; it is truncated, copy it again"
            )


def open_numpy_file(path: Path, preferred_member: str) -> FieldSource:
    """Return the array of a file by its first bytes, since streams are saved as ``.npz`` too.

    Of several arrays in an archive, the one named `preferred_member` is taken.
    """
    with naming(path), path.open("rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic == NPY_MAGIC:
            header = _read_header(path, file)
            return FlatArray(path, header.shape, header.dtype, header.n_bytes, header.fortran_order)
    if not magic:
        raise SourceDataError(f"{path}: it is empty; copy it again")
    if magic[:4] != ZIP_MAGIC:
        raise SourceDataError(
            f"{path}: expected a file of numpy.save or numpy.savez, "
            f"got one that begins with {magic!r}; convert it with numpy.save"
        )
    try:
        return _open_archive(path, preferred_member)
    except _ZIP_DAMAGE as error:
        raise _damaged(path, error) from error


def _open_archive(path: Path, preferred_member: str) -> FieldSource:
    with naming(path), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if len(members) != 1 and preferred_member not in members:
            raise SourceDataError(
                f"{path}: expected one array, or one named {preferred_member}, "
                f"got {', '.join(members) or 'none'}; save the field alone"
            )
        info = members.get(preferred_member) or next(iter(members.values()))
        with archive.open(info) as member:
            header = _read_header(path, member)
    if info.compress_type != zipfile.ZIP_STORED:
        return CompressedMember(
            path, header.shape, header.dtype, info.filename, header.n_bytes, header.fortran_order
        )
    # Stored members are read from their place. The table of the archive tells where their local
    # header lies, not how long it is: its fields may differ from those of the table.
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name_bytes, extra_bytes = struct.unpack("<26x2H", file.read(30))
    offset = info.header_offset + 30 + name_bytes + extra_bytes + header.n_bytes
    return FlatArray(path, header.shape, header.dtype, offset, header.fortran_order)


def _first_line(error: Exception) -> str:
    """Return the first line of a message of NumPy; the advice that follows does not help here."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")


def _read_header(path: Path, file: IO[bytes]) -> _Header:
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        with warnings.catch_warnings():
            # Users can do nothing about headers of Python 2, and damaged ones are refused below.
            warnings.simplefilter("ignore")
            shape, fortran_order, dtype = read(file)
        if min(shape, default=0) < 0:  # NumPy accepts what damage left
            raise ValueError(f"its shape is {shape}")
    except _HEADER_DAMAGE as error:
        raise SourceDataError(
            f"{path}: its NumPy header cannot be read ({_first_line(error)}); it is damaged, copy "
            "it again"
        ) from error
    # Objects are pickles, which can run any code, so the dtype is checked before values are read.
    if dtype.hasobject or dtype.kind not in "biuf":
        raise SourceDataError(
            f"{path}: expected real numbers, got dtype {dtype}; save it as float32"
        )
    return _Header(shape, dtype, fortran_order, file.tell())


def _damaged(path: Path, error: Exception) -> SourceDataError:
    return SourceDataError(
        f"{path}: the .npz archive cannot be read ({error}); it is truncated or damaged, "
        "copy it again"
    )
