"""Tiles of a periodic box and the cells around them."""

from itertools import product
from typing import Any

import numpy as np

from ionstore.cube.mesh import Cells, Corner, Fields, Region


def tiles_of(shape: Corner, tile: int) -> list[tuple[Corner, Corner]]:
    """Return first cell and shape of each tile of a block, in C order; the last may be smaller.

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
    """Return the first cell of each tile, along each axis, that no earlier tile covers.

    Examples
    --------
    >>> first_new_cells(np.array([[2, 0, 0], [5, 0, 0]]), Region((2, 0, 0), (5, 2, 2)), 2).tolist()
    [[0, 0, 0], [1, 0, 0]]
    """
    offsets = starts - np.array(region.start)
    # The last tile is moved back to end with the region, so it overlaps the one before.
    new: Cells = -offsets % tile
    return new


def wrapped(fields: Fields, start: Corner, shape: Corner, radius: int) -> Fields:
    """Cut a block and `radius` cells around it out of periodic fields, as a new array."""
    n = fields.shape[1]
    # Modulo the mesh, so that a block and its halo may reach across any face of the box.
    x, y, z = (
        np.arange(first - radius, first + length + radius) % n
        for first, length in zip(start, shape, strict=True)
    )
    cut: Fields = np.ascontiguousarray(fields[:, x[:, None, None], y[:, None], z])
    return cut


def slices_of(start: Corner, shape: Corner) -> tuple[slice, ...]:
    """Return the slices of a block in an array."""
    return tuple(slice(first, first + n) for first, n in zip(start, shape, strict=True))


def _corner(numbers: Any) -> Corner:
    i, j, k = numbers
    return i, j, k
