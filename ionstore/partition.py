"""Regions: samples grouped by the core of the mesh that they lie in; plans, no data.

A core is a box of cells that ends at chunks wherever it holds whole ones. Around the samples of a
core lies the block that has to be decoded to cut them: their tiles and a halo.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ionstore.cube import Cells
from ionstore.samples import CubeSamples, Samples
from ionstore.split import Region


@dataclass(frozen=True, slots=True)
class Reach:
    """How far the inputs and targets of a sample reach from its cell.

    Parameters
    ----------
    radius : int
        Cells around the targets that are inputs, too.
    tile : int
        Cells along a side of the targets, which begin at the sample's cell.

    Raises
    ------
    ValueError
        If `radius` is negative, or `tile` not positive.
    """

    radius: int
    tile: int = 1

    def __post_init__(self) -> None:
        if self.radius < 0 or self.tile < 1:
            raise ValueError(
                f"radius must be at least 0 and tile at least 1, got radius {self.radius} and "
                f"tile {self.tile}"
            )

    @property
    def width(self) -> int:
        """Cells along a side of the inputs."""
        return self.tile + 2 * self.radius


class Partition:
    """Samples of several coeval cubes by region.

    Parameters
    ----------
    samples : Samples
        What is to be grouped.
    core : int, optional
        Most cells along a side of a core, rounded down to whole chunks where it holds one. None
        makes one region of all samples of all cubes.
    chunk_cells : int
        Cells along a side of a chunk; cores that hold whole chunks begin and end with chunks.

    Attributes
    ----------
    sizes : ndarray of int64, shape (n_regions,)
        Samples in each region, at least one.
    cube : ndarray of int64, shape (n_regions,)
        Cube of each region; of no meaning for the one region of all samples.
    start, shape : ndarray of int64, shape (n_regions, 3)
        The box that the cells of each region's samples span.

    Raises
    ------
    ValueError
        If ``core`` is below 1.
    """

    def __init__(self, samples: Samples, core: int | None, *, chunk_cells: int) -> None:
        if core is not None and core < 1:
            raise ValueError(f"core must be at least 1, got {core}")
        if core is not None and core > chunk_cells:
            core = core // chunk_cells * chunk_cells
        self.samples, self.core = samples, core
        if core is None:
            self.sizes = np.array([samples.n_samples], dtype=np.int64)
            self.cube = np.zeros(1, dtype=np.int64)
            self.start = self.shape = np.zeros((1, 3), dtype=np.int64)
            return
        groups = [_grouped(cube, core, chunk_cells) for cube in samples.cubes]
        n_regions = [len(group.size) for group in groups]
        self.sizes = np.concatenate([group.size for group in groups])
        self.cube = np.repeat(np.arange(len(groups)), n_regions)
        self.start = np.concatenate([group.start for group in groups])
        self.shape = np.concatenate([group.shape for group in groups])
        # Samples of lists, core by core; those of boxes are found from their cells instead.
        self._members = np.concatenate(
            [group.members + first for group, first in zip(groups, samples.first, strict=True)]
        )
        listed = np.where(np.repeat([group.is_list for group in groups], n_regions), self.sizes, 0)
        self._first_member = np.cumsum(listed) - listed
        self._is_list = np.array([group.is_list for group in groups])
        self._box_start = np.array([group.box.start for group in groups])
        self._box_shape = np.array([group.box.shape for group in groups])

    @property
    def n_regions(self) -> int:
        """Number of regions."""
        return len(self.sizes)

    def numbers(self, region: NDArray[np.int64], member: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of samples given by region and place in it, int64 of shape (n,)."""
        if self.core is None:
            return member
        cube = self.cube[region]
        numbers = np.empty_like(member)
        listed = self._is_list[cube]
        numbers[listed] = self._members[self._first_member[region[listed]] + member[listed]]
        region, member, cube = (values[~listed] for values in (region, member, cube))
        _, ny, nz = self.shape[region].T
        within = np.stack([member // (ny * nz), member // nz % ny, member % nz])
        x, y, z = self.start[region].T + within - self._box_start[cube].T
        _, ny, nz = self._box_shape[cube].T
        numbers[~listed] = self.samples.first[cube] + (x * ny + y) * nz + z
        return numbers

    def blocks(self, reach: Reach) -> tuple[Cells, Cells, Cells, Cells]:
        """Return what has to be decoded around the samples of each region.

        Returns
        -------
        input_start, input_shape, target_start, target_shape : ndarray of int64
            All of shape (n_regions, 3). First cell, which may lie off the mesh, and cells along
            each axis. An axis that would be as long as the mesh or longer is the mesh, from
            cell 0.
        """
        mesh = self.samples.mesh_cells[self.cube][:, None]
        parts = []
        for halo in (reach.radius, 0):
            shape = self.shape + reach.tile - 1 + 2 * halo
            parts += [
                np.where(shape >= mesh, 0, self.start - halo),
                np.minimum(shape, mesh),
            ]
        return parts[0], parts[1], parts[2], parts[3]


def core_edges(mesh_cells: int, core: int, chunk_cells: int) -> NDArray[np.int64]:
    """Return where cores begin along a side of the mesh, and where the last one ends.

    Parameters
    ----------
    mesh_cells : int
        Cells along the side.
    core : int
        Most cells along a side of a core.
    chunk_cells : int
        Cells along a side of a chunk.

    Returns
    -------
    ndarray of int64
        Multiples of the chunk, but for the end, when a core holds at least one chunk; cores are
        then as even as whole chunks allow.

    Examples
    --------
    >>> core_edges(300, 96, 32).tolist()
    [0, 64, 160, 224, 300]
    >>> core_edges(10, 4, 32).tolist()
    [0, 4, 8, 10]
    """
    if core >= mesh_cells:
        return np.array([0, mesh_cells], dtype=np.int64)
    unit = chunk_cells if core >= chunk_cells else core
    units = math.ceil(mesh_cells / unit)
    n_cores = math.ceil(units / max(1, core // unit))
    edges = np.arange(n_cores + 1, dtype=np.int64) * units // n_cores * unit
    edges[-1] = mesh_cells
    return edges


def core_candidates(mesh_cells: int, chunk_cells: int) -> list[int]:
    """Return sensible sides of cores for a mesh, ascending: parts of a chunk, whole chunks."""
    parts = [chunk_cells >> k for k in range(chunk_cells.bit_length() - 1, 0, -1)]
    chunks = range(chunk_cells, mesh_cells + chunk_cells, chunk_cells)
    return [part for part in parts if part < mesh_cells] + list(chunks)


@dataclass(frozen=True, slots=True, eq=False)
class _Grouped:
    """A cube's samples by core: the box of cells and the number of samples in each core.

    Those of a list are numbered by their place in the list, `members`, core by core; those of a
    region by their cell in `box`.
    """

    start: Cells
    shape: Cells
    size: NDArray[np.int64]
    is_list: bool
    members: NDArray[np.int64]
    box: Region


def _grouped(cube: CubeSamples, core: int, chunk_cells: int) -> _Grouped:
    edges = core_edges(cube.mesh_cells, core, chunk_cells)
    if isinstance(cube.centers, Region):
        return _grouped_region(cube.centers, edges)
    return _grouped_list(cube.centers % cube.mesh_cells, edges)


def _grouped_region(region: Region, edges: NDArray[np.int64]) -> _Grouped:
    axes = []
    for first, length in zip(region.start, region.shape, strict=True):
        cut = np.clip(edges, first, first + length)
        some = np.diff(cut) > 0
        axes.append((cut[:-1][some], np.diff(cut)[some]))
    start, shape = (
        np.stack(np.meshgrid(*parts, indexing="ij"), axis=-1).reshape(-1, 3)
        for parts in zip(*axes, strict=True)
    )
    none = np.zeros(0, dtype=np.int64)
    return _Grouped(start, shape, shape.prod(axis=1), False, none, region)


def _grouped_list(cells: Cells, edges: NDArray[np.int64]) -> _Grouped:
    n = len(edges) - 1
    core = np.searchsorted(edges, cells, side="right") - 1
    label = np.ravel_multi_index(tuple(core.T), (n, n, n))
    members = np.argsort(label, kind="stable")
    _, firsts, size = np.unique(label[members], return_index=True, return_counts=True)
    start = shape = np.zeros((0, 3), dtype=np.int64)
    if len(firsts):
        start = np.minimum.reduceat(cells[members], firsts)
        shape = np.maximum.reduceat(cells[members], firsts) - start + 1
    return _Grouped(start, shape, size, True, members, Region((0, 0, 0), (1, 1, 1)))


def pieces_on_mesh(
    start: Cells, shape: Cells, mesh_cells: int
) -> Iterator[tuple[tuple[slice, slice, slice], tuple[int, int, int]]]:
    """Yield the parts of a periodic block that do not cross the faces of the mesh.

    Parameters
    ----------
    start, shape : ndarray of int64, shape (3,)
        First cell, on or off the mesh, and cells along each axis.
    mesh_cells : int
        Cells along a side of the mesh.

    Yields
    ------
    place : tuple of slice
        Where the part lies in the block.
    first : tuple of int
        Its first cell, on the mesh.

    Examples
    --------
    >>> block = np.array([-1, 0, 0]), np.array([3, 4, 4])
    >>> [(place[0], first) for place, first in pieces_on_mesh(*block, 4)]
    [(slice(0, 1, None), (3, 0, 0)), (slice(1, 3, None), (0, 0, 0))]
    """
    axes = []
    for first, length in zip(start.tolist(), shape.tolist(), strict=True):
        parts, done = [], 0
        while done < length:
            cell = (first + done) % mesh_cells
            cells = min(length - done, mesh_cells - cell)
            parts.append((slice(done, done + cells), cell))
            done += cells
        axes.append(parts)
    for (a, x), (b, y), (c, z) in ((p, q, r) for p in axes[0] for q in axes[1] for r in axes[2]):
        yield (a, b, c), (x, y, z)


def chunks_touched(
    start: Cells, shape: Cells, mesh_cells: NDArray[np.int64] | int, chunk_cells: int
) -> NDArray[np.int64]:
    """Return the chunks that periodic blocks touch, each of their `pieces_on_mesh` on its own.

    Parameters
    ----------
    start, shape : ndarray of int64, shape (..., 3)
        First cell of each block, on or off the mesh, and cells along each axis, at most the mesh.
    mesh_cells : int or ndarray of int64 that fits ``start``
        Cells along a side of the mesh.
    chunk_cells : int
        Cells along a side of a chunk.

    Returns
    -------
    ndarray of int64, shape (...)
    """
    first = start % mesh_cells
    before_face = np.minimum(shape, mesh_cells - first)
    chunks = (first + before_face - 1) // chunk_cells - first // chunk_cells + 1
    past_face = -(-(shape - before_face) // chunk_cells)
    touched: NDArray[np.int64] = (chunks + past_face).prod(axis=-1)
    return touched
