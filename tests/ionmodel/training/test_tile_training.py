"""Training on tiles: the cells that are learned from, and the same numbers however it goes."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from ionmodel.config.keys import over_preset, read_preset
from ionmodel.config.training_config import make_config
from ionmodel.errors import ConfigError, Interrupted
from ionmodel.networks.base import build_network
from ionmodel.runs.folder import RunFolder
from ionmodel.training.data import open_training_data
from ionmodel.training.training import train_run
from ionstore.store.cube_store import CubeStore
from tests.ionmodel.training.test_training import assert_same_numbers
from tests.support.reporters import telling
from tests.support.tiny_tiles import TINY, tiny


def test_a_tile_trains_as_its_cells_would(store: CubeStore) -> None:
    config = tiny(batch_size=2, symmetries="none")
    network = build_network("residual", radius=1, channels=2, seed=1, width=6)
    for weights in network.parameters():  # an untrained network is blind to most of its layers
        torch.nn.init.normal_(weights, std=0.3, generator=torch.Generator().manual_seed(0))
    with open_training_data(config, [store]) as data:
        batch = next(iter(data.train))
        inputs, target = batch.inputs.double(), batch.target.double()
    network.double()
    torch.nn.functional.mse_loss(network(inputs), target).backward()
    dense = [weights.grad.clone() for weights in network.parameters() if weights.grad is not None]
    network.zero_grad()
    for i, j, k in np.ndindex(4, 4, 4):
        patch = inputs[:, :, i : i + 3, j : j + 3, k : k + 3]
        error = network(patch).flatten() - target[:, i, j, k]
        (error.square().sum() / target.numel()).backward()
    for weights, expected in zip(network.parameters(), dense, strict=True):
        torch.testing.assert_close(weights.grad, expected, rtol=1e-10, atol=1e-12)


def test_a_run_on_tiles_learns_and_resumes_bit_for_bit(store: CubeStore, tmp_path: Path) -> None:
    config = tiny(epochs=3, learning_rate=0.01)
    whole, stopped = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    result = train_run(config, [store], whole)
    losses = [entry["train_loss"] for entry in result.history]
    assert losses[-1] < losses[0]
    asked = itertools.chain([False] * 7, itertools.repeat(True))
    with pytest.raises(Interrupted):
        train_run(config, [store], stopped, reporter=telling(should_stop=lambda: next(asked)))
    train_run(config, [store], stopped)
    assert_same_numbers(stopped, whole)


def test_one_batch_of_tiles_is_overfitted(store: CubeStore) -> None:
    config = tiny(batch_size=2)
    with open_training_data(config, [store]) as data:
        batch = next(iter(data.train))
        inputs, target = batch.inputs.clone(), batch.target.clone()
    network = build_network("residual", radius=1, channels=2, seed=1, width=24)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(400):
        loss = torch.nn.functional.mse_loss(network(inputs), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1 * float(target.var())


def test_random_cells_and_tiles_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="split 'random' draws single cells, got a tile too"):
        tiny(split="random")


def test_the_network_of_2021_trains_on_tiles_where_it_does_not_pad(
    store: CubeStore, tmp_path: Path
) -> None:
    options = {"padding": False, "channels": [4], "kernel": 3, "head_widths": [4]}
    keys = {**TINY, **options, "network": "two_branch", "radius": 2, "feature_dropout": 0.0}
    del keys["width"]
    config = make_config(over_preset(read_preset("dense"), {**keys, "learning_rate": 0.02}))
    result = train_run(config, [store], RunFolder(tmp_path / "run"))
    losses = [entry["train_loss"] for entry in result.history]
    assert losses[-1] < losses[0]
    with pytest.raises(ConfigError, match="recompute is for neighborhoods, got a tile too"):
        make_config({**config.model_dump(), "recompute": True})
