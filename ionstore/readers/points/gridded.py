"""Sources at positions as a field: what they add up to in each cell."""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from ionstore.cube.mesh import Array, Corner
from ionstore.errors import DiskSpaceError
from ionstore.readers.arrays.flat import FlatArray
from ionstore.readers.base import FieldSource, PointList
from ionstore.storage.files import STREAM_BYTES, OnBytes

_WAITING = 1 << 18
_MOST_IN_MEMORY = 1 << 20


@dataclass(frozen=True)
class GriddedPoints(FieldSource):
    """The sources of a list, summed up cell by cell.

    Parameters
    ----------
    points : PointList
        The list.
    mesh_cells : int
        Cells along a side of the mesh.

    Notes
    -----
    Memory: about 180 MB at most; the pieces of the list come on top. Where more than a million
    cells hold sources, up to 16 bytes for every source are kept in a file for the time being, in
    the folder for such files that the environment names (``TMPDIR``).
    """

    points: PointList
    mesh_cells: int

    @property
    def path(self) -> Path:  # type: ignore[override]
        """File that holds the list."""
        return self.points.path

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of the mesh."""
        return (self.mesh_cells,) * 3

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        """Sums are kept in float64, and handed on in float32."""
        return np.dtype(np.float32)

    @property
    def spool_bytes(self) -> int:
        """Bytes of the gridded values: a list cannot be cut into blocks."""
        return self.mesh_cells**3 * self.dtype.itemsize

    def stream(self, on_bytes: OnBytes) -> Iterator[Array]:
        """Yield the values of all cells, in C order.

        Parameters
        ----------
        on_bytes : callable
            Called with all bytes of the file in their order, for a digest of it.

        Raises
        ------
        SourceDataError
            If the list is damaged, or a source lies off the mesh.
        DiskSpaceError
            If the disk cannot keep what is kept for the time being.
        OSError
            If the list cannot be read.
        """
        n_cells, n_piece = self.mesh_cells**3, STREAM_BYTES // self.dtype.itemsize
        with _CellSums(n_cells, n_piece) as sums:
            for cells, weights in self.points.points(self.mesh_cells, on_bytes):
                sums.add(np.ravel_multi_index(tuple(cells.T), self.shape), weights)
            for values in sums.pieces():
                with np.errstate(over="ignore"):  # infinity is refused by who reads the values
                    yield values.astype(self.dtype)

    def read_block(self, start: Corner, shape: Corner) -> Array:
        """Not to be had from a list; `from_spool` can.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError("read blocks of gridded sources from their spool file")

    def from_spool(self, path: Path) -> FlatArray:
        """Return the source that reads the spooled values."""
        return FlatArray(path, self.shape, self.dtype)


class _CellSums:
    """Sums of weights by cell, of which those of a million cells at a time are in memory."""

    def __init__(self, n_cells: int, n_piece: int) -> None:
        self._firsts = np.arange(0, n_cells, n_piece)
        self._ends = np.minimum(self._firsts + n_piece, n_cells)
        self._occupied: Array = np.zeros(0, np.int64)
        self._sums: Array = np.zeros(0, np.float64)
        self._waiting: list[tuple[Array, Array]] = []
        self._n_waiting = 0
        self._runs: list[_Run] = []
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self._open.close()

    def add(self, cells: Array, weights: Array) -> None:
        """Add weights, shape (n,), to flat cell indices, shape (n,)."""
        self._waiting.append((cells, weights))
        self._n_waiting += len(cells)
        # Sorting in as many as there are each time keeps the work at n log n.
        if self._n_waiting > max(len(self._occupied), _WAITING):
            self._sort_in()

    def pieces(self) -> Iterator[Array]:
        """Yield the sums of all cells in float64, piece by piece."""
        self._sort_in()
        for index, (first, end) in enumerate(zip(self._firsts, self._ends, strict=True)):
            values = np.zeros(end - first)
            for run in self._runs:
                cells, sums = run.read(index)
                values[cells - first] += sums
            here = slice(*np.searchsorted(self._occupied, (first, end)))
            values[self._occupied[here] - first] += self._sums[here]
            yield values

    def _sort_in(self) -> None:
        if not self._waiting:
            return
        cells, weights = zip((self._occupied, self._sums), *self._waiting, strict=True)
        self._waiting, self._n_waiting = [], 0
        self._occupied, place = np.unique(np.concatenate(cells), return_inverse=True)
        self._sums = np.bincount(place, np.concatenate(weights), len(self._occupied))
        if len(self._occupied) > _MOST_IN_MEMORY:
            self._put_down()

    def _put_down(self) -> None:
        """Keep the sums in the file, in the order of their cells, and begin anew."""
        if not self._runs:
            self._file = self._open.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        offset = self._file.seek(0, 2)
        try:
            self._file.write(self._occupied.data)
            self._file.write(self._sums.data)
            self._file.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DiskSpaceError(
                f"{tempfile.gettempdir()}: the disk is full, which keeps sources while they are "
                "gridded; free some space, or name a folder elsewhere in TMPDIR"
            ) from error
        begins = np.searchsorted(self._occupied, [*self._firsts, self._ends[-1]])
        self._runs.append(_Run(self._file, offset, begins))
        self._occupied, self._sums = np.zeros(0, np.int64), np.zeros(0)


@dataclass(frozen=True, slots=True)
class _Run:
    """Cells and their sums in a file, sorted, and where those of each piece begin."""

    file: IO[bytes]
    offset: int
    begins: Array

    def read(self, piece: int) -> tuple[Array, Array]:
        """Return the cells of a piece and their sums."""
        begin, end = (int(place) for place in self.begins[piece : piece + 2])
        read = []
        for offset, dtype in ((0, np.int64), (8 * int(self.begins[-1]), np.float64)):
            self.file.seek(self.offset + offset + 8 * begin)
            read.append(np.frombuffer(self.file.read(8 * (end - begin)), dtype))
        return read[0], read[1]
