"""Runs that take a second."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from ionmodel.config.keys import over_preset, read_preset
from ionmodel.config.training_config import TrainingConfig, make_config
from ionmodel.runs.folder import RunFolder
from ionmodel.training.training import train_run
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Layout
from tests.support.figures import drawn_figures, rendered_figures  # noqa: F401 - fixtures
from tests.support.predicted_runs import FAMILIES, REDSHIFTS
from tests.support.stores import cubes_at, write_store

ConfigMaker = Callable[..., TrainingConfig]

TINY = {
    "radius": 1,
    "channels": [8],
    "head_widths": [8],
    "head_dropout_widths": [8],
    "head_dropout": 0.2,
    "batch_size": 32,
    "samples_per_epoch": 160,
    "validation_samples": 200,
    "epochs": 2,
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads, which wait long for each other on a busy machine."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def tiny_config() -> ConfigMaker:
    """Make the configuration of a tiny run, with some keys changed."""

    def make(**changes: Any) -> TrainingConfig:
        return make_config({**read_preset("small"), **TINY, **changes})

    return make


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> CubeStore:
    """A 16³ store with two redshifts."""
    redshifts = (9.0, 7.5)
    path = tmp_path_factory.mktemp("stores") / "cubes.zarr"
    return write_store(path, cubes_at(16, redshifts, seed=3), redshifts)


@pytest.fixture(scope="session")
def odd_store(tmp_path_factory: pytest.TempPathFactory) -> CubeStore:
    """A store whose mesh is no multiple of chunks, shards or tiles."""
    path = tmp_path_factory.mktemp("odd") / "cubes.zarr"
    cubes = cubes_at(19, REDSHIFTS, seed=5)
    return write_store(path, cubes, REDSHIFTS, layout=Layout(19, 4, 12))


@pytest.fixture(scope="session")
def runs(
    odd_store: CubeStore, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], RunFolder]:
    """A short run of a family."""
    folder = tmp_path_factory.mktemp("runs")

    def run(family: str) -> RunFolder:
        made = RunFolder(folder / family)
        if not made.best.exists():
            keys = {"epochs": 1, "device": "cpu", "scales": "none", "samples_per_epoch": 64}
            config = make_config(over_preset(read_preset("dense"), {**keys, **FAMILIES[family]}))
            train_run(config, [odd_store], made)
        return made

    return run
