"""Layout of a cubic mesh in chunks and shards, and the parts that writers write."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from ionstore.cube.mesh import Corner

CHUNK_CELLS = 32
SHARD_CELLS = 160


@dataclass(frozen=True, slots=True)
class Layout:
    """Cubic chunks in cubic shards on a cubic mesh; all numbers are cells along a side."""

    mesh_cells: int
    chunk_cells: int  # of the unit of compression, at most `mesh_cells`
    shard_cells: int  # of the stored object, a multiple of `chunk_cells`

    def __post_init__(self) -> None:
        if not 1 <= self.chunk_cells <= self.mesh_cells:
            raise ValueError(
                f"chunk_cells must be between 1 and mesh_cells {self.mesh_cells}, "
                f"got {self.chunk_cells}"
            )
        if self.shard_cells < 1 or self.shard_cells % self.chunk_cells:
            raise ValueError(
                f"shard_cells must be a multiple of chunk_cells {self.chunk_cells}, "
                f"got {self.shard_cells}"
            )

    @property
    def shards_per_side(self) -> int:
        """Shards along a side of the mesh."""
        return math.ceil(self.mesh_cells / self.shard_cells)

    def shard_indices(self) -> Iterator[Corner]:
        """Yield the indices of all shards of one cube in C order."""
        yield from product(range(self.shards_per_side), repeat=3)

    def shard_region(self, shard: Corner) -> tuple[Corner, Corner]:
        """Return the first cell of a shard, and its cells along each axis that lie on the mesh."""
        if not all(0 <= index < self.shards_per_side for index in shard):
            raise ValueError(f"shard must be below {self.shards_per_side} per side, got {shard}")
        start = _corner(index * self.shard_cells for index in shard)
        shape = _corner(min(self.shard_cells, self.mesh_cells - first) for first in start)
        return start, shape

    def shard_of_region(self, start: Corner, shape: Corner) -> Corner:
        """Return the shard whose cells are exactly a region; raise ValueError if there is none."""
        # Two writers must never meet in one shard, so a write covers one shard wholly.
        shard = _corner(first // self.shard_cells for first in start)
        if min(start) < 0 or max(shard) >= self.shards_per_side:
            raise ValueError(f"start must lie on the mesh of {self.mesh_cells} cells, got {start}")
        if (start, shape) != self.shard_region(shard):
            raise ValueError(
                f"a written block must be one whole shard, here start {self.shard_region(shard)[0]}"
                f" and shape {self.shard_region(shard)[1]}, got start {start} and shape {shape}"
            )
        return shard

    def shards_touched(self, start: Corner, shape: Corner) -> Iterator[Corner]:
        """Yield the indices of the shards that share cells with a region on the mesh."""
        yield from product(
            *(
                range(first // self.shard_cells, (first + length - 1) // self.shard_cells + 1)
                for first, length in zip(start, shape, strict=True)
            )
        )


def plan_layout(
    mesh_cells: int, *, chunk_cells: int = CHUNK_CELLS, max_shard_cells: int = SHARD_CELLS
) -> Layout:
    """Return the layout of a mesh: as few shards as their largest size allows, all about equal.

    A mesh smaller than a chunk is one chunk; shards are rounded up to whole chunks.

    >>> plan_layout(300)
    Layout(mesh_cells=300, chunk_cells=32, shard_cells=160)
    >>> plan_layout(33)
    Layout(mesh_cells=33, chunk_cells=32, shard_cells=64)
    """
    if min(mesh_cells, chunk_cells, max_shard_cells) < 1:
        raise ValueError(
            f"mesh_cells, chunk_cells and max_shard_cells must be at least 1, "
            f"got {mesh_cells}, {chunk_cells} and {max_shard_cells}"
        )
    chunk = min(chunk_cells, mesh_cells)
    per_side = math.ceil(mesh_cells / max_shard_cells)
    return Layout(mesh_cells, chunk, chunk * math.ceil(mesh_cells / per_side / chunk))


def _corner(numbers: Iterator[int]) -> Corner:
    i, j, k = numbers
    return i, j, k


@dataclass(frozen=True, slots=True)
class Part:
    """One shard of one field at one redshift: what a single writer writes."""

    field: str
    redshift_index: int
    shard: Corner

    @property
    def name(self) -> str:
        """Name of this part in the records of a build; it can be a file name."""
        return "-".join([self.field, *map(str, (self.redshift_index, *self.shard))])


def plan_parts(fields: Sequence[str], n_redshifts: int, layout: Layout) -> tuple[Part, ...]:
    """Return every shard of every field and redshift, in the order redshift, field, shard."""
    return tuple(
        Part(field, index, shard)
        for index in range(n_redshifts)
        for field in fields
        for shard in layout.shard_indices()
    )
