"""Sources at positions as a field: what they add up to in each cell."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ionstore.cube import Array
from ionstore.layout import Corner
from ionstore.readers.base import STREAM_BYTES, FieldSource, OnBytes, PointList
from ionstore.readers.flat_array import FlatArray

_WAITING = 1 << 18
_CELLS_PER_OCCUPIED = 32


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
    Memory: about 80 bytes for every cell that holds sources while these are few, and otherwise
    about 12 bytes for every cell of the mesh; the pieces of the list come on top.
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
        """Yield the values of all cells, in C order."""
        n_cells, n_piece = self.mesh_cells**3, STREAM_BYTES // self.dtype.itemsize
        sums = _CellSums(n_cells)
        for cells, weights in self.points.points(self.mesh_cells, on_bytes):
            sums.add(np.ravel_multi_index(tuple(cells.T), self.shape), weights)
        for first in range(0, n_cells, n_piece):
            values = sums.range(first, min(first + n_piece, n_cells))
            with np.errstate(over="ignore"):  # infinity is refused by who reads the values
                yield values.astype(self.dtype)

    def read_block(self, start: Corner, shape: Corner) -> Array:
        """Not to be had from a list; `from_spool` can."""
        raise NotImplementedError("read blocks of gridded sources from their spool file")

    def from_spool(self, path: Path) -> FlatArray:
        """Return the source that reads the spooled values."""
        return FlatArray(path, self.shape, self.dtype)


class _CellSums:
    """Sums of weights by cell, kept for the occupied cells only while these are few."""

    def __init__(self, n_cells: int) -> None:
        self._n_cells = n_cells
        self._occupied: Array = np.zeros(0, np.int64)
        self._sums: Array = np.zeros(0, np.float64)
        self._waiting: list[tuple[Array, Array]] = []
        self._n_waiting = 0
        self._dense: Array | None = None

    def add(self, cells: Array, weights: Array) -> None:
        """Add weights, shape (n,), to flat cell indices, shape (n,)."""
        if self._dense is not None:
            np.add.at(self._dense, cells, weights)
            return
        self._waiting.append((cells, weights))
        self._n_waiting += len(cells)
        # Sorting in as many as there are each time keeps the work at n log n.
        if self._n_waiting > max(len(self._occupied), _WAITING):
            self._sort_in()

    def range(self, first: int, end: int) -> Array:
        """Return the sums of cells in float64."""
        self._sort_in()
        if self._dense is not None:
            return self._dense[first:end]
        values = np.zeros(end - first)
        here = slice(*np.searchsorted(self._occupied, (first, end)))
        values[self._occupied[here] - first] = self._sums[here]
        return values

    def _sort_in(self) -> None:
        if not self._waiting:
            return
        cells, weights = zip((self._occupied, self._sums), *self._waiting, strict=True)
        self._waiting, self._n_waiting = [], 0
        self._occupied, place = np.unique(np.concatenate(cells), return_inverse=True)
        self._sums = np.bincount(place, np.concatenate(weights), len(self._occupied))
        if len(self._occupied) > self._n_cells // _CELLS_PER_OCCUPIED:
            self._dense = np.zeros(self._n_cells)
            self._dense[self._occupied] = self._sums
