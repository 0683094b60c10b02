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
    Memory: 16 bytes for every cell that holds sources, besides the pieces of the list.
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
        occupied: Array = np.zeros(0, np.int64)
        sums: Array = np.zeros(0, np.float64)
        for cells, weights in self.points.points(self.mesh_cells, on_bytes):
            flat = np.ravel_multi_index(tuple(cells.T), self.shape)
            occupied, place = np.unique(np.concatenate([occupied, flat]), return_inverse=True)
            sums = np.bincount(place, np.concatenate([sums, weights]), len(occupied))
        n_cells, n_piece = self.mesh_cells**3, STREAM_BYTES // self.dtype.itemsize
        for first in range(0, n_cells, n_piece):
            values = np.zeros(min(n_piece, n_cells - first), self.dtype)
            here = slice(*np.searchsorted(occupied, (first, first + len(values))))
            values[occupied[here] - first] = sums[here]
            yield values

    def read_block(self, start: Corner, shape: Corner) -> Array:
        """Not to be had from a list; `from_spool` can."""
        raise NotImplementedError("read blocks of gridded sources from their spool file")

    def from_spool(self, path: Path) -> FlatArray:
        """Return the source that reads the spooled values."""
        return FlatArray(path, self.shape, self.dtype)
