"""Fields averaged over blocks of cells: all that can be told of large scales, in little memory."""

import numpy as np
from numpy.typing import NDArray

from ionstore.cube import Array
from ionstore.layout import Corner
from ionstore.readers.base import FieldSource

COARSE_CELLS = 64
"""Cells along a side that large scales need at most."""

_SLAB_BYTES = 1 << 26

CoarseField = NDArray[np.float64]
"""Means of a field over blocks of cells, shape (n, n, n), indexed [x, y, z], periodic."""


def block_means(values: Array, max_cells: int) -> CoarseField:
    """Return the means of a field over blocks of nearly the same size.

    Parameters
    ----------
    values : ndarray, shape (n, n, n)
        The field.
    max_cells : int
        Blocks along a side, where the field has more cells than that.

    Returns
    -------
    ndarray of float64, shape (m, m, m)
        ``m`` is the smaller of n and `max_cells`; cell i is part of block ``i * m // n``.
    """
    means = _Means(len(values), max_cells)
    means.add(0, values)
    return means.of_blocks()


def coarsen(source: FieldSource, max_cells: int = COARSE_CELLS) -> CoarseField:
    """Return the means of a field in a file over blocks of nearly the same size.

    Parameters
    ----------
    source : FieldSource
        A cube whose blocks can be read.
    max_cells : int
        As in `block_means`.

    Returns
    -------
    ndarray of float64, shape (m, m, m)
        As of `block_means`.

    Raises
    ------
    OSError
        If the file cannot be read.

    Notes
    -----
    Reads the whole field once, in slabs of 64 MB in float64 or of one plane, across the axis that
    runs slowest in the file.
    """
    cells = source.shape[0]
    axis = 2 if source.fortran_order else 0
    planes = max(1, _SLAB_BYTES // (8 * cells**2))
    means = _Means(cells, max_cells)
    for first in range(0, cells, planes):
        thick = min(planes, cells - first)
        start: Corner = (0, 0, first) if source.fortran_order else (first, 0, 0)
        shape: Corner = (cells, cells, thick) if source.fortran_order else (thick, cells, cells)
        means.add(first, np.moveaxis(source.read_block(start, shape), axis, 0))
    return np.moveaxis(means.of_blocks(), 0, axis)


class _Means:
    """Sums over blocks, gathered slab by slab across the first axis."""

    def __init__(self, cells: int, max_cells: int) -> None:
        blocks = min(cells, max_cells)
        edges = -(-np.arange(blocks + 1) * cells // blocks)
        self._first, self._sizes = edges[:-1], np.diff(edges)
        self._block_of = np.repeat(np.arange(blocks), self._sizes)
        self._sums = np.zeros((blocks,) * 3)

    def add(self, first: int, values: Array) -> None:
        """Take in the planes of a slab."""
        for axis in (2, 1):
            values = np.add.reduceat(values, self._first, axis=axis, dtype=np.float64)
        np.add.at(self._sums, self._block_of[first : first + len(values)], values)

    def of_blocks(self) -> CoarseField:
        """Return the means."""
        x, y, z = np.ix_(self._sizes, self._sizes, self._sizes)
        means: CoarseField = self._sums / (x * y * z)
        return means
