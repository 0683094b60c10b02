"""A run that takes a second."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from ionmodel.config import TrainingConfig, make_config
from ionmodel.config_keys import read_preset
from ionstore.store import CubeStore
from tests.conftest import cubes_at, write_store

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
