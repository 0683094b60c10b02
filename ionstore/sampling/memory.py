"""Spend a memory budget: whole cubes if they fit, regions as large as it allows if not."""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ionstore.errors import MemoryBudgetError, bytes_in_words
from ionstore.sampling.regions import (
    Boxes,
    Reach,
    SampleRegions,
    boxes_by_chunk,
    chunks_touched,
    core_candidates,
    region_bytes,
)
from ionstore.sampling.samples import Samples
from ionstore.sampling.settings import LoaderSettings

# Blocks that there is memory for besides the one that each lane is cut from, so that the next
# ones are decoded while these are cut.
DECODED_AHEAD = 2

# Set aside whatever the ring takes, as its size depends on the number of workers.
_RESERVED_BATCHES = 8

# An epoch of few samples opens fewer regions rather than decode one for less than this.
_LEAST_SAMPLES_PER_OPENING = 256


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The mode of a loader, the side of its cores, and a rank's slots for blocks."""

    mode: Literal["resident", "regions"]
    core: int | None  # None: one region of all samples, in uniformly random order
    n_slots: int = 0


class RegionSizes:
    """Costs of grouping the same samples into regions, by the side of their cores."""

    def __init__(
        self,
        samples: Samples,
        reach: Reach,
        settings: LoaderSettings,
        *,
        n_channels: int,
        chunk_cells: int,
    ) -> None:
        self._samples, self._reach, self._settings = samples, reach, settings
        self._n_channels, self.chunk_cells = n_channels, chunk_cells
        self._latest: tuple[int | None, SampleRegions] | None = None

    @property
    def candidates(self) -> list[int]:
        """Sides of cores to choose from, ascending: the one asked for, if one is."""
        if self._settings.core is not None:
            return [self._settings.core]
        return core_candidates(int(self._samples.mesh_cells.max()), self.chunk_cells)

    def regions(self, core: int | None) -> SampleRegions:
        """Return the samples by region."""
        # Only the latest is kept: several costs of one core are asked for in a row.
        if self._latest is None or self._latest[0] != core:
            by_chunk = None if core is None else self._by_chunk
            regions = SampleRegions(
                self._samples, core, chunk_cells=self.chunk_cells, by_chunk=by_chunk
            )
            self._latest = core, regions
        return self._latest[1]

    @cached_property
    def _by_chunk(self) -> list[Boxes | None]:
        return boxes_by_chunk(self._samples, self.chunk_cells)

    def block_bytes(self, core: int) -> int:
        """Return the memory that a region takes at most."""
        return region_bytes(self.regions(core), self._reach, n_channels=self._n_channels)

    def visits(self, core: int | None) -> NDArray[np.int64]:
        """Return how often each region is visited until all of its samples have been taken."""
        settings, regions = self._settings, self.regions(core)
        if not settings.shuffle or regions.core is None:
            return np.ones_like(regions.sizes)
        if settings.samples_per_opening is not None:
            return -(-regions.sizes // settings.samples_per_opening)
        total, n_regions = self._samples.n_samples, regions.n_regions
        wanted = min(settings.samples_per_epoch or total, total)
        at_a_time = max(_LEAST_SAMPLES_PER_OPENING, wanted // n_regions)
        return np.minimum(max(1, total // (n_regions * at_a_time)), regions.sizes)

    def decoded_cells(self, core: int) -> float:
        """Return the expected cells of each field that an epoch decodes on all ranks."""
        # An expectation: the regions that a short epoch visits, and where lanes begin, are drawn.
        regions, total = self.regions(core), self._samples.n_samples
        start, shape, _, _ = regions.blocks(self._reach)
        mesh = self._samples.mesh_cells[regions.cube][:, None]
        # Whole chunks: a chunk is decompressed in one piece, however few of its cells are used.
        chunks = chunks_touched(start, shape, mesh, self.chunk_cells)
        wanted = min(self._settings.samples_per_epoch or total, total)
        visits = self.visits(core)
        n_visits = int(visits.sum())
        begun = -(-n_visits * wanted // total)
        # A lane that begins in the midst of a visit opens its region once more.
        edges = min(self._settings.lanes, wanted) - 1
        decoded = begun * (chunks * visits).sum() / n_visits
        decoded += edges * (chunks * (regions.sizes - visits)).sum() / total
        return float(decoded) * self.chunk_cells**3

    def core_cells(self, core: int) -> float:
        """Return the cells of the targets of all regions."""
        _, _, _, targets = self.regions(core).blocks(self._reach)
        return float(targets.prod(axis=1).sum())

    def choose(self, available: int, *, or_smaller: bool = False) -> int | None:
        """Return the core to take where a block has so many bytes, None if none fits.

        With ``or_smaller``, a smaller core may take the place of one that was asked for.
        """
        chosen = self._choose(available, self.candidates)
        asked = self._settings.core
        if chosen is None and asked is not None and or_smaller:
            smaller = [core for core in core_candidates(asked, self.chunk_cells) if core < asked]
            chosen = self._choose(available, smaller)
        return chosen

    def _choose(self, available: int, candidates: list[int]) -> int | None:
        # The larger a core, the smaller its halo beside it: where all samples of a region are
        # taken at once, the largest core decodes the least. Where only a few are, a smaller one
        # does. Bisection computes few of the regions; where a block does not grow with its core
        # (the edges of a split can cut cores), it may miss a larger core that fits.
        fitting = candidates[: bisect_right(candidates, available, key=self.block_bytes)]
        # Cores below a chunk decode the same chunks for fewer samples: only if nothing else fits.
        chunks = [core for core in fitting if core >= self.chunk_cells]
        # Reversed, so that the larger one of equals is taken.
        return min(reversed(chunks or fitting[-1:]), key=self.decoded_cells, default=None)


def plan_memory(
    budget: int,
    sizes: RegionSizes,
    settings: LoaderSettings,
    *,
    resident_bytes: int,
    batch_bytes: int,
    ring_bytes: int,
) -> MemoryPlan:
    """Plan how to spend a budget in bytes, over all processes of this machine.

    All bytes count all ranks: ``resident_bytes`` of one copy of all cubes, decoded whole,
    ``batch_bytes`` of one batch, ``ring_bytes`` of the batches prepared ahead.
    """
    core, ranks = settings.core, settings.ranks_here or settings.world
    if ring_bytes >= budget:
        raise batches_do_not_fit(ring_bytes, budget, settings.num_workers)
    all_resident = ranks * resident_bytes + ring_bytes  # each rank decodes for itself
    decoded = bytes_for_fields(budget, batch_bytes)
    if core is not None:
        # The order is fixed by the core already, so the mode may depend on ranks and workers.
        if all_resident <= budget:
            return MemoryPlan("resident", core)
    elif resident_bytes <= decoded:
        if all_resident > budget:
            what = "all fields" if ranks == 1 else f"all fields, once for each of {ranks} ranks,"
            or_else = f"{_or_workers(settings.num_workers)}, or set core"
            raise _does_not_fit(what, ranks * resident_bytes, ring_bytes, budget, or_else)
        return MemoryPlan("resident", None)
    least_slots = settings.lanes + DECODED_AHEAD
    chosen = core or sizes.choose(decoded // least_slots)
    if chosen is None:
        raise _does_not_fit(
            f"all fields take {bytes_in_words(resident_bytes)}, and even the smallest regions",
            least_slots * sizes.block_bytes(sizes.candidates[0]),
            batch_bytes,
            budget,
            " or n_lanes",
        )
    n_slots = _slots_of_rank(
        budget, settings, chosen, block=sizes.block_bytes(chosen), ring=ring_bytes, decoded=decoded
    )
    return MemoryPlan("regions", chosen, n_slots)


def bytes_for_fields(budget: int, batch_bytes: int) -> int:
    """Return the part of a budget that decoded fields may take, for batches of so many bytes."""
    # The order of samples must depend neither on workers nor on ranks. So the core is chosen from
    # the budget as a whole less a fixed number of batches, or half of it where they take more.
    return max(budget // 2, budget - _RESERVED_BATCHES * batch_bytes)


def _slots_of_rank(
    budget: int, settings: LoaderSettings, core: int, *, block: int, ring: int, decoded: int
) -> int:
    """Return how many blocks of so many bytes a rank has memory for."""
    ranks, lanes_here = settings.ranks_here or settings.world, settings.lanes // settings.world
    available = budget - ring
    if available < ranks * lanes_here * block:
        or_else = _or_workers(settings.num_workers)
        if settings.core is not None:
            or_else += " or core"
        elif core > 1:
            or_else += f", or set core to less than {core}"
        what = f"regions of core {core}"
        raise _does_not_fit(what, ranks * lanes_here * block, ring, budget, or_else)
    # The reserved batches are kept for siblings, which share the blocks. A core that is asked for
    # may be so large that this would leave none to decode ahead: then they get less.
    n_slots = min(available, decoded) // (ranks * block)
    least = lanes_here + (0 if settings.core is None else DECODED_AHEAD)
    n_slots = max(n_slots, min(least, available // (ranks * block)))
    # One block ahead for each lane is enough.
    return min(n_slots, lanes_here + max(lanes_here, DECODED_AHEAD))


def batches_do_not_fit(ring_bytes: int, left: int, num_workers: int) -> MemoryBudgetError:
    """Return the error of a budget that leaves too little for the batches prepared ahead."""
    return MemoryBudgetError(
        f"the batches prepared ahead take {bytes_in_words(ring_bytes)} of memory, memory_budget "
        f"leaves {bytes_in_words(max(0, left))} for them; raise memory_budget, or lower batch_size"
        f"{_or_workers(num_workers)}"
    )


def _does_not_fit(
    what: str, decoded: int, batches: int, budget: int, or_else: str
) -> MemoryBudgetError:
    return MemoryBudgetError(
        f"{what} take {bytes_in_words(decoded)} of memory and batches {bytes_in_words(batches)}, "
        f"memory_budget is {bytes_in_words(budget)}; raise memory_budget, lower batch_size{or_else}"
    )


def _or_workers(num_workers: int) -> str:
    # Fewer workers need fewer batches ahead; without any, there is nothing to lower.
    return " or num_workers" if num_workers else ""
