"""Arrays in NumPy's files: ``.npy``, ``.npz``, and np.save streams under an ``.npz`` name."""

import io
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from ionstore.cube.mesh import Array, Corner
from ionstore.errors import SourceDataError
from ionstore.readers.arrays.flat import FlatArray, SpooledSource
from ionstore.readers.base import FieldSource
from ionstore.storage.files import STREAM_BYTES, OnBytes, naming, pieces, read_pieces

NPY_MAGIC = b"\x93NUMPY"
"""First bytes of files of `numpy.save`."""

ZIP_MAGIC = b"PK\x03\x04"
"""First bytes of files of `numpy.savez`, as of all zip archives."""

# NumPy reads a header as a Python literal, so damage shows in whatever way Python refuses text.
_HEADER_DAMAGE = (
    *(ValueError, KeyError, TypeError, EOFError, OSError),
    *(SyntaxError, tokenize.TokenError, MemoryError, RecursionError, OverflowError),
)
# NumPy reads headers of up to 10,000 characters, and takes the memory that a longer one asks for.
_MOST_HEADER_BYTES = 1 << 14
_MOST_CELLS = 1 << 62  # of one axis; a damaged one may have thousands of digits
_SHOWN = 60  # characters of a message
_MOST_DEFLATION = 1032  # deflate spends two bits or more on 258 bytes
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
                for _ in pieces(file):  # to the end, where the checksum is compared
                    pass
        except _ZIP_DAMAGE as error:
            raise _damaged(self.path, error) from error
        if left:
            raise _ends_early(self.path, self.member, left, self.shape)


@dataclass(frozen=True)
class StoredMember(FlatArray):
    """An array in an uncompressed member of an ``.npz`` file, read from its place in it."""

    member: str = field(kw_only=True)
    begin: int = field(kw_only=True)  # bytes of the file before the member
    end: int = field(kw_only=True)
    checksum: int = field(kw_only=True)
    is_checked: bool = field(default=False, init=False, compare=False)

    def stream(self, on_bytes: OnBytes) -> Iterator[Array]:
        """Yield the values in the order of the file; the checksum is compared at the end."""
        at = checksum = 0

        def take(piece: bytes) -> None:
            nonlocal at, checksum
            on_bytes(piece)
            inside = slice(max(0, self.begin - at), max(0, self.end - at))
            checksum = zlib.crc32(memoryview(piece)[inside], checksum)
            at += len(piece)

        yield from super().stream(take)
        if checksum != self.checksum:
            raise _damaged(self.path, f"{self.member} does not match its checksum")
        object.__setattr__(self, "is_checked", True)

    def read_block(self, start: Corner, shape: Corner) -> Array:
        """Return a block; the whole member is read first if it was not streamed yet."""
        if not self.is_checked:
            for _ in self.stream(lambda piece: None):
                pass
        return super().read_block(start, shape)


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
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise SourceDataError(
                f"{path}: expected a member that is stored or deflated, got compression type "
                f"{info.compress_type}; save it with numpy.savez_compressed"
            )
        with archive.open(info) as member:
            header = _read_header(path, member)
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    # The table of an archive may claim any size, as the header may.
    most = path.stat().st_size * (_MOST_DEFLATION if deflated else 1)
    needed = header.n_bytes + prod(header.shape) * header.dtype.itemsize
    if needed > min(info.file_size, most):
        missing = needed - min(info.file_size, most)
        raise _ends_early(path, info.filename, missing, header.shape)
    if deflated:
        return CompressedMember(
            path, header.shape, header.dtype, info.filename, header.n_bytes, header.fortran_order
        )
    # Stored members are read from their place. The table of the archive tells where their local
    # header lies, not how long it is: its fields may differ from those of the table.
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name_bytes, extra_bytes = struct.unpack("<26x2H", file.read(30))
    begin = info.header_offset + 30 + name_bytes + extra_bytes
    array = (path, header.shape, header.dtype, begin + header.n_bytes, header.fortran_order)
    end = begin + info.file_size
    return StoredMember(*array, member=info.filename, begin=begin, end=end, checksum=info.CRC)


def _first_line(error: Exception) -> str:
    """Return the first line of a message of NumPy; the advice that follows does not help here."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")


def _read_header(path: Path, opened: IO[bytes]) -> _Header:
    file = io.BytesIO(opened.read(_MOST_HEADER_BYTES))
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
        if not all(0 <= cells <= _MOST_CELLS for cells in shape):  # NumPy takes what damage left
            raise ValueError(f"its shape is {shape}"[:_SHOWN])
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


def _ends_early(path: Path, member: str, missing: int, shape: tuple[int, ...]) -> SourceDataError:
    return SourceDataError(
        f"{path}: member {member} ends {missing} bytes before its array of shape {shape}; "
        "it is truncated, copy it again"
    )


def _damaged(path: Path, error: Exception | str) -> SourceDataError:
    return SourceDataError(
        f"{path}: the .npz archive cannot be read ({str(error) or 'it ends early'}); "
        "it is truncated or damaged, copy it again"
    )
