"""Plan the prediction of the boxes of a store within a memory bound."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from ionmodel.channels.cache import smoothing_bytes
from ionmodel.networks.memory import SMALLEST_TILE, largest_tile, tile_bytes
from ionmodel.prediction.predictor import Predictor
from ionstore.cube.fields import PREDICTED
from ionstore.errors import MemoryBudgetError, bytes_in_words
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Layout, Part, plan_parts

DEFAULT_MEMORY_BYTES = 2 * 2**30


@dataclass(frozen=True, slots=True)
class PredictionPlan:
    """Shards that a prediction writes, and their cost."""

    redshifts: tuple[float, ...]  # descending
    layout: Layout  # of the predicted field
    parts: tuple[Part, ...]  # its shards
    left: tuple[Part, ...]  # those of them that are not predicted yet
    tile: int  # cells along a side that the network predicts at once
    memory_bytes: int  # of a process, about, on top of Python and torch themselves
    by_patches: bool  # cell by cell, because the network has no dense form
    seconds_per_cell: float  # of the network alone, as timed
    n_processes: int  # they share out the shards

    @property
    def n_cells(self) -> int:
        """Cells of all shards."""
        return sum(map(self.cells_of, self.parts))

    @property
    def n_cells_left(self) -> int:
        """Cells of the shards that are left."""
        return sum(map(self.cells_of, self.left))

    @property
    def seconds(self) -> float:
        """Estimated time for the remaining shards, of the network alone."""
        # Whole shards are shared out: the process with the most of them decides.
        of_busiest = -(-len(self.left) // self.n_processes) / max(1, len(self.left))
        return of_busiest * self.n_cells_left * self.seconds_per_cell

    def cells_of(self, part: Part) -> int:
        """Return the cells of a shard that lie on the mesh."""
        _, shape = self.layout.shard_region(part.shard)
        return prod(shape)


def redshifts_of(store: CubeStore, redshifts: Sequence[float]) -> tuple[float, ...]:
    """Return redshifts as a store holds them, each once, descending; all if none are given."""
    return tuple(sorted({*store.chosen_redshifts(redshifts)}, reverse=True))


def plan_prediction(
    predictor: Predictor,
    store: CubeStore,
    *,
    redshifts: Sequence[float] = (),
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    n_processes: int = 1,
    computes_channels: bool = True,
) -> PredictionPlan:
    """Choose the largest tile that fits the memory, and time it; all shards are left."""
    layout = store.layout
    taken = redshifts_of(store, redshifts)
    shard = min(layout.shard_cells, layout.mesh_cells)
    # Inputs of a shard with its halo in float32, held while its tiles are predicted.
    block = 4 * predictor.config.n_channels * (shard + 2 * predictor.radius) ** 3
    block += 2 * 4 * shard**3  # the prediction, and its chunks on their way to the disk
    tile = largest_tile(predictor.network, memory_bytes - block)
    if tile is None:
        least = block + tile_bytes(predictor.network, SMALLEST_TILE)
        raise MemoryBudgetError(
            f"a prediction takes {bytes_in_words(least)} at least, for the inputs of a shard of "
            f"{shard} cells a side and the layers of the network, got "
            f"{bytes_in_words(memory_bytes)}; raise the memory"
        )
    parts = plan_parts([PREDICTED.name], len(taken), layout)
    tile = min(tile, shard)  # a tile never spans shards
    is_smoothed = computes_channels and predictor.config.derived_channels
    return PredictionPlan(
        taken,
        layout,
        parts,
        left=parts,
        tile=tile,
        # Not added up: channels are finished before the first shard is read.
        memory_bytes=max(
            block + tile_bytes(predictor.network, tile),
            smoothing_bytes(store.mesh) if is_smoothed else 0,
        ),
        by_patches=not predictor.network.has_dense_form,
        seconds_per_cell=predictor.seconds_per_cell(tile),
        n_processes=n_processes,
    )
