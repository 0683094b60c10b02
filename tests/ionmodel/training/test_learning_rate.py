"""The learning rate over a run of known length."""

import math
from pathlib import Path

import pytest

from ionmodel.runs.folder import RunFolder, resumed_config
from ionmodel.training.learning_rate import one_cycle
from ionmodel.training.training import train_run
from ionstore.store.cube_store import CubeStore
from tests.ionmodel.conftest import ConfigMaker


def test_one_cycle_raises_the_rate_and_lowers_it_to_nearly_nothing(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    config = tiny_config(scheduler="one_cycle", learning_rate=0.02, epochs=4)  # 5 batches each
    history = train_run(config, [store], RunFolder(tmp_path / "run")).history
    rates = [entry["learning_rate"] for entry in history]
    last_steps = (4, 9, 14, 19)
    expected = [0.02 * (0.001 + 0.999 * (1 + math.cos(math.pi * (step / 20 - 0.1) / 0.9)) / 2)
                for step in last_steps]  # fmt: skip
    assert rates == pytest.approx(expected)
    assert rates[0] > 0.018
    assert rates[-1] < 0.0004


def test_more_epochs_stretch_the_cycle(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    run, short = RunFolder(tmp_path / "run"), tiny_config(scheduler="one_cycle", epochs=2)
    (_, last) = train_run(short, [store], run).history
    assert last["learning_rate"] < 0.1 * short.learning_rate
    longer = resumed_config(run, short, {"epochs": 4})
    history = train_run(longer, [store], run).history  # 5 batches an epoch
    expected = [short.learning_rate * one_cycle(step / 20) for step in (14, 19)]
    assert [entry["learning_rate"] for entry in history[2:]] == pytest.approx(expected)
