"""Sources at positions as a field: their sum in each cell."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from ionstore.cube.mesh import Array
from ionstore.errors import DiskSpaceError
from ionstore.readers.arrays.flat import SpooledSource
from ionstore.readers.base import PointList
from ionstore.storage.disk_space import is_full_disk
from ionstore.storage.files import STREAM_BYTES, OnBytes

# Sources that wait to be sorted in, and cells whose sums stay in memory: both bound it, to about
# 180 MB with what sorting takes.
_WAITING = 1 << 18
_MOST_IN_MEMORY = 1 << 20


@dataclass(frozen=True)
class GriddedPoints(SpooledSource):
    """The sources of a list, summed up cell by cell, on a mesh of some cells a side."""

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
        """Dtype of the values; sums are made in float64."""
        return np.dtype(np.float32)

    def stream(self, on_bytes: OnBytes) -> Iterator[Array]:
        """Yield the values of all cells, in C order."""
        n_cells, n_piece = self.mesh_cells**3, STREAM_BYTES // self.dtype.itemsize
        with _CellSums(n_cells, n_piece) as sums:
            for cells, weights in self.points.points(self.mesh_cells, on_bytes):
                sums.add(np.ravel_multi_index(tuple(cells.T), self.shape), weights)
            for values in sums.pieces():
                with np.errstate(over="ignore"):  # the survey of values refuses infinity
                    yield values.astype(self.dtype)


class _CellSums:
    """Sums of weights by cell; a temporary file keeps those beyond a million cells."""

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
        # Sorting in as many as are there already keeps the work at n log n, whatever the pieces.
        if self._n_waiting > max(len(self._occupied), _WAITING):
            self._sort_in()

    def pieces(self) -> Iterator[Array]:
        """Yield the sums of all cells in float64, piece by piece."""
        self._sort_in()
        for index, (first, end) in enumerate(zip(self._firsts, self._ends, strict=True)):
            values = np.zeros(end - first)
            # Each run is sorted, so its cells of a piece lie together and are read in one go.
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
            self._write_run()

    def _write_run(self) -> None:
        """Write the sums to the temporary file as a run of sorted cells, and begin anew."""
        if not self._runs:
            # In TMPDIR, and without a name: the system removes it even if the process is killed.
            self._file = self._open.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        offset = self._file.seek(0, 2)
        try:
            self._file.write(self._occupied.data)
            self._file.write(self._sums.data)
            self._file.flush()
        except OSError as error:
            if not is_full_disk(error):
                raise
            raise DiskSpaceError(
                f"{tempfile.gettempdir()}: the disk is full, and sources are kept there while they "
                "are gridded; free some space, or name a folder elsewhere in TMPDIR"
            ) from error
        begins = np.searchsorted(self._occupied, [*self._firsts, self._ends[-1]])
        self._runs.append(_Run(self._file, offset, begins))
        self._occupied, self._sums = np.zeros(0, np.int64), np.zeros(0)


@dataclass(frozen=True, slots=True)
class _Run:
    """Sorted cells and their sums in a file, and the index at which each piece begins."""

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
