"""How a memory budget is spent: whole cubes if they fit, regions as large as it allows if not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ionstore.errors import MemoryBudgetError

SLOTS_PER_LANE = 2
"""Blocks that a lane has memory for: the one that is cut from, and the next."""

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
    """

    mode: Literal["resident", "regions"]
    core: int | None


def plan_memory(
    budget: int,
    *,
    resident_bytes: int,
    region_bytes: Callable[[int], int],
    candidates: list[int],
    core: int | None,
    n_lanes: int,
    batch_bytes: int,
    ring_bytes: int,
    ranks: int = 1,
) -> MemoryPlan:
    """Return how to spend a budget of memory.

    The order of samples must depend neither on workers nor on ranks. So the core that is chosen
    depends on the budget as a whole: eight batches are set aside, or half of the budget where
    they would take more, and the rest is for decoded data.

    Parameters
    ----------
    budget : int
        Bytes for decoded data and batches, over all processes of this machine.
    resident_bytes : int
        Bytes of all cubes, decoded whole.
    region_bytes : callable
        Returns the bytes of one region's block at most, for cores of a side.
    candidates : list of int
        Sides to choose from, ascending.
    core : int, optional
        Side that is asked for.
    n_lanes : int
        Lanes, over all ranks.
    batch_bytes, ring_bytes : int
        Bytes of one batch, and of all that are prepared at a time, over all ranks.
    ranks : int
        Ranks on this machine; each decodes for itself.

    Raises
    ------
    MemoryBudgetError
        If the budget is too small.
    """
    if ring_bytes >= budget:
        raise MemoryBudgetError(
            f"the batches prepared ahead take {ring_bytes / 1e6:.0f} MB of memory, memory_budget "
            f"leaves {budget / 1e6:.0f} MB for them; raise memory_budget, or lower batch_size or "
            "num_workers"
        )
    all_resident = ranks * resident_bytes + ring_bytes

    def regions(side: int) -> int:
        return SLOTS_PER_LANE * n_lanes * region_bytes(side)

    if core is not None:
        if all_resident <= budget:
            return MemoryPlan("resident", core)
        if regions(core) + ring_bytes > budget:
            raise _does_not_fit(
                f"regions of core {core}", regions(core), ring_bytes, budget, or_else=" or core"
            )
        return MemoryPlan("regions", core)
    decoded = max(budget // 2, budget - _RESERVED_BATCHES * batch_bytes)
    if resident_bytes <= decoded:
        if all_resident > budget:
            what = "all fields" if ranks == 1 else f"all fields, once for each of {ranks} ranks,"
            raise _does_not_fit(
                what, ranks * resident_bytes, ring_bytes, budget, or_else=" or set core"
            )
        return MemoryPlan("resident", None)
    chosen = largest_core(decoded, regions, candidates)
    if chosen is None:
        raise _does_not_fit(
            f"all fields take {resident_bytes / 1e6:.0f} MB, and even the smallest regions",
            regions(candidates[0]),
            batch_bytes,
            budget,
        )
    if regions(chosen) + ring_bytes > budget:
        raise _does_not_fit(
            "regions", regions(chosen), ring_bytes, budget, or_else=", or num_workers"
        )
    return MemoryPlan("regions", chosen)


def largest_core(available: int, needed: Callable[[int], int], candidates: list[int]) -> int | None:
    """Return a largest side of cores whose regions fit, None if none does, by halving.

    Parameters
    ----------
    available : int
        Bytes for the blocks of all open regions.
    needed : callable
        Returns the bytes that they take, for cores of a side. Where it does not grow with the
        side (the edges of a split can cut cores), a larger side that fits may be missed.
    candidates : list of int
        Sides to choose from, ascending.
    """
    low, high = 0, len(candidates)
    while low < high:  # the first candidate that does not fit
        middle = (low + high) // 2
        if needed(candidates[middle]) <= available:
            low = middle + 1
        else:
            high = middle
    return candidates[low - 1] if low else None


def _does_not_fit(
    what: str, decoded: int, batches: int, budget: int, *, or_else: str = ""
) -> MemoryBudgetError:
    return MemoryBudgetError(
        f"{what} take {decoded / 1e6:.1f} MB of memory and batches {batches / 1e6:.1f} MB, "
        f"memory_budget is {budget / 1e6:.1f} MB; raise memory_budget, lower batch_size{or_else}"
    )
