"""Arrays in HDF5 files, and errors of HDF5 as sentences."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ionstore.cube.mesh import Array, Corner
from ionstore.errors import SourceDataError
from ionstore.readers.arrays.flat import FlatArray
from ionstore.readers.base import FieldSource
from ionstore.storage.files import STREAM_BYTES, OnBytes, naming, read_pieces

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
"""First bytes of HDF5 files."""

_CUBE_AXES = 3
# Fill values stand for what was never written, so a tiny file may claim any size. A mesh of 600
# cells a side may be all fill values; above, chunks of one number hardly get smaller than this.
_ALWAYS_BYTES = 1 << 30
_MOST_COMPRESSION = 1 << 16
# h5py raises any of these for damage, depending on the bytes that are hit; attributes of Python are
# missing where a group stands in place of a dataset.
_DAMAGE = (
    *(RuntimeError, KeyError, ValueError, TypeError, ArithmeticError, MemoryError),
    AttributeError,
)


@contextmanager
def opened_hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading; damage that shows in the body becomes a sentence too."""
    try:
        import h5py  # an extra, and slow to import
    except ImportError as error:
        raise SourceDataError(
            f'{path}: reading HDF5 needs h5py; install it with pip install "ionstore[hdf5]"'
        ) from error
    with naming(path):
        try:
            with h5py.File(path, "r") as file:
                yield file
        except SourceDataError:  # a ValueError, but it says more than that there is damage
            raise
        except OSError as error:
            # HDF5 has one exception for locks, damage and errors of the system: its text and errno
            # tell them apart.
            if "unable to lock file" in str(error):
                raise _locked(path, error) from error
            if error.errno is not None:
                raise
            raise _damaged(path, error) from error
        except _DAMAGE as error:
            raise _damaged(path, error) from error


def member(group: Any, path: str) -> Any:
    """Return what a group holds at a path, None if nothing; refuse links to other files.

    The digest of the file would not cover what they lead to.
    """
    found = group.file if path.startswith("/") else group
    for name in path.split("/"):
        if found is not None and name not in ("", "."):
            found = _linked(found, name)
    return found


def _linked(group: Any, name: str) -> Any:
    import h5py

    # Looked at before it is followed: the other file may be a pipe, and soft links may lead to it.
    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise SourceDataError(
            f"{group.file.filename}: expected {name} in the file itself, got a link into "
            f"{link.filename}; give that file, or copy the data into this one (h5copy -f ext)"
        )
    return member(group, link.path) if isinstance(link, h5py.SoftLink) else group.get(name)


def attributes(file: Any, group: str) -> Mapping[str, Any]:
    """Return the attributes of a group, none where there is no such group."""
    found = member(file, group)
    return {} if found is None else found.attrs


def number(attributes_: Mapping[str, Any], name: str) -> float | None:
    """Return an attribute that is a finite number, None if there is none."""
    # Other programs write text or arrays here, and damage makes NaN.
    value = np.asarray(attributes_.get(name, "none"))
    if value.shape != () or value.dtype.kind not in "iuf" or not np.isfinite(value):
        return None
    return float(value)


