"""Averages over balls that a prediction needs: those of the run, or made for the while."""

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ionmodel.errors import ConfigError
from ionmodel.prediction.predictor import load
from ionmodel.prediction.store import predict_store
from ionmodel.runs.compatibility import check_store
from ionmodel.runs.folder import RunFolder
from ionstore.errors import MemoryBudgetError, StoreExistsError
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Layout
from tests.support.predicted_runs import REDSHIFTS, Told, lively
from tests.support.stores import cubes_at, write_store


def copied(store: CubeStore, path: Path) -> CubeStore:
    """Copy a store as another one: its averages are not those of a run."""
    shutil.copytree(store.path, path)
    root = path / "zarr.json"
    root.write_text(root.read_text().replace(store.uuid, str(uuid.uuid4())))
    return CubeStore.open(path)


@pytest.mark.parametrize("family", ["residual", "multiscale"])
def test_nothing_but_what_was_made_here_is_removed(
    family: str, runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    same = copied(odd_store, tmp_path / "same.zarr")
    mine = tmp_path / "predicted.zarr.channels" / "mine"
    mine.mkdir(parents=True)
    predictor = load(runs(family), device="cpu")
    predict_store(predictor, same, tmp_path / "predicted.zarr")
    assert list(mine.parent.iterdir()) == [mine]


def test_averages_of_another_store_lie_beside_the_prediction_until_it_is_done(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    predictor = lively(load(runs("multiscale"), device="cpu"))
    told = Told()
    predict_store(predictor, odd_store, tmp_path / "own.zarr", reporter=told)
    assert told.notes == []  # the run has them
    assert told.stages == ["Predicting"]
    same = copied(odd_store, tmp_path / "same.zarr")
    target = tmp_path / "predicted.zarr"

    def stop(done: int, total: int) -> None:
        if done > total // 3:
            assert (tmp_path / "predicted.zarr.channels").is_dir()
            raise KeyboardInterrupt

    told = Told(on_progress=stop)
    with pytest.raises(KeyboardInterrupt):
        predict_store(predictor, same, target, reporter=told)
    assert told.stages == ["Derived channels", "Predicting"]
    assert told.channels_done == [(done, 2 * 5) for done in range(11)]
    (note,) = told.notes
    assert "5 derived channels, means within balls, are computed" in note
    predict_store(predictor, same, target)
    assert not (tmp_path / "predicted.zarr.channels").exists()
    for redshift in REDSHIFTS:
        one, other = (
            CubeStore.open(place).read_field("xhii_predicted", redshift)
            for place in (target, tmp_path / "own.zarr")
        )
        np.testing.assert_array_equal(one, other)
    alone = tmp_path / "alone.zarr"
    predict_store(predictor, same, alone, redshifts=[7.5])
    np.testing.assert_array_equal(
        CubeStore.open(alone).read_field("xhii_predicted", 7.5),
        CubeStore.open(target).read_field("xhii_predicted", 7.5),
    )


def test_averages_go_on_being_counted_where_they_were_stopped(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    predictor = load(runs("multiscale"), device="cpu")
    same = copied(odd_store, tmp_path / "same.zarr")
    target = tmp_path / "predicted.zarr"

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_store(predictor, same, target, reporter=Told(on_channels=stop))
    told = Told()
    predict_store(predictor, same, target, reporter=told)
    assert told.channels_done == [(done, 2 * 5) for done in range(7, 11)]


def test_only_averages_that_are_computed_take_memory(
    runs: Callable[[str], RunFolder],
    odd_store: CubeStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    smoothing = 10**8
    monkeypatch.setattr("ionmodel.prediction.plan.smoothing_bytes", lambda mesh: smoothing)
    predictor = load(runs("multiscale"), device="cpu")
    same = copied(odd_store, tmp_path / "same.zarr")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    told = Told(on_progress=stop)
    for store, target in ((odd_store, "own.zarr"), (same, "one.zarr"), (same, "one.zarr")):
        with pytest.raises(KeyboardInterrupt):
            predict_store(predictor, store, tmp_path / target, reporter=told)
    of_run, first, again = (plan.memory_bytes for plan in told.plans)
    assert first == smoothing
    assert of_run == again < smoothing  # what was stopped has left its averages


@pytest.mark.parametrize("last", ["multiscale", "residual"])
def test_averages_of_predictions_that_were_stopped_and_replaced_are_removed(
    last: str, runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    predictor = load(runs("multiscale"), device="cpu")
    target, folder = tmp_path / "predicted.zarr", tmp_path / "predicted.zarr.channels"

    def stop(done: int, total: int) -> None:
        if done > total // 3:
            raise KeyboardInterrupt

    for number, redshifts in enumerate(([9.0], [9.0, 7.5])):
        same = copied(odd_store, tmp_path / f"{number}.zarr")
        stopped = Told(on_progress=stop) if number else Told(on_channels=stop)
        with pytest.raises(KeyboardInterrupt):
            predict_store(predictor, same, target, redshifts=redshifts, reporter=stopped)
    assert sorted(path.suffix for path in folder.iterdir()) == [".partial", ".zarr"]
    mine = folder / "mine-01234567.zarr"
    mine.mkdir()
    told = Told()
    predictor = load(runs(last), device="cpu")
    with pytest.raises(StoreExistsError, match="an unfinished prediction is there"):
        predict_store(predictor, same, target, redshifts=[7.5], reporter=told)
    assert not told.channels_done
    predict_store(predictor, same, target, redshifts=[7.5], overwrite=True)
    assert list(folder.iterdir()) == [mine]


def test_averages_need_a_box_of_known_length_as_in_training(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    predictor = load(runs("wide"), device="cpu")
    cubes = cubes_at(19, (7.5,), seed=5)
    unknown = write_store(tmp_path / "unknown.zarr", cubes, (7.5,), box_length_cmpc=None)
    with pytest.raises(ConfigError, match="in cMpc, but the length of this box is unknown; supply"):
        predict_store(predictor, unknown, tmp_path / "predicted.zarr")
    small = write_store(tmp_path / "small.zarr", cubes, (7.5,), box_length_cmpc=11.0)
    with pytest.raises(
        ConfigError,
        match=r"small\.zarr: the network .* needs boxes of at least 12 cMpc, got 11 cMpc",
    ):
        predict_store(predictor, small, tmp_path / "predicted.zarr")
    in_cells = {**(predictor.trained or {}), "cell_sizes_cmpc": [0.0]}
    with pytest.raises(ConfigError, match="in cells, on boxes of unknown length"):
        check_store(predictor.config, in_cells, odd_store, [7.5])
    assert not (tmp_path / "predicted.zarr").exists()
    fits = write_store(tmp_path / "fits.zarr", cubes, (7.5,), layout=Layout(19, 4, 4))
    pointwise = load(runs("multiscale"), device="cpu")
    with pytest.raises(MemoryBudgetError, match="smoothing a box of 19 cells"):
        predict_store(pointwise, fits, tmp_path / "predicted.zarr", memory_bytes=130_000)
