"""How a budget is spent: whole cubes, or the largest regions that fit; never more than it holds."""

import pytest

from ionstore.errors import MemoryBudgetError
from ionstore.memory_plan import SLOTS_PER_LANE, MemoryPlan, largest_core, plan_memory

CANDIDATES = [1, 2, 4, 8, 16]
LANES = 4


def cube_of(core: int) -> int:
    return core**3


def plan(budget: int, **changes: object) -> MemoryPlan:
    arguments: dict[str, object] = {
        "resident_bytes": 100_000,
        "region_bytes": cube_of,
        "candidates": CANDIDATES,
        "core": None,
        "n_lanes": LANES,
        "batch_bytes": 100,
        "ring_bytes": 400,
        **changes,
    }
    return plan_memory(budget, **arguments)  # type: ignore[arg-type]


def test_what_fits_is_resident_and_in_random_order() -> None:
    assert plan(100_800) == MemoryPlan("resident", None)


@pytest.mark.parametrize("core", [1, 2, 4, 8, 16])
def test_the_largest_core_that_fits_is_taken(core: int) -> None:
    needed = SLOTS_PER_LANE * LANES * core**3 + 800
    enough = max(needed, 1600)  # at least half is for decoded data
    assert plan(enough) == MemoryPlan("regions", max(core, 4))
    if core > 4:
        assert plan(needed - 1) == MemoryPlan("regions", core // 2)


def test_the_choice_depends_on_the_budget_alone() -> None:
    ways = [{"ring_bytes": n * 100} for n in (1, 4, 8)] + [{"ranks": n} for n in (1, 2, 4)]
    assert {plan(20_000, **way) for way in ways} == {MemoryPlan("regions", 8)}


def test_a_core_that_is_asked_for_is_kept_in_any_mode() -> None:
    assert plan(100_800, core=2) == MemoryPlan("resident", 2)
    assert plan(100_399, core=2) == MemoryPlan("regions", 2)
    assert plan(464, core=2) == MemoryPlan("regions", 2)
    with pytest.raises(MemoryBudgetError, match=r"regions of core 2 take .* raise memory_budget"):
        plan(463, core=2)


def test_ranks_need_their_own_copies() -> None:
    assert plan(200_400, core=2, ranks=2) == MemoryPlan("resident", 2)
    assert plan(200_399, core=2, ranks=2) == MemoryPlan("regions", 2)
    with pytest.raises(MemoryBudgetError, match=r"once for each of 2 ranks.* or set core"):
        plan(150_000, ranks=2)


@pytest.mark.parametrize(
    ("budget", "change", "message"),
    [
        (400, {}, "batches prepared ahead .* or num_workers"),
        (1000, {"candidates": [8]}, "even the smallest regions take"),
        (1000, {"ring_bytes": 950}, "regions take .* or num_workers"),
    ],
)
def test_too_small_a_budget_is_refused(
    budget: int, change: dict[str, object], message: str
) -> None:
    with pytest.raises(MemoryBudgetError, match=message):
        plan(budget, **change)


@pytest.mark.parametrize("available", range(20))
def test_largest_core_is_the_last_that_fits(available: int) -> None:
    fitting = [core for core in CANDIDATES if core <= available]
    assert largest_core(available, lambda core: core, CANDIDATES) == (
        fitting[-1] if fitting else None
    )