@dataclass(frozen=True)
class HDF5Field(FieldSource):
    """A dataset that HDF5 has to put together, such as one in chunks."""

    path: Path
    dataset: str
    shape: tuple[int, ...]  # without leading axes of length 1
    dtype: np.dtype[Any]

    def stream(self, on_bytes: OnBytes) -> Iterator[Array]:
        """Yield the values in C order, or chunk by chunk."""
        # HDF5 reads a file in no set order, so a pass of its own hands over the bytes.
        read_pieces(self.path, on_bytes)
        with opened_hdf5(self.path) as file:
            numbers = file[self.dataset]
            # Chunk by chunk, each is decoded once; slabs would decode those that they cut again.
            for box in numbers.iter_chunks() if numbers.chunks else self._slabs(numbers.ndim):
                yield np.ravel(numbers[box])

    def read_block(self, start: Corner, shape: Corner) -> Array:
        """Return a block; the chunks that it touches are decoded."""
        with opened_hdf5(self.path) as file:
            numbers = file[self.dataset]
            block = tuple(
                slice(first, first + cells) for first, cells in zip(start, shape, strict=True)
            )
            cut: Array = numbers[(*_before(numbers.ndim, self.shape), *block)]
            return np.ascontiguousarray(cut)

    def _slabs(self, n_axes: int) -> Iterator[tuple[int | slice, ...]]:
        plane_bytes = prod(self.shape[1:]) * self.dtype.itemsize
        thickness = max(1, STREAM_BYTES // max(1, plane_bytes))
        for first in range(0, self.shape[0], thickness):
            yield *_before(n_axes, self.shape), slice(first, first + thickness)


def open_hdf5_field(path: Path, numbers: Any) -> FieldSource:
    """Return the values of an open h5py dataset; none of them is read."""
    if not hasattr(numbers, "dtype") or numbers.dtype.kind not in "biuf":
        got = f"dtype {numbers.dtype}" if hasattr(numbers, "dtype") else "a group"
        raise SourceDataError(
            f"{path}: expected real numbers in {numbers.name}, got {got}; save it as float32"
        )
    check_dataset(path, numbers)
    shape: tuple[int, ...] = numbers.shape or ()
    # 21cmFAST 3 stores some cubes as (1, n, n, n).
    while len(shape) > _CUBE_AXES and shape[0] == 1:
        shape = shape[1:]
    # Read past HDF5, such values take one pass with the digest, and several threads at once, which
    # HDF5 would let through one by one.
    if _lies_in_file(numbers):
        return FlatArray(path, shape, numbers.dtype, numbers.id.get_offset())
    return HDF5Field(path, numbers.name, shape, numbers.dtype)


def check_dataset(path: Path, numbers: Any) -> None:
    """Refuse values that lie in other files, that HDF5 cannot decode, or that cannot be there."""
    import h5py

    where = f"{path}: expected {numbers.name}"
    if numbers.external or numbers.is_virtual:
        raise SourceDataError(
            f"{where} in the file itself, got values that lie in other data sets or files; copy "
            "them into a new file (in h5py: new[name] = old[name][...])"
        )
    creation = numbers.id.get_create_plist()
    filters = [creation.get_filter(index) for index in range(creation.get_nfilters())]
    for code, _, _, name in filters:
        if not h5py.h5z.filter_avail(code):
            raise SourceDataError(
                f"{where} in a compression of HDF5 itself, got filter {code} "
                f"({name.decode(errors='replace') or 'unnamed'}), which is not there; name its "
                "folder in HDF5_PLUGIN_PATH, or rewrite the file with gzip"
            )
    n_bytes = prod(numbers.shape or ()) * numbers.dtype.itemsize
    there = path.stat().st_size
    if n_bytes > max(_ALWAYS_BYTES, there * (_MOST_COMPRESSION if filters else 1)):
        raise SourceDataError(
            f"{where} with all values of its shape {numbers.shape}, {n_bytes / 1e9:,.1f} GB, got "
            f"a file of {there:,} bytes; it was never written or is damaged, write it again"
        )
    # A chunk is decoded as a whole: once as it is stored, and once for what is asked of it.
    chunk_bytes = 2 * prod(numbers.chunks or (0,)) * numbers.dtype.itemsize
    free = psutil.virtual_memory().available
    if chunk_bytes > free:
        raise SourceDataError(
            f"{where} in chunks that fit in memory, got {numbers.chunks}, each of which takes "
            f"{chunk_bytes / 1e9:,.1f} GB, where {free / 1e9:,.1f} GB are free; rewrite it in "
            "smaller chunks, such as (64, 64, 64)"
        )


def _lies_in_file(numbers: Any) -> bool:
    """Tell whether values lie in one piece in the file, as they are in memory."""
    import h5py

    return (
        numbers.id.get_offset() is not None
        # Numbers of odd sizes, such as 24 bits, are converted by HDF5.
        and numbers.id.get_type().equal(h5py.h5t.py_create(numbers.dtype))
    )


def _before(n_axes: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the index of the leading axes that were dropped."""
    return (0,) * (n_axes - len(shape))


def _locked(path: Path, error: OSError) -> SourceDataError:
    if error.errno in (errno.EAGAIN, errno.EACCES):
        return SourceDataError(
            f"{path}: another program has it open for writing; run the same command again once "
            "that has ended"
        )
    return SourceDataError(
        f"{path}: HDF5 cannot lock it, as its file system has no locks ({error}); "
        "set HDF5_USE_FILE_LOCKING=FALSE in the environment"
    )


def _damaged(path: Path, error: Exception) -> SourceDataError:
    return SourceDataError(
        f"{path}: it cannot be read as HDF5 ({error}); it is truncated or damaged, copy it again"
    )
