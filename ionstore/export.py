"""`export_field`: write a field of a store as a file that other codes read."""

import errno
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ionstore.cube.cosmology import Cosmology
from ionstore.cube.fields import IONIZED_FRACTIONS
from ionstore.cube.mesh import Array, Corner
from ionstore.errors import DiskSpaceError, ExportFormatError, StoreExistsError
from ionstore.storage.files import whole_file
from ionstore.store.cube_store import CubeStore
from ionstore.store.metadata import check_is_outside_stores
from ionstore.threads import ProgressCounter, run_in_threads

_BLOCK_BYTES = 1 << 23
_SUB_RECORD_BYTES = 2**31 - 9  # of gfortran and ifort
_HEADERS_BYTES = 1 << 14
_PARAMETERS = ("h", "omega_m", "omega_b", "sigma_8", "n_s")

Put = Callable[[Corner, Array], None]
"""Writes a block: its first cell, and its values indexed [x, y, z], from any thread."""


@dataclass(frozen=True, slots=True)
class Exported:
    """One field at one redshift, on its way into a file.

    Parameters
    ----------
    store : CubeStore
        Where it comes from.
    field : str
        Name of the field.
    redshift : float
        Redshift as the store has it.
    dtype : dtype
        Dtype in the file.
    """

    store: CubeStore
    field: str
    redshift: float
    dtype: np.dtype[Any]

    @property
    def shape(self) -> Corner:
        """Cells along x, y, z."""
        return self.store.mesh.shape

    @property
    def n_bytes(self) -> int:
        """Bytes of all values in the file."""
        return self.store.mesh.n_cells * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """A format of files with one field at one redshift.

    Parameters
    ----------
    description : str
        The format for people, in one line.
    dtype_of : callable
        Returns the dtype in the file of a field, from its name and its stored dtype.
    fortran_order : bool
        Whether x runs fastest in the file.
    open : callable
        Opens a file at a path for a field, to be filled block by block.
    """

    description: str
    dtype_of: Callable[[str, np.dtype[Any]], np.dtype[Any]]
    fortran_order: bool
    open: Callable[[Path, Exported], AbstractContextManager[Put]]


