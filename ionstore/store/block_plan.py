"""Which chunks of which shards a block of cells needs."""

from dataclasses import dataclass
from itertools import product

from ionstore.cube.mesh import Corner
from ionstore.store.layout import Layout

_Run = tuple[int, int, int, int, int]
"""Along one axis: place of the first chunk, chunks, first cell in it and in the block, cells."""

# A megabyte of float32: decoded chunks of a run stay in the processor's cache until copied out.
_RUN_CELLS = 2**18


@dataclass(frozen=True, slots=True)
class ChunkRun:
    """The box of cells that chunks in a row along z share with a block."""

    chunk: int  # the first, numbered in C order within its shard; the others follow it
    n_chunks: int  # at least 1
    source: Corner  # first cell of the box in the first chunk
    target: Corner  # first cell of the box in the block
    shape: Corner  # cells of the box along each axis, over all chunks


@dataclass(frozen=True, slots=True)
class ShardPart:
    """The chunks of one shard that a block needs."""

    shard: Corner
    runs: tuple[ChunkRun, ...]  # in C order

    @property
    def n_chunks(self) -> int:
        """Chunks of all runs."""
        return sum(run.n_chunks for run in self.runs)


def plan_block(layout: Layout, start: Corner, shape: Corner) -> tuple[ShardPart, ...]:
    """Return the chunks that share cells with a block on the mesh, shard by shard.

    >>> (shard,) = plan_block(Layout(8, 4, 8), (3, 0, 2), (2, 2, 4))
    >>> shard.runs[0]
    ChunkRun(chunk=0, n_chunks=2, source=(3, 0, 2), target=(0, 0, 0), shape=(1, 2, 4))
    >>> shard.runs[1]
    ChunkRun(chunk=4, n_chunks=2, source=(0, 0, 2), target=(1, 0, 0), shape=(1, 2, 4))
    """
    per_side = layout.shard_cells // layout.chunk_cells
    # Chunks follow each other in a shard along z, so only there do several make a run.
    longest = max(1, _RUN_CELLS // layout.chunk_cells**3)
    along_x, along_y = (
        _plan_axis(layout, first, cells, longest=1)
        for first, cells in zip(start[:2], shape[:2], strict=True)
    )
    along_z = _plan_axis(layout, start[2], shape[2], longest=longest)
    parts = []
    for shard in product(along_x, along_y, along_z):
        runs = []
        for x, y, z in product(along_x[shard[0]], along_y[shard[1]], along_z[shard[2]]):
            places, n_chunks, source, target, cells = zip(x, y, z, strict=True)
            chunk = (places[0] * per_side + places[1]) * per_side + places[2]
            runs.append(ChunkRun(chunk, n_chunks[2], source, target, cells))
        parts.append(ShardPart(shard, tuple(runs)))
    return tuple(parts)


def _plan_axis(layout: Layout, first: int, cells: int, *, longest: int) -> dict[int, list[_Run]]:
    """Return the runs of chunks of each shard along an axis."""
    side = layout.chunk_cells
    per_shard = layout.shard_cells // side
    end = first + cells
    shards: dict[int, list[_Run]] = {}
    chunk = first // side
    while chunk * side < end:
        shard, place = divmod(chunk, per_shard)
        n_chunks = min(longest, per_shard - place, (end - 1) // side + 1 - chunk)
        low = max(first, chunk * side)
        high = min(end, (chunk + n_chunks) * side)
        run = (place, n_chunks, low - chunk * side, low - first, high - low)
        shards.setdefault(shard, []).append(run)
        chunk += n_chunks
    return shards
