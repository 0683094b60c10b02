"""Fields averaged over blocks of cells: their large scales in little memory."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ionstore.cube.mesh import Array

COARSE_CELLS = 64
"""Blocks along a side at most: enough for large scales, 2 MB in float64."""

CoarseField = NDArray[np.float64]
"""Means of a field over blocks of cells, shape (n, n, n), indexed [x, y, z], periodic."""


def block_means(values: Array, max_cells: int) -> CoarseField:
    """Return the means of a field over at most `max_cells` blocks a side, of nearly equal size."""
    means = BlockMeans(len(values), max_cells)
    means.add(values.ravel())
    return means.of_blocks()


class BlockMeans:
    """Means over blocks of a field whose values come piece by piece.

    Of n cells and m blocks along a side, cell i is in block ``i * m // n``. In Fortran order, the
    first index of the field runs fastest in the pieces.
    """

    def __init__(
        self, cells: int, max_cells: int = COARSE_CELLS, *, fortran_order: bool = False
    ) -> None:
        blocks = min(cells, max_cells)
        self._block_of = np.arange(cells) * blocks // cells
        self._sums = np.zeros((blocks,) * 3)
        self._row = np.zeros(cells)
        self._fortran_order = fortran_order
        self._n_done = 0

    def add(self, values: Array) -> None:
        """Add the next values, shape (n,), in the order of the file."""
        # One compiled kernel for each of two dtypes; Numba knows no swapped byte order.
        if values.dtype not in (np.float32, np.float64):
            values = values.astype(np.float64)
        _add_rows(values, self._n_done, self._block_of, self._row, self._sums)
        self._n_done += values.size

    def of_blocks(self) -> CoarseField:
        """Return the means, once all values are added."""
        # Blocks differ by one cell a side where the mesh is no multiple of them.
        sizes = np.bincount(self._block_of)
        x, y, z = np.ix_(sizes, sizes, sizes)
        means: CoarseField = self._sums / (x * y * z)
        return means.T if self._fortran_order else means  # [x, y, z]


@njit(nogil=True, cache=True)
def _add_rows(values: Array, n_done: int, block_of: Array, row: Array, sums: CoarseField) -> None:
    """Add values to the sums of their blocks; `row` is all zeros before and after."""
    cells = block_of.size
    first = 0
    while first < values.size:
        line, low = divmod(n_done + first, cells)
        x, y = divmod(line, cells)
        n = min(cells - low, values.size - first)
        here, there = row[low : low + n], values[first : first + n]
        for index in range(n):
            here[index] += there[index]
        first += n
        # Rows that cross the same blocks are summed first, then split among the blocks once.
        next_line = (n_done + first) // cells
        next_x, next_y = divmod(next_line, cells)
        if (
            first == values.size
            or block_of[next_x] != block_of[x]
            or block_of[next_y] != block_of[y]
        ):
            for index in range(cells):
                sums[block_of[x], block_of[y], block_of[index]] += row[index]
                row[index] = 0.0
