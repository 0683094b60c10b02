"""Group samples into regions by the core of the mesh that they lie in; plans, no data.

A core is a box of cells that ends at chunks wherever it holds whole ones. Around the samples of a
core lies the block that has to be decoded to cut them: their tiles and a halo.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ionstore.cube.mesh import Cells, Region
from ionstore.sampling.samples import CubeSamples, Samples


@dataclass(frozen=True, slots=True)
class Reach:
    """Distances in cells that the inputs and targets of a sample reach from its cell."""

    radius: int  # around the targets
    tile: int = 1  # side of the targets, which begin at the sample's cell

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


class SampleRegions:
    """Samples of several coeval cubes by region; without a core, one region of all of them.

    ``sizes`` are the samples of each region, at least one, ``cube`` its cube, ``start`` and
    ``shape`` the box that the cells of its samples span, of shape (n_regions, 3).
    """

    def __init__(
        self,
        samples: Samples,
        core: int | None,
        *,
        chunk_cells: int,
        by_chunk: "Sequence[Boxes | None] | None" = None,
    ) -> None:
        if core is not None and core < 1:
            raise ValueError(f"core must be at least 1, got {core}")
        # Cores that hold whole chunks begin and end with chunks: else neighbors would decode the
        # chunk between them twice.
        if core is not None and core > chunk_cells:
            core = core // chunk_cells * chunk_cells
        self.samples, self.core = samples, core
        if core is None:
            self.sizes = np.array([samples.n_samples], dtype=np.int64)
            self.cube = np.zeros(1, dtype=np.int64)
            self.start = self.shape = np.zeros((1, 3), dtype=np.int64)
            return
        # Boxes by chunk, where known, save a look at each cell of long lists, core after core.
        self._edges = [core_edges(cube.mesh_cells, core, chunk_cells) for cube in samples.cubes]
        known = None if by_chunk is None or core < chunk_cells else by_chunk
        boxes = [
            _boxes(cube, edges, None if known is None else known[index])
            for index, (cube, edges) in enumerate(zip(samples.cubes, self._edges, strict=True))
        ]
        self.sizes = np.concatenate([box.size for box in boxes])
        self.cube = np.repeat(np.arange(len(boxes)), [len(box.size) for box in boxes])
        self.start = np.concatenate([box.start for box in boxes])
        self.shape = np.concatenate([box.shape for box in boxes])
        # Arrays over all cubes, so that `numbers` needs no loop over them.
        given = [cube.centers for cube in samples.cubes]
        self._is_list = np.array([not isinstance(cells, Region) for cells in given])
        regions = [one if isinstance(one, Region) else Region((0,) * 3, (1,) * 3) for one in given]
        self._box_start = np.array([region.start for region in regions])
        self._box_shape = np.array([region.shape for region in regions])
        # Cubes of one store have the same list: it is sorted, and kept, once.
        self._lists: list[int] = []  # a cube of each
        firsts: dict[tuple[int, int], int] = {}
        first_members, n_members = [], 0
        for index, (cube, box) in enumerate(zip(samples.cubes, boxes, strict=True)):
            key = id(cube.centers), cube.mesh_cells
            if self._is_list[index] and key not in firsts:
                firsts[key] = n_members
                self._lists.append(index)
                n_members += cube.n_samples
            first_members.append(firsts.get(key, 0) + np.cumsum(box.size) - box.size)
        self._first_member = np.concatenate(first_members)

    @property
    def n_regions(self) -> int:
        """Number of regions."""
        return len(self.sizes)

    def numbers(self, region: NDArray[np.int64], member: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of samples by their region and place in it."""
        if self.core is None:
            return member
        cube = self.cube[region]
        numbers = np.empty_like(member)
        listed = self._is_list[cube]
        place = self._first_member[region[listed]] + member[listed]
        numbers[listed] = self.samples.first[cube[listed]] + self._members[place]
        region, member, cube = (values[~listed] for values in (region, member, cube))
        _, ny, nz = self.shape[region].T
        within = np.stack([member // (ny * nz), member // nz % ny, member % nz])
        x, y, z = self.start[region].T + within - self._box_start[cube].T
        _, ny, nz = self._box_shape[cube].T
        numbers[~listed] = self.samples.first[cube] + (x * ny + y) * nz + z
        return numbers

    @cached_property
    def _members(self) -> NDArray[np.unsignedinteger[Any]]:
        """Places in the lists of samples, list after list, in each core by core."""
        # In the smallest type: 4 bytes a center up to 4 billion of them. Samples of boxes of cells
        # are found from their cells instead, which takes no memory.
        members = [
            np.argsort(label, kind="stable").astype(np.min_scalar_type(len(label)))
            for index in self._lists
            for label in [_core_of(self.samples.cubes[index], self._edges[index])]
        ]
        return np.concatenate(members) if members else np.zeros(0, np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        if self.core is not None:
            _ = self._members  # sorted here once, not in every process
        return vars(self)

    def blocks(self, reach: Reach) -> tuple[Cells, Cells, Cells, Cells]:
        """Return first cells and shapes of the blocks of inputs, then of those of targets.

        All of shape (n_regions, 3); first cells may lie off the mesh.
        """
        mesh = self.samples.mesh_cells[self.cube][:, None]
        parts = []
        # An axis as long as the mesh, or longer, is the mesh from cell 0: wrapping then finds every
        # cell, and none is decoded twice.
        for halo in (reach.radius, 0):
            shape = self.shape + reach.tile - 1 + 2 * halo
            parts += [
                np.where(shape >= mesh, 0, self.start - halo),
                np.minimum(shape, mesh),
            ]
        return parts[0], parts[1], parts[2], parts[3]


def core_edges(mesh_cells: int, core: int, chunk_cells: int) -> NDArray[np.int64]:
    """Return where cores begin along a side of the mesh, and where the last one ends.

    Multiples of the chunk, but for the end, when a core holds at least one chunk.

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
    # As even as whole chunks allow: a thin last core would have more halo than cells.
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
class Boxes:
    """Boxes of cells that samples span on the mesh, one for each chunk or core that holds any."""

    start: Cells
    shape: Cells
    size: NDArray[np.int64]  # samples in each


def boxes_by_chunk(samples: Samples, chunk_cells: int) -> list[Boxes | None]:
    """Return the boxes of every cube whose samples are a list, by chunk; None for others."""
    by_list: dict[tuple[int, int], Boxes] = {}
    found: list[Boxes | None] = []
    for cube in samples.cubes:
        # By identity: the cubes of a store share one list, and lists are long to compare.
        key = id(cube.centers), cube.mesh_cells
        if isinstance(cube.centers, Region):
            found.append(None)
            continue
        if key not in by_list:
            by_list[key] = _boxes(cube, core_edges(cube.mesh_cells, chunk_cells, chunk_cells))
        found.append(by_list[key])
    return found


def _boxes(cube: CubeSamples, edges: NDArray[np.int64], by_chunk: Boxes | None = None) -> Boxes:
    """Return the boxes of a cube's samples by core, from those by chunk where they are known."""
    if isinstance(cube.centers, Region):
        return _boxes_of_region(cube.centers, edges)
    if by_chunk is not None:
        label = _label(by_chunk.start, edges)
        return _merged(label, by_chunk.start, by_chunk.start + by_chunk.shape, by_chunk.size)
    cells = cube.centers % cube.mesh_cells
    return _merged(_label(cells, edges), cells, cells + 1, None)


def _boxes_of_region(region: Region, edges: NDArray[np.int64]) -> Boxes:
    axes = []
    for first, length in zip(region.start, region.shape, strict=True):
        cut = np.clip(edges, first, first + length)
        some = np.diff(cut) > 0
        axes.append((cut[:-1][some], np.diff(cut)[some]))
    start, shape = (
        np.stack(np.meshgrid(*parts, indexing="ij"), axis=-1).reshape(-1, 3)
        for parts in zip(*axes, strict=True)
    )
    return Boxes(start, shape, shape.prod(axis=1))


def _core_of(cube: CubeSamples, edges: NDArray[np.int64]) -> NDArray[np.unsignedinteger[Any]]:
    assert not isinstance(cube.centers, Region)
    return _label(cube.centers % cube.mesh_cells, edges)


def _label(cells: Cells, edges: NDArray[np.int64]) -> NDArray[np.unsignedinteger[Any]]:
    """Return the number of the core of each cell, in the smallest type: the fastest to sort."""
    n = len(edges) - 1
    of_cell = np.repeat(np.arange(n), np.diff(edges))
    i, j, k = (of_cell[along] for along in cells.T)
    label: NDArray[np.unsignedinteger[Any]] = ((i * n + j) * n + k).astype(np.min_scalar_type(n**3))
    return label


def _merged(
    label: NDArray[np.unsignedinteger[Any]],
    start: Cells,
    stop: Cells,
    size: NDArray[np.int64] | None,
) -> Boxes:
    """Return the boxes around all boxes of the same label; each is one sample without ``size``."""
    if not len(label):
        none = np.zeros((0, 3), dtype=np.int64)
        return Boxes(none, none, none[:, 0])
    order = np.argsort(label, kind="stable")
    label = label[order]
    firsts = np.flatnonzero(np.append(True, label[1:] != label[:-1]))
    first = np.minimum.reduceat(start[order], firsts)
    shape = np.maximum.reduceat(stop[order], firsts) - first
    if size is None:
        return Boxes(first, shape, np.diff(np.append(firsts, len(label))))
    return Boxes(first, shape, np.add.reduceat(size[order], firsts))


def pieces_on_mesh(
    start: Cells, shape: Cells, mesh_cells: int
) -> Iterator[tuple[tuple[slice, slice, slice], tuple[int, int, int]]]:
    """Yield the parts of a periodic block that do not cross the faces of the mesh.

    Each as its place in the block, and its first cell on the mesh.

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
    """Return how many chunks periodic blocks, at most the mesh, touch.

    Each of their `pieces_on_mesh` is read on its own, so a chunk on both sides counts twice.
    """
    first = start % mesh_cells
    before_face = np.minimum(shape, mesh_cells - first)
    chunks = (first + before_face - 1) // chunk_cells - first // chunk_cells + 1
    past_face = -(-(shape - before_face) // chunk_cells)
    touched: NDArray[np.int64] = (chunks + past_face).prod(axis=-1)
    return touched


def region_bytes(regions: SampleRegions, reach: Reach, *, n_channels: int) -> int:
    """Return the memory of one slot: the largest blocks of inputs and of targets."""
    _, inputs, _, targets = regions.blocks(reach)
    return 4 * int((n_channels * inputs.prod(axis=1) + targets.prod(axis=1)).max())
