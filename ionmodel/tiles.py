"""Tiles of a periodic box and the cells around them."""

from itertools import product
from typing import Any

import numpy as np

from ionstore.cube.mesh import Cells, Corner, Fields, Region


def tiles_of(shape: Corner, tile: int) -> list[tuple[Corner, Corner]]:
    """Return first cell and cells along each axis of the tiles of a block, in C order.

    Parameters
    ----------
    shape : tuple of three int
        Cells of the block along each axis.
    tile : int
        Cells along a side of a tile, at least 1; the last ones may be smaller.

    Examples
    --------
    >>> tiles_of((3, 2, 2), 2)
    [((0, 0, 0), (2, 2, 2)), ((2, 0, 0), (1, 2, 2))]
    """
    firsts = product(*(range(0, length, tile) for length in shape))
    return [
        (start, _corner(min(tile, n - first) for first, n in zip(start, shape, strict=True)))
        for start in map(_corner, firsts)
    ]


def first_new_cells(starts: Cells, region: Region, tile: int) -> Cells:
    """Return where in each tile those cells begin that no tile before it covers.

    Parameters
    ----------
    starts : ndarray of int64, shape (n, 3)
        First cells of tiles, of those that `ionstore.sampling.samples.tile_starts` covers the
        region with: the last ones overlap those before.
    region : Region
        The region.
    tile : int
        Cells along a side of the tiles.

    Returns
    -------
    ndarray of int64, shape (n, 3)
        Cells of a tile count from here on along every axis: those of all tiles together are each
        cell of the region once.

    Examples
    --------
    >>> first_new_cells(np.array([[2, 0, 0], [5, 0, 0]]), Region((2, 0, 0), (5, 2, 2)), 2).tolist()
    [[0, 0, 0], [1, 0, 0]]
    """
    offsets = starts - np.array(region.start)
    new: Cells = -offsets % tile  # of the last one, which was moved back to end with the region
    return new


def wrapped(fields: Fields, start: Corner, shape: Corner, radius: int) -> Fields:
    """Cut a block with the cells around it out of periodic fields.

    Parameters
    ----------
    fields : ndarray, shape (channel, n, n, n)
        The fields.
    start, shape : tuple of three int
        First cell of the block, and its cells along each axis.
    radius : int
        Cells around it.

    Returns
    -------
    ndarray of the same dtype, shape (channel, a + 2 radius, b + 2 radius, c + 2 radius)
        New array.
    """
    n = fields.shape[1]
    x, y, z = (
        np.arange(first - radius, first + length + radius) % n
        for first, length in zip(start, shape, strict=True)
    )
    cut: Fields = np.ascontiguousarray(fields[:, x[:, None, None], y[:, None], z])
    return cut


def slices_of(start: Corner, shape: Corner) -> tuple[slice, ...]:
    """Return what cuts so many cells from the first one on out of an array."""
    return tuple(slice(first, first + n) for first, n in zip(start, shape, strict=True))


def _corner(numbers: Any) -> Corner:
    i, j, k = numbers
    return i, j, k