def export_field(
    store: CubeStore,
    field: str,
    redshift: float,
    path: Path,
    *,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> ExportFormat:
    """Write a field at a redshift into a file, which is there as a whole or not at all.

    Parameters
    ----------
    store : CubeStore
        The store.
    field : str
        Name of the field.
    redshift : float
        Redshift, matched within 0.0005.
    path : Path
        The file; its suffix names the format, one of `FORMATS`.
    overwrite : bool
        Whether a file there may be replaced.
    on_progress : callable, optional
        Called with the bytes done and the total.

    Returns
    -------
    ExportFormat
        The format that was written.

    Raises
    ------
    ExportFormatError
        If the suffix names no format, or the package that writes it is missing.
    NotInStoreError
        If the store has no such field or redshift.
    StoreExistsError
        If there is a file already, or it would lie in a store.
    DiskSpaceError
        If the disk cannot hold the file.
    StoreDamageError, StoreFormatError
        If the field cannot be read; nothing is left behind.
    OSError
        If the file cannot be written.

    Notes
    -----
    Memory: for each thread a block of 8 MB or of the chunks in one row, stored and converted.
    """
    written = find_format(path)
    dtype = written.dtype_of(field, store.dtype(field))
    exported = Exported(store, field, store.redshifts[store.redshift_index(redshift)], dtype)
    _check_target(path, exported.n_bytes, overwrite=overwrite)
    chunk = store.layout.chunk_cells
    blocks = plan_blocks(store.mesh.cells_per_side, chunk, max(_BLOCK_BYTES // dtype.itemsize, 1))
    progress = ProgressCounter(exported.n_bytes, on_progress)
    with _naming(path), whole_file(path) as temporary, written.open(temporary, exported) as put:

        def write(block: tuple[Corner, Corner]) -> None:
            start, shape = (corner[::-1] if written.fortran_order else corner for corner in block)
            values = store.read_block(field, exported.redshift, start, shape)
            put(start, values.astype(dtype, copy=False))
            progress.add(values.size * dtype.itemsize)

        run_in_threads(write, blocks)
    return written


def find_format(path: Path) -> ExportFormat:
    """Return the format that the suffix of a file names.

    Raises
    ------
    ExportFormatError
        If it names none.
    """
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise ExportFormatError(
            f"{path}: the suffix must be one of {', '.join(FORMATS)}, got {path.suffix or 'none'}; "
            "it names the format"
        ) from None


def plan_blocks(cells: int, chunk_cells: int, block_cells: int) -> list[tuple[Corner, Corner]]:
    """Return blocks of whole chunks that fill a mesh, each as long as the mesh along the last axis.

    Parameters
    ----------
    cells : int
        Cells along a side of the mesh.
    chunk_cells : int
        Cells along a side of a chunk.
    block_cells : int
        Cells that a block may hold; one row of chunks it holds in any case.

    Returns
    -------
    list of (tuple of three int, tuple of three int)
        First cell and shape of each block, in C order.

    Examples
    --------
    >>> plan_blocks(5, 3, 2 * 45)
    [((0, 0, 0), (3, 5, 5)), ((3, 0, 0), (2, 5, 5))]
    """
    wide = chunk_cells * max(1, block_cells // (cells * chunk_cells**2))
    return [
        ((x, y, 0), (min(chunk_cells, cells - x), min(wide, cells - y), cells))
        for x in range(0, cells, chunk_cells)
        for y in range(0, cells, wide)
    ]


def _check_target(path: Path, n_bytes: int, *, overwrite: bool) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    check_is_outside_stores(path)
    if os.path.lexists(path) and not overwrite:
        raise StoreExistsError(f"{path}: already exists; choose another name or give --overwrite")
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    free = shutil.disk_usage(path.parent).free
    if free < n_bytes + _HEADERS_BYTES:
        raise _disk_space_error(
            path, f"{n_bytes / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB are"
        )


def _disk_space_error(path: Path, how_much: str) -> DiskSpaceError:
    return DiskSpaceError(f"{path}: {how_much} free; free some space or choose another disk")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Give errors of writing the name of the file, and those of a full disk a way on."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_space_error(path, "the disk ran full, no more is") from error
        if error.errno is not None and str(error.filename) in ("None", f"{path}.tmp"):
            error.filename = str(path)
        raise


@contextmanager
def _flat_file(
    path: Path,
    exported: Exported,
    head: bytes,
    *,
    fortran_order: bool = True,
    sub_record_bytes: int | None = None,
) -> Iterator[Put]:
    """Open a file of all values, one after the other behind a head."""
    path.write_bytes(head)
    with _values_at(
        path,
        len(head),
        exported,
        fortran_order=fortran_order,
        sub_record_bytes=sub_record_bytes,
    ) as put:
        yield put


@contextmanager
def _values_at(
    path: Path,
    head_bytes: int,
    exported: Exported,
    *,
    fortran_order: bool,
    sub_record_bytes: int | None = None,
) -> Iterator[Put]:
    """Open a file that has its head already, to be filled with all values, one after the other.

    They lie in one record where sub-records have a size. Every run of values that lie together in
    the file is written at its place.
    """
    cells = exported.shape[0]
    with path.open("r+b") as file:
        _reserve(file.fileno(), head_bytes, exported.n_bytes, sub_record_bytes)

        def put(start: Corner, values: Array) -> None:
            if fortran_order:
                start, values = (start[2], start[1], start[0]), values.T
            first, second, third = start
            for plane, rows in enumerate(values, first):
                place = ((plane * cells + second) * cells + third) * exported.dtype.itemsize
                _write_values(file.fileno(), head_bytes, place, rows.tobytes(), sub_record_bytes)

        yield put


def _write_values(
    descriptor: int, head_bytes: int, first: int, content: bytes, sub_record_bytes: int | None
) -> None:
    """Write bytes of the values at their place, around the markers between sub-records."""
    if sub_record_bytes is None:
        _write_at(descriptor, content, head_bytes + first)
        return
    done = 0
    while done < len(content):
        number, within = divmod(first + done, sub_record_bytes)
        piece = content[done : done + sub_record_bytes - within]
        _write_at(descriptor, piece, head_bytes + number * (sub_record_bytes + 8) + 4 + within)
        done += len(piece)


def _reserve(descriptor: int, head_bytes: int, n_bytes: int, sub_record_bytes: int | None) -> None:
    """Write the markers around the values, whose place is left empty.

    The marker before a sub-record is negative if another follows, that behind it if one came
    before.
    """
    if sub_record_bytes is None:
        return
    for first in range(0, n_bytes, sub_record_bytes):
        length = min(sub_record_bytes, n_bytes - first)
        place = head_bytes + first // sub_record_bytes * (sub_record_bytes + 8)
        before = -length if first + length < n_bytes else length
        behind = -length if first else length
        _write_at(descriptor, struct.pack("<i", before), place)
        _write_at(descriptor, struct.pack("<i", behind), place + 4 + length)


def _write_at(descriptor: int, content: bytes, place: int) -> None:
    done = 0
    while done < len(content):
        done += os.pwrite(descriptor, content[done:], place + done)


def _numpy_file(path: Path, exported: Exported) -> AbstractContextManager[Put]:
    from io import BytesIO

    head = BytesIO()
    described = {
        "descr": np.lib.format.dtype_to_descr(exported.dtype),
        "fortran_order": False,
        "shape": exported.shape,
    }
    np.lib.format.write_array_header_1_0(head, described)
    return _flat_file(path, exported, head.getvalue(), fortran_order=False)


def _cbin_file(path: Path, exported: Exported) -> AbstractContextManager[Put]:
    return _flat_file(path, exported, struct.pack("<3i", *exported.shape))


def _fortran_records(path: Path, exported: Exported) -> AbstractContextManager[Put]:
    head = struct.pack("<5i", 12, *exported.shape, 12)
    return _flat_file(path, exported, head, sub_record_bytes=_SUB_RECORD_BYTES)


@contextmanager
def _hdf5_file(path: Path, exported: Exported) -> Iterator[Put]:
    try:
        import h5py
    except ImportError as error:
        raise ExportFormatError(
            f'{path.stem}: HDF5 files need the package h5py; pip install "ionstore[hdf5]"'
        ) from error
    store, field = exported.store, exported.field
    cosmology = store.cosmology or Cosmology()
    attributes = {
        "units": store.units(field),
        "long_name": store.long_name(field),
        "redshift": exported.redshift,
        "box_length_cmpc": store.mesh.box_length_cmpc,
        "frame": store.frame if field == "n_igm" else None,
        "cosmology": cosmology.name,
        **{name: getattr(cosmology, name) for name in _PARAMETERS},
    }
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    path.touch()  # its errors are those of the system, in few words
    with h5py.File(path, "w") as file:
        values = file.create_dataset(field, exported.shape, exported.dtype, dcpl=early)
        values.attrs.update({key: one for key, one in attributes.items() if one is not None})
        first_byte = values.id.get_offset()
    # Not through HDF5, which cannot close a file on a full disk, and says so in place of the cause.
    with _values_at(path, first_byte, exported, fortran_order=False) as put:
        yield put


def _as_stored(field: str, stored: np.dtype[Any]) -> np.dtype[Any]:
    return stored.newbyteorder("<")


def _as_c2ray_writes(field: str, stored: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype("<f8" if field in IONIZED_FRACTIONS else "<f4")


FORMATS = {
    ".npy": ExportFormat("NumPy array [x, y, z]", _as_stored, False, _numpy_file),
    ".h5": ExportFormat("HDF5, one dataset [x, y, z]", _as_stored, False, _hdf5_file),
    ".hdf5": ExportFormat("HDF5, one dataset [x, y, z]", _as_stored, False, _hdf5_file),
    ".bin": ExportFormat(
        "C2-Ray, Fortran records, x runs fastest", _as_c2ray_writes, True, _fortran_records
    ),
    ".dat": ExportFormat(
        "pyC2Ray, sizes and values, x runs fastest", _as_c2ray_writes, True, _cbin_file
    ),
}
"""What can be written, by the suffix of the file."""
