"""Choose the samples of each batch: plans, no data."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ionstore.cube.mesh import Cells
from ionstore.sampling.order import Order, Places
from ionstore.sampling.regions import SampleRegions
from ionstore.sampling.symmetry import Symmetries, draw_symmetries


@dataclass(frozen=True, slots=True)
class RankShare:
    """The part of each batch that one rank takes."""

    batch_size: int  # samples, over all ranks
    rank: int = 0
    world: int = 1  # divides the lanes of the order

    @property
    def most_samples(self) -> int:
        """Most samples of a batch that a rank takes."""
        return -(-self.batch_size // self.world)


@dataclass(frozen=True, slots=True, eq=False)
class Picked:
    """A rank's samples of a batch: lane by lane, in each lane in ascending order of places.

    Regions are opened in this order too, and samples of one region are cut together, while it lies
    in the cache.
    """

    row: NDArray[np.int64]  # where each sample goes in the batch
    at: Places
    cube: NDArray[np.int64]
    cells: Cells  # possibly off the mesh
    symmetry: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class BatchPlan:
    """The batches of an epoch, and one rank's part of them."""

    regions: SampleRegions
    order: Order
    share: RankShare
    symmetries: Symmetries

    @property
    def n_batches(self) -> int:
        """Batches of an epoch."""
        return -(-self.order.n_samples // self.share.batch_size)

    def places(self, batch: int) -> tuple[int, int]:
        """Return the first place of a batch in its epoch, over all ranks, and the one past it."""
        start = batch * self.share.batch_size
        return start, min(start + self.share.batch_size, self.order.n_samples)

    def n_samples(self, batch: int) -> int:
        """Return how many samples of a batch are the rank's."""
        start, stop = self.places(batch)
        world = self.share.world
        return max(0, stop - start - (self.share.rank - start) % world + world - 1) // world

    def pick(self, epoch: int, batch: int) -> Picked:
        """Return the rank's samples of a batch."""
        start, stop = self.places(batch)
        share, order = self.share, self.order
        lanes = range(share.rank, order.n_lanes, share.world)
        # Place p of the epoch is place p // n_lanes of lane p % n_lanes.
        at = order.locate(
            epoch,
            (
                (lane, -((lane - start) // order.n_lanes), -((lane - stop) // order.n_lanes))
                for lane in lanes
            ),
        )
        # A rank takes every world-th sample of the whole batch, and keeps their order.
        first = start + (share.rank - start) % share.world
        row = (at.place * order.n_lanes + at.lane - first) // share.world
        numbers = self.regions.numbers(at.region, at.member)
        cube, cells = self.regions.samples.find(numbers)
        # Drawn for the sample, not for its place: the same on any rank and after resuming.
        symmetry = draw_symmetries(numbers, self.symmetries, seed=order.seed, epoch=epoch)
        return Picked(row, at, cube, cells, symmetry)
