"""`export_field`: write a field of a store as a file that other codes read."""

import errno
import os
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
from ionstore.errors import ExportFormatError, StoreExistsError
from ionstore.reporter import SILENT, Reporter
from ionstore.storage.disk_space import full_disk_as_message, require_space
from ionstore.storage.files import whole_file
from ionstore.store.cube_store import CubeStore, StoreLike, open_store
from ionstore.store.metadata import check_is_outside_stores
from ionstore.threads import ProgressCounter, run_in_threads

_BLOCK_BYTES = 1 << 23  # per thread: bounds the memory
# gfortran and ifort split longer records here, because their markers are signed 32-bit integers.
_SUB_RECORD_BYTES = 2**31 - 9
_HEADERS_BYTES = 1 << 14  # more than the header of any format here
_PARAMETERS = ("h", "omega_m", "omega_b", "sigma_8", "n_s")

Put = Callable[[Corner, Array], None]
"""Writes a block, given its first cell and its values [x, y, z]; any thread may call it."""


@dataclass(frozen=True, slots=True)
class Exported:
    """One field at one redshift, to be written into a file."""

    store: CubeStore
    field: str
    redshift: float  # exactly as the store has it
    dtype: np.dtype[Any]  # in the file

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
    """A file format for one field at one redshift.

    Parameters
    ----------
    description : str
        One line for users.
    dtype_of : callable
        Returns the dtype in the file, given the name and the stored dtype of a field.
    fortran_order : bool
        True if x varies fastest in the file.
    open : callable
        Opens a file for a field, to be filled block by block.
    """

    description: str
    dtype_of: Callable[[str, np.dtype[Any]], np.dtype[Any]]
    fortran_order: bool
    open: Callable[[Path, Exported], AbstractContextManager[Put]]


def export_field(
    store: StoreLike,
    field: str,
    redshift: float,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> ExportFormat:
    """Write a field at a redshift into a file, completely or not at all.

    Parameters
    ----------
    store : CubeStore, str or path-like
        The store, or its path.
    field : str
        Name of the field.
    redshift : float
        Redshift, matched within 0.0005.
    path : str or path-like
        The file; its suffix names the format, one of `FORMATS`.
    overwrite : bool
        Replace an existing file.
    reporter : Reporter
        Gets the bytes written and the total.

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
        If the file exists already, or would lie in a store.
    DiskSpaceError
        If the disk cannot hold the file.
    StoreDamageError, StoreFormatError
        If the field cannot be read; no file is left behind.
    OSError
        If the file cannot be written.

    Notes
    -----
    Memory: per thread one block as stored and one as written, each 8 MB or one row of chunks.
    """
    store = open_store(store)
    path = Path(path)
    written = find_format(path)
    dtype = written.dtype_of(field, store.dtype(field))
    (exact,) = store.chosen_redshifts([redshift])
    exported = Exported(store, field, exact, dtype)
    _check_target(path, exported.n_bytes, overwrite=overwrite)
    chunk = store.layout.chunk_cells
    blocks = plan_blocks(store.mesh.cells_per_side, chunk, max(_BLOCK_BYTES // dtype.itemsize, 1))
    progress = ProgressCounter(exported.n_bytes, reporter.progress)
    with (
        full_disk_as_message(path, resumes=False),
        _naming(path),
        whole_file(path) as temporary,
        written.open(temporary, exported) as put,
    ):

        def write(block: tuple[Corner, Corner]) -> None:
            # The longest axis of a block is the fastest one in the file, so that writes are long.
            start, shape = (corner[::-1] if written.fortran_order else corner for corner in block)
            values = exported.store.read_block(field, exported.redshift, start, shape)
            put(start, values.astype(dtype, copy=False))
            progress.add(values.size * dtype.itemsize)

        run_in_threads(write, blocks)
    return written


def find_format(path: Path) -> ExportFormat:
    """Return the format that the suffix of a file names."""
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise ExportFormatError(
            f"{path}: the suffix must be one of {', '.join(FORMATS)}, got {path.suffix or 'none'}; "
            "it names the format"
        ) from None


def plan_blocks(cells: int, chunk_cells: int, block_cells: int) -> list[tuple[Corner, Corner]]:
    """Return first cell and shape of blocks of whole chunks that fill a mesh, in C order.

    Each is as long as the mesh along the last axis, and holds at least one row of chunks.

    >>> plan_blocks(5, 3, 2 * 45)
    [((0, 0, 0), (3, 5, 5)), ((3, 0, 0), (2, 5, 5))]
    """
    # Whole chunks, so that each chunk is decoded once.
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
    require_space(path.parent, n_bytes + _HEADERS_BYTES, path, way_on="choose another disk")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Make errors of writing name the file."""
    try:
        yield
    except OSError as error:
        # `os.pwrite` names no file, and users do not know the temporary one.
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
    """Open a file that holds a header and then all values."""
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
    """Open a file that has its header already, to be filled with all values.

    The values form one record if `sub_record_bytes` is given.
    """
    cells = exported.shape[0]
    with path.open("r+b") as file:
        _reserve(file.fileno(), head_bytes, exported.n_bytes, sub_record_bytes)

        def put(start: Corner, values: Array) -> None:
            # With both reversed, rows that are contiguous in the file are contiguous in memory.
            if fortran_order:
                start, values = (start[2], start[1], start[0]), values.T
            first, second, third = start
            # Blocks are as long as the mesh, so the rows of one plane lie together in the file.
            for plane, rows in enumerate(values, first):
                place = ((plane * cells + second) * cells + third) * exported.dtype.itemsize
                _write_values(file.fileno(), head_bytes, place, rows.tobytes(), sub_record_bytes)

        yield put


def _write_values(
    descriptor: int, head_bytes: int, first: int, content: bytes, sub_record_bytes: int | None
) -> None:
    """Write bytes of the values at their offset, skipping the markers between sub-records."""
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
    """Write the length markers around the values."""
    if sub_record_bytes is None:
        return
    for first in range(0, n_bytes, sub_record_bytes):
        length = min(sub_record_bytes, n_bytes - first)
        place = head_bytes + first // sub_record_bytes * (sub_record_bytes + 8)
        # The marker before a sub-record is negative if another one follows, the marker behind it if
        # another one precedes.
        before = -length if first + length < n_bytes else length
        behind = -length if first else length
        _write_at(descriptor, struct.pack("<i", before), place)
        _write_at(descriptor, struct.pack("<i", behind), place + 4 + length)


def _write_at(descriptor: int, content: bytes, place: int) -> None:
    # pwrite, because threads share the file and its position; it may write less than asked.
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
    # The values get their place in the file at once and no fill values: they are written below.
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    path.touch()  # raises errors of the system, which are shorter than those of HDF5
    with h5py.File(path, "w") as file:
        values = file.create_dataset(field, exported.shape, exported.dtype, dcpl=early)
        values.attrs.update({key: one for key, one in attributes.items() if one is not None})
        first_byte = values.id.get_offset()
    # Not through HDF5: on a full disk it cannot close the file, and reports that and not the cause.
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
"""Formats by the suffix of the file."""
