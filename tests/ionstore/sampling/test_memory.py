"""A budget is spent on whole cubes, or on regions of a few blocks; never more than it holds."""

import pytest

from ionstore.errors import MemoryBudgetError
from ionstore.sampling.memory import DECODED_AHEAD, MemoryPlan, RegionSizes, plan_memory
from ionstore.sampling.settings import LoaderSettings

CANDIDATES = [1, 2, 4, 8, 16]
LANES = 4
SLOTS = LANES + DECODED_AHEAD


class Sizes(RegionSizes):
    """Regions of known cost: a block takes the cube of its core, and the largest decodes least."""

    candidates = None  # type: ignore[assignment]

    def __init__(self, settings: LoaderSettings, candidates: list[int]) -> None:
        self._settings, self.candidates, self.chunk_cells = settings, candidates, 1

    def block_bytes(self, core: int) -> int:
        return core**3

    def decoded_cells(self, core: int) -> float:
        return -core


def plan(
    budget: int,
    *,
    candidates: list[int] = CANDIDATES,
    ring_bytes: int = 400,
    ranks: int | None = None,
    **options: int,
) -> MemoryPlan:
    settings = LoaderSettings(1, n_lanes=LANES, ranks_here=ranks, **options)
    return plan_memory(
        budget,
        Sizes(settings, candidates),
        settings,
        resident_bytes=100_000,
        batch_bytes=100,
        ring_bytes=ring_bytes,
    )


def test_what_fits_is_resident_and_in_random_order() -> None:
    assert plan(100_800) == MemoryPlan("resident", None)


@pytest.mark.parametrize("core", [8, 16])
def test_a_block_for_every_lane_and_two_more_beside_eight_batches(core: int) -> None:
    needed = SLOTS * core**3 + 800
    assert plan(needed) == MemoryPlan("regions", core, SLOTS)
    assert plan(needed - 1).core == core // 2


def test_more_blocks_are_decoded_ahead_where_they_fit_up_to_one_for_each_lane() -> None:
    assert plan(800 + 7 * 8**3) == MemoryPlan("regions", 8, 7)
    assert plan(800 + 9 * 8**3) == MemoryPlan("regions", 8, 2 * LANES)


def test_batches_of_many_workers_leave_less_to_decode_ahead() -> None:
    budget = SLOTS * 8**3 + 800
    assert plan(budget, ring_bytes=800 + 8**3) == MemoryPlan("regions", 8, SLOTS - 1)
    assert plan(budget, ring_bytes=800 + 2 * 8**3) == MemoryPlan("regions", 8, LANES)
    with pytest.raises(MemoryBudgetError, match="or num_workers, or set core to less than 8"):
        plan(budget, ring_bytes=801 + 2 * 8**3, num_workers=2)


def test_the_order_depends_on_the_budget_alone() -> None:
    ways = [{"ring_bytes": n * 100} for n in (1, 4, 8)]
    ways += [{"ranks": n, "world": n} for n in (1, 2, 4)]
    assert {plan(20_000, **way).core for way in ways} == {8}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_the_budget_and_have_a_block_for_each_of_their_lanes(world: int) -> None:
    budget = SLOTS * 8**3 + 800
    n_slots = plan(budget, ranks=world, world=world).n_slots
    assert LANES // world <= n_slots
    assert world * n_slots * 8**3 + 400 <= budget


def test_a_core_that_is_asked_for_is_kept_in_any_mode() -> None:
    assert plan(100_800, core=2) == MemoryPlan("resident", 2)
    assert plan(100_399, core=2) == MemoryPlan("regions", 2, 2 * LANES)
    assert plan(400 + SLOTS * 8, core=2) == MemoryPlan("regions", 2, SLOTS)
    assert plan(800 + 7 * 8**3, core=8) == MemoryPlan("regions", 8, 7)
    assert plan(799 + 7 * 8**3, core=8) == MemoryPlan("regions", 8, SLOTS)
    assert plan(400 + LANES * 8, core=2) == MemoryPlan("regions", 2, LANES)
    with pytest.raises(MemoryBudgetError, match=r"regions of core 2 take .* raise memory_budget"):
        plan(400 + LANES * 8 - 1, core=2)


def test_ranks_need_their_own_copies() -> None:
    assert plan(200_400, core=2, ranks=2, world=2) == MemoryPlan("resident", 2)
    assert plan(200_399, core=2, ranks=2, world=2).mode == "regions"
    with pytest.raises(MemoryBudgetError, match=r"once for each of 2 ranks.* or set core"):
        plan(150_000, ranks=2, world=2)


@pytest.mark.parametrize(
    ("budget", "change", "message"),
    [
        (400, {"num_workers": 1}, "batches prepared ahead .* lower batch_size or num_workers$"),
        (400, {}, "batches prepared ahead .* lower batch_size$"),
        (1000, {"candidates": [8]}, "even the smallest regions take .* or n_lanes$"),
        (1000, {"ring_bytes": 950}, "regions of core 4 take .* lower batch_size, or set core to"),
        (400, {"core": 1}, "batches prepared ahead .* lower batch_size$"),
        (1000, {"core": 16}, "regions of core 16 take .* lower batch_size or core$"),
        (1000, {"core": 16, "num_workers": 1}, "lower batch_size or num_workers or core$"),
    ],
)
def test_too_small_a_budget_is_refused(
    budget: int, change: dict[str, object], message: str
) -> None:
    with pytest.raises(MemoryBudgetError, match=message):
        plan(budget, **change)


@pytest.mark.parametrize("available", range(40))
@pytest.mark.parametrize("chunk_cells", [1, 4, 32])
@pytest.mark.parametrize("growth", [-1, 0, 1])
def test_the_core_that_decodes_least_of_those_that_fit(
    available: int, chunk_cells: int, growth: int
) -> None:
    fitting = [core for core in CANDIDATES if core <= available]
    chunks = [core for core in fitting if core >= chunk_cells] or fitting[-1:]

    class Growing(Sizes):
        def block_bytes(self, core: int) -> int:
            return core

        def decoded_cells(self, core: int) -> float:
            return float(core) ** growth

    sizes = Growing(LoaderSettings(1), CANDIDATES)
    sizes.chunk_cells = chunk_cells
    chosen = sizes.choose(available)
    if not fitting:
        assert chosen is None
    else:
        assert chosen == (chunks[0] if growth > 0 else chunks[-1])
