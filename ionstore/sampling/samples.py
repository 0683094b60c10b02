"""Number the samples: the cells of coeval cubes that are cut around; plans, no data."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from ionstore.cube.mesh import Cells, Mesh, Region

Centers = Region | Cells  # cells of one box: a region of them, or a list

_LONGEST_SHOWN = 60  # characters of a wrong argument in a message; a list can be long


@dataclass(frozen=True, slots=True)
class CubeSamples:
    """The samples of one coeval cube: a cell for each."""

    store_index: int  # place of its store among the loader's stores
    redshift: float
    mesh_cells: int
    centers: Centers

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return self.centers.n_cells if isinstance(self.centers, Region) else len(self.centers)

    def cells(self, indices: NDArray[np.int64]) -> Cells:
        """Return the cells of the samples at the given places, int64 of shape (n, 3)."""
        if isinstance(self.centers, Region):
            return self.centers.cells(indices)
        return self.centers[indices]


class Samples:
    """Samples of several coeval cubes, numbered cube after cube."""

    def __init__(self, cubes: Sequence[CubeSamples]) -> None:
        self.cubes = tuple(cubes)
        firsts = list(accumulate((cube.n_samples for cube in cubes), initial=0))
        self.first = np.array(firsts[:-1], dtype=np.int64)
        self.n_samples = firsts[-1]
        self.store_index = np.array([cube.store_index for cube in cubes], dtype=np.int64)
        self.redshift = np.array([cube.redshift for cube in cubes], dtype=np.float64)
        self.mesh_cells = np.array([cube.mesh_cells for cube in cubes], dtype=np.int64)

    def find(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], Cells]:
        """Return the places in `cubes`, and the cells as given, of samples by their numbers."""
        if len(self.cubes) == 1:
            return np.zeros_like(numbers), self.cubes[0].cells(numbers)
        # Cube by cube: each has its own region or list to look the cell up in.
        cube = np.searchsorted(self.first, numbers, side="right") - 1
        cells = np.empty((len(numbers), 3), dtype=np.int64)
        for index in np.unique(cube).tolist():
            here = cube == index
            cells[here] = self.cubes[index].cells(numbers[here] - self.first[index])
        return cube, cells


def centers_of_boxes(
    meshes: Sequence[Mesh],
    centers: Centers | Sequence[Centers] | None,
    *,
    name: str = "centers",
) -> list[Centers]:
    """Return the center cells of each of several boxes, checked; every cell by default.

    Listed cells may lie off the mesh, they wrap. ``name`` is the user's name of the argument.
    """
    if centers is None:
        return [Region((0, 0, 0), mesh.shape) for mesh in meshes]
    if isinstance(centers, Region | np.ndarray):
        given = [centers] * len(meshes)
    else:
        given = list(centers) if isinstance(centers, list | tuple) else []
        if not given or not all(isinstance(one, Region | np.ndarray) for one in given):
            raise ValueError(
                f"{name} must be a Region or an array, or a list of them, one for each store, got "
                f"{_shortened(centers)}; turn lists of cells into arrays of int64, shape (n, 3)"
            )
    if len(given) != len(meshes):
        raise ValueError(
            f"{name} must be one for all stores or one for each of {len(meshes)}, got a list of "
            f"{len(given)}"
        )
    for mesh, one in zip(meshes, given, strict=True):
        if isinstance(one, Region):
            last = [first + length for first, length in zip(one.start, one.shape, strict=True)]
            if max(last) > mesh.cells_per_side:
                raise ValueError(f"{name} must lie on the mesh {mesh.shape}, got {one}")
        elif one.dtype != np.int64 or one.ndim != 2 or one.shape[1] != 3:
            raise ValueError(
                f"{name} must be int64 of shape (n, 3), got {one.dtype} of shape {one.shape}"
            )
    return given


def _shortened(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."


def tile_starts(region: Region, tile: int) -> Cells:
    """Return the first cells of tiles that cover a region, in C order.

    Parameters
    ----------
    region : Region
        Cells to cover.
    tile : int
        Cells along a side of a tile, 1 to the shortest side of the region.

    Returns
    -------
    ndarray of int64, shape (n, 3)
        Every tile lies in the region. Where tiles do not divide it, the last one along an axis
        ends with the region and overlaps the one before.

    Raises
    ------
    ValueError
        If a tile does not fit the region.

    Examples
    --------
    >>> tile_starts(Region((2, 0, 0), (5, 2, 2)), 2).tolist()
    [[2, 0, 0], [4, 0, 0], [5, 0, 0]]
    """
    _check_fits(region, tile)
    axes = [
        np.minimum(np.arange(first, first + length, tile, dtype=np.int64), first + length - tile)
        for first, length in zip(region.start, region.shape, strict=True)
    ]
    grid: Cells = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return grid


def tiles_within(region: Region, tile: int) -> Region:
    """Return the first cells of all tiles that lie in a region, as a region.

    Parameters
    ----------
    region : Region
        Cells in which tiles may lie.
    tile : int
        Cells along a side of a tile, 1 to the shortest side of the region.

    Raises
    ------
    ValueError
        If a tile does not fit the region.

    Examples
    --------
    >>> tiles_within(Region((2, 0, 0), (5, 2, 2)), 2)
    Region(start=(2, 0, 0), shape=(4, 1, 1))
    """
    _check_fits(region, tile)
    nx, ny, nz = (length - tile + 1 for length in region.shape)
    return Region(region.start, (nx, ny, nz))


def _check_fits(region: Region, tile: int) -> None:
    if not 1 <= tile <= min(region.shape):
        raise ValueError(
            f"tile must be 1 to {min(region.shape)}, the shortest side of {region}, got {tile}"
        )
