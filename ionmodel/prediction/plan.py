"""How the boxes of a store are predicted within a memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from ionmodel.channels.cache import smoothing_bytes
from ionmodel.networks.memory import SMALLEST_TILE, largest_tile, tile_bytes
from ionmodel.prediction.predictor import Predictor
from ionstore.cube.fields import PREDICTED
from ionstore.errors import MemoryBudgetError
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Layout, Part, plan_parts

DEFAULT_MEMORY_BYTES = 2 * 2**30


@dataclass(frozen=True, slots=True)
class PredictionPlan:
    """What a prediction is about to do.

    Parameters
    ----------
    redshifts : tuple of float
        Redshifts, descending.
    layout : Layout
        Layout of the predicted field.
    parts : tuple of Part
        Its shards.
    left : tuple of Part
        Those of them that are not predicted yet.
    tile : int
        Cells along a side that the network predicts at once.
    memory_bytes : int
        About what a process takes, beside Python and torch themselves.
    by_patches : bool
        Whether every cell is predicted from a neighborhood of its own, for want of a dense form.
    seconds_per_cell : float
        Seconds that the network takes, as timed.
    n_processes : int
        Processes that share out the shards.
    """

    redshifts: tuple[float, ...]
    layout: Layout
    parts: tuple[Part, ...]
    left: tuple[Part, ...]
    tile: int
    memory_bytes: int
    by_patches: bool
    seconds_per_cell: float
    n_processes: int

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
        """Estimated duration of what is left, without derived channels, decoding and encoding."""
        of_busiest = -(-len(self.left) // self.n_processes) / max(1, len(self.left))
        return of_busiest * self.n_cells_left * self.seconds_per_cell

    def cells_of(self, part: Part) -> int:
        """Return the cells of a shard that lie on the mesh."""
        _, shape = self.layout.shard_region(part.shard)
        return prod(shape)


def chosen_redshifts(store: CubeStore, redshifts: Sequence[float]) -> tuple[float, ...]:
    """Return redshifts as a store holds them, descending; all where none are given.

    Raises
    ------
    NotInStoreError
        If the store does not hold one.
    """
    chosen = {store.redshifts[store.redshift_index(redshift)] for redshift in redshifts}
    return tuple(sorted(chosen or store.redshifts, reverse=True))


def plan_prediction(
    predictor: Predictor,
    store: CubeStore,
    *,
    redshifts: Sequence[float] = (),
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    n_processes: int = 1,
    computes_channels: bool = True,
) -> PredictionPlan:
    """Decide how a store is predicted within a memory.

    Parameters
    ----------
    predictor : Predictor
        The network.
    store : CubeStore
        Store with its inputs.
    redshifts : sequence of float
        Redshifts to predict, in any order; all by default.
    memory_bytes : int
        Bound on the memory of a process, beside Python and torch themselves.
    n_processes : int
        Processes that share out the shards.
    computes_channels : bool
        Whether derived channels, where the network sees any, have to be computed first.

    Returns
    -------
    PredictionPlan
        All shards are left.

    Raises
    ------
    MemoryBudgetError
        If not even the smallest tiles fit, or the device has no memory for a tile.
    NotInStoreError
        If the store does not hold a redshift.
    """
    layout = store.layout
    taken = chosen_redshifts(store, redshifts)
    shard = min(layout.shard_cells, layout.mesh_cells)
    block = 4 * predictor.config.n_channels * (shard + 2 * predictor.radius) ** 3
    block += 2 * 4 * shard**3  # the prediction, and its chunks on their way to the disk
    tile = largest_tile(predictor.network, memory_bytes - block)
    if tile is None:
        least = block + tile_bytes(predictor.network, SMALLEST_TILE)
        raise MemoryBudgetError(
            f"a prediction takes {least / 1e6:,.0f} MB at least, for the inputs of a shard of "
            f"{shard} cells a side and the layers of the network, got {memory_bytes / 1e6:,.0f} "
            "MB; raise the memory"
        )
    parts = plan_parts([PREDICTED.name], len(taken), layout)
    tile = min(tile, shard)
    is_smoothed = computes_channels and predictor.config.derived_channels
    return PredictionPlan(
        taken,
        layout,
        parts,
        left=parts,
        tile=tile,
        memory_bytes=max(
            block + tile_bytes(predictor.network, tile),
            smoothing_bytes(store.mesh) if is_smoothed else 0,
        ),
        by_patches=not predictor.network.has_dense_form,
        seconds_per_cell=predictor.seconds_per_cell(tile),
        n_processes=n_processes,
    )
