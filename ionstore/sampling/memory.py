"""How a memory budget is spent: whole cubes if they fit, regions as large as it allows if not."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ionstore.errors import MemoryBudgetError
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

DECODED_AHEAD = 2
"""Blocks that there is memory for besides the one that each lane is cut from."""

_RESERVED_BATCHES = 8


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What is decoded, and in which order samples come.

    Parameters
    ----------
    mode : {"resident", "regions"}
        Whole cubes, or a few regions at a time.
    core : int, optional
        Cells along a side of a region's core; None: one region of all samples, uniformly random.
    n_slots : int
        Blocks of regions that a rank has memory for.
    """

    mode: Literal["resident", "regions"]
    core: int | None
    n_slots: int = 0


def plan_memory(
    budget: int,
    *,
    resident_bytes: int,
    block_bytes: Callable[[int], int],
    choose_core: Callable[[int], int | None],
    smallest_core: int,
    core: int | None,
    n_lanes: int,
    batch_bytes: int,
    ring_bytes: int,
    num_workers: int = 0,
    world: int = 1,
    ranks: int = 1,
) -> MemoryPlan:
    """Return how to spend a budget of memory.

    The order of samples must depend neither on workers nor on ranks. So the core that is chosen
    depends on the budget as a whole: eight batches are set aside, or half of the budget where
    they would take more, and the rest is for the block that each lane is cut from and at least two
    more, decoded ahead.

    Parameters
    ----------
    budget : int
        Bytes for decoded data and batches, over all processes of this machine.
    resident_bytes : int
        Bytes of all cubes, decoded whole.
    block_bytes : callable
        Returns the bytes of one region's block at most, for cores of a side.
    choose_core : callable
        Returns the side of cores to take where there are so many bytes for one block; None where
        none fits.
    smallest_core : int
        The smallest side there is.
    core : int, optional
        Side that is asked for.
    n_lanes : int
        Lanes, over all ranks.
    batch_bytes, ring_bytes : int
        Bytes of one batch, and of all that are prepared at a time, over all ranks.
    num_workers : int
        Worker processes, named where fewer of them would help.
    world : int
        Ranks that share the lanes.
    ranks : int
        Ranks on this machine; each decodes for itself.

    Raises
    ------
    MemoryBudgetError
        If the budget is too small.
    """
    or_workers = " or num_workers" if num_workers else ""
    if ring_bytes >= budget:
        raise MemoryBudgetError(
            f"the batches prepared ahead take {ring_bytes / 1e6:.1f} MB of memory, memory_budget "
            f"leaves {budget / 1e6:.1f} MB for them; raise memory_budget, or lower batch_size"
            f"{or_workers}"
        )
    all_resident = ranks * resident_bytes + ring_bytes
    decoded = max(budget // 2, budget - _RESERVED_BATCHES * batch_bytes)
    if core is not None:
        if all_resident <= budget:
            return MemoryPlan("resident", core)
    elif resident_bytes <= decoded:
        if all_resident > budget:
            what = "all fields" if ranks == 1 else f"all fields, once for each of {ranks} ranks,"
            raise _does_not_fit(
                what, ranks * resident_bytes, ring_bytes, budget, f"{or_workers}, or set core"
            )
        return MemoryPlan("resident", None)
    least_slots = n_lanes + DECODED_AHEAD
    chosen = core or choose_core(decoded // least_slots)
    if chosen is None:
        raise _does_not_fit(
            f"all fields take {resident_bytes / 1e6:.0f} MB, and even the smallest regions",
            least_slots * block_bytes(smallest_core),
            batch_bytes,
            budget,
            " or n_lanes",
        )
    lanes_here, block = n_lanes // world, block_bytes(chosen)
    there_is = budget - ring_bytes
    if there_is < ranks * lanes_here * block:
        what, or_else = f"regions of core {chosen}", f"{or_workers} or core"
        if core is None:
            less = f", or set core to less than {chosen}" if chosen > 1 else ""
            or_else = or_workers + less
        raise _does_not_fit(what, ranks * lanes_here * block, ring_bytes, budget, or_else)
    # What is set aside is kept for batches of loaders that share the blocks. A core that is asked
    # for may be so large that this would leave none to decode ahead.
    n_slots = min(there_is, decoded) // (ranks * block)
    least = lanes_here if core is None else lanes_here + DECODED_AHEAD
    n_slots = max(n_slots, min(least, there_is // (ranks * block)))
    return MemoryPlan("regions", chosen, min(n_slots, lanes_here + max(lanes_here, DECODED_AHEAD)))


def choose_core(
    available: int,
    candidates: Sequence[int],
    *,
    chunk_cells: int,
    block_bytes: Callable[[int], int],
    decoded_cells: Callable[[int], float],
) -> int | None:
    """Return the side of cores that decodes the least among those whose blocks fit.

    Parameters
    ----------
    available : int
        Bytes for one block.
    candidates : sequence of int
        Sides to choose from, ascending.
    chunk_cells : int
        Cells along a side of a chunk.
    block_bytes : callable
        Returns the bytes that a block takes, for cores of a side. Where it does not grow with the
        side (the edges of a split can cut cores), a larger side that fits may be missed.
    decoded_cells : callable
        Returns how many cells an epoch decodes, for cores of a side.

    Returns
    -------
    int, optional
        The larger one of equals; None if none fits.

    Notes
    -----
    The larger a core, the smaller its halo beside it: where each region's samples are all taken at
    once, the largest core decodes the least. Where only a few are, a smaller one does.
    """
    fitting = candidates[: bisect_right(candidates, available, key=block_bytes)]
    # Smaller cores decode the same chunks for fewer samples: only where nothing else fits.
    chunks = [core for core in fitting if core >= chunk_cells]
    return min(reversed(chunks or fitting[-1:]), key=decoded_cells, default=None)


def _does_not_fit(
    what: str, decoded: int, batches: int, budget: int, or_else: str
) -> MemoryBudgetError:
    return MemoryBudgetError(
        f"{what} take {decoded / 1e6:.1f} MB of memory and batches {batches / 1e6:.1f} MB, "
        f"memory_budget is {budget / 1e6:.1f} MB; raise memory_budget, lower batch_size{or_else}"
    )


_LEAST_SAMPLES_PER_OPENING = 256


class RegionSizes:
    """Regions of the same samples by the side of their cores.

    Parameters
    ----------
    samples : Samples
        What is to be cut.
    reach : Reach
        What belongs to a sample.
    settings : LoaderSettings
        How samples are ordered.
    n_channels : int
        Input fields.
    chunk_cells : int
        Cells along a side of a chunk.
    """

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

    def partition(self, core: int | None) -> SampleRegions:
        """Return the samples by region; what was asked for last is remembered."""
        if self._latest is None or self._latest[0] != core:
            by_chunk = None if core is None else self._by_chunk
            partition = SampleRegions(
                self._samples, core, chunk_cells=self.chunk_cells, by_chunk=by_chunk
            )
            self._latest = core, partition
        return self._latest[1]

    @cached_property
    def _by_chunk(self) -> list[Boxes | None]:
        return boxes_by_chunk(self._samples, self.chunk_cells)

    def block_bytes(self, core: int) -> int:
        """Return the memory that a region takes at most."""
        return region_bytes(self.partition(core), self._reach, n_channels=self._n_channels)

    def visits(self, core: int | None) -> NDArray[np.int64]:
        """Return how often each region is visited until all of its samples have been taken."""
        settings, partition = self._settings, self.partition(core)
        if not settings.shuffle or partition.core is None:
            return np.ones_like(partition.sizes)
        if settings.samples_per_opening is not None:
            return -(-partition.sizes // settings.samples_per_opening)
        total, n_regions = self._samples.n_samples, partition.n_regions
        wanted = min(settings.samples_per_epoch or total, total)
        at_a_time = max(_LEAST_SAMPLES_PER_OPENING, wanted // n_regions)
        return np.minimum(max(1, total // (n_regions * at_a_time)), partition.sizes)

    def decoded_cells(self, core: int) -> float:
        """Return the cells of each field that an epoch decodes on all ranks, in whole chunks.

        What is to be expected: which regions an epoch visits, and where its lanes begin, is drawn.
        """
        partition, total = self.partition(core), self._samples.n_samples
        start, shape, _, _ = partition.blocks(self._reach)
        mesh = self._samples.mesh_cells[partition.cube][:, None]
        chunks = chunks_touched(start, shape, mesh, self.chunk_cells)
        wanted = min(self._settings.samples_per_epoch or total, total)
        visits = self.visits(core)
        n_visits = int(visits.sum())
        begun = -(-n_visits * wanted // total)
        # A lane that begins in the midst of a visit opens its region once more.
        edges = min(self._settings.lanes, wanted) - 1
        decoded = begun * (chunks * visits).sum() / n_visits
        decoded += edges * (chunks * (partition.sizes - visits)).sum() / total
        return float(decoded) * self.chunk_cells**3

    def core_cells(self, core: int) -> float:
        """Return the cells of the targets of all regions."""
        _, _, _, targets = self.partition(core).blocks(self._reach)
        return float(targets.prod(axis=1).sum())

    def choose(self, available: int, *, or_smaller: bool = False) -> int | None:
        """Return the core to take where a block has so many bytes, None if none fits.

        Parameters
        ----------
        available : int
            Bytes for one block.
        or_smaller : bool
            Whether a smaller core may take the place of one that is asked for and does not fit.
        """
        chosen = self._choose(available, self.candidates)
        asked = self._settings.core
        if chosen is None and asked is not None and or_smaller:
            smaller = [core for core in core_candidates(asked, self.chunk_cells) if core < asked]
            chosen = self._choose(available, smaller)
        return chosen

    def _choose(self, available: int, candidates: list[int]) -> int | None:
        return choose_core(
            available,
            candidates,
            chunk_cells=self.chunk_cells,
            block_bytes=self.block_bytes,
            decoded_cells=self.decoded_cells,
        )
