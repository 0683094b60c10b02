"""How a store is predicted within a memory."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from ionmodel.prediction.plan import plan_prediction
from ionmodel.prediction.predictor import Predictor, load
from ionmodel.runs.folder import RunFolder
from ionstore.errors import MemoryBudgetError, NotInStoreError
from ionstore.store.cube_store import CubeStore


def test_memory_decides_the_tile(runs: Callable[[str], RunFolder], odd_store: CubeStore) -> None:
    predictor = load(runs("residual"), device="cpu")
    plan = plan_prediction(predictor, odd_store)
    assert plan.tile == 12  # a shard
    tight = plan_prediction(predictor, odd_store, memory_bytes=plan.memory_bytes - 1)
    assert tight.tile < plan.tile
    assert tight.memory_bytes < plan.memory_bytes
    with pytest.raises(MemoryBudgetError, match=r"takes [0-9.]+ MB at least.*got 1 B; raise"):
        plan_prediction(predictor, odd_store, memory_bytes=1)
    with pytest.raises(NotInStoreError):
        plan_prediction(predictor, odd_store, redshifts=[8.0])


def test_the_busiest_process_decides_how_long_it_takes(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Predictor, "seconds_per_cell", lambda predictor, tile: 1e-3)
    predictor = load(runs("residual"), device="cpu")
    plans = {n: plan_prediction(predictor, odd_store, n_processes=n) for n in (1, 3, 16, 100)}
    assert len(plans[1].parts) == 16  # 2³ shards of two redshifts
    whole = 1e-3 * 2 * 19**3
    expected = {1: whole, 3: whole * 6 / 16, 16: whole / 16, 100: whole / 16}
    assert {n: plan.seconds for n, plan in plans.items()} == pytest.approx(expected)


def test_only_what_is_left_takes_time(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Predictor, "seconds_per_cell", lambda predictor, tile: 1e-3)
    plan = plan_prediction(load(runs("residual"), device="cpu"), odd_store, n_processes=2)
    assert plan.n_cells == plan.n_cells_left == 2 * 19**3
    rest = replace(plan, left=plan.parts[8:])  # the second redshift
    assert (rest.n_cells, rest.n_cells_left) == (2 * 19**3, 19**3)
    assert rest.seconds == pytest.approx(1e-3 * 19**3 / 2)
    assert replace(plan, left=()).seconds == 0
