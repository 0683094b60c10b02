"""Training on tiles: the cells that are learned from, and the same numbers however it goes."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ionmodel.config import TrainingConfig, make_config
from ionmodel.config_keys import over_preset, read_preset
from ionmodel.datasets import open_training_data
from ionmodel.errors import ConfigError, Interrupted
from ionmodel.networks.base import build_network
from ionmodel.run_folder import RunFolder
from ionmodel.splits import fit_to_mesh
from ionmodel.trained_range import trained_range
from ionmodel.training import train
from ionstore.loading import TileLoader
from ionstore.normalize import fit_normalization
from ionstore.store import CubeStore
from tests.conftest import cubes_at, write_store
from tests.ionmodel.test_training import assert_same_numbers

TINY: dict[str, Any] = {
    "network": "residual",
    "radius": 1,
    "tile": 4,
    "scales": "none",
    "samples_per_epoch": "none",
    "validation_samples": "none",
    "width": 6,
    "batch_size": 4,
    "epochs": 2,
    "device": "cpu",
}


def tiny(**changes: Any) -> TrainingConfig:
    return make_config(over_preset(read_preset("dense"), {**TINY, **changes}))


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


@pytest.mark.parametrize(("mesh", "radius", "tile"), [(16, 1, 4), (17, 1, 5), (20, 2, 3)])
def test_no_validation_or_test_input_is_a_training_input(
    tmp_path: Path, mesh: int, radius: int, tile: int
) -> None:
    store = write_store(tmp_path / "cubes.zarr", cubes_at(mesh, (9.0,), seed=3), (9.0,))
    config = fit_to_mesh(tiny(radius=radius, tile=tile, samples_per_epoch=4000), [store])
    seen = {name: np.zeros((mesh,) * 3, bool) for name in ("train", "validation", "test")}

    def mark(name: str, start: tuple[int, ...], side: int) -> None:
        cells = [np.arange(first - radius, first + side + radius) % mesh for first in start]
        seen[name][np.ix_(*cells)] = True

    with open_training_data(config, [store]) as data:
        for name, loader in (("train", data.train), ("validation", data.validation)):
            assert isinstance(loader, TileLoader)
            for batch in loader:
                for start in batch.starts.tolist():
                    mark(name, start, batch.target.shape[-1])
        (split,) = data.splits
        assert split.test is not None
        for cell in split.test.cells(np.arange(split.test.n_cells)).tolist():
            mark("test", cell, 1)
    assert seen["train"].mean() > 0.3
    assert seen["validation"].any()
    assert seen["test"].any()
    assert not (seen["train"] & (seen["validation"] | seen["test"])).any()


def test_validation_tiles_hold_no_cell_twice(store: CubeStore) -> None:
    with open_training_data(tiny(tile=3), [store]) as data:
        seen = [
            (float(redshift), *(np.array(start) + offset))
            for batch in data.validation
            for redshift, start in zip(batch.redshift, batch.starts.tolist(), strict=True)
            for offset in np.ndindex(*batch.target.shape[1:])
        ]
        assert len(seen) == len(set(seen)) == data.n_validation_cells
    with open_training_data(tiny(tile=3, validation_samples=4), [store]) as data:
        assert data.validation.n_samples == 4


def test_an_epoch_holds_as_many_cells_as_there_are_unless_told(store: CubeStore) -> None:
    with open_training_data(tiny(), [store]) as data:
        cells = 2 * data.splits[0].train.n_cells  # type: ignore[union-attr]
        assert abs(data.n_training_cells - cells) < 4 * 4**3
        starts = {tuple(start) for batch in data.train for start in batch.starts.tolist()}
        again = {tuple(start) for batch in data.train for start in batch.starts.tolist()}
    assert starts != again  # other tiles in the next epoch
    with open_training_data(tiny(samples_per_epoch=24), [store]) as data:
        assert data.train.n_samples == 24
        assert data.n_training_cells == 24 * 4**3


def test_a_run_on_tiles_learns_and_resumes_bit_for_bit(store: CubeStore, tmp_path: Path) -> None:
    config = tiny(epochs=3, learning_rate=0.01)
    whole, stopped = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "stopped")
    result = train(config, [store], whole)
    losses = [entry["train_loss"] for entry in result.history]
    assert losses[-1] < losses[0]
    asked = itertools.chain([False] * 7, itertools.repeat(True))
    with pytest.raises(Interrupted):
        train(config, [store], stopped, should_stop=lambda: next(asked))
    train(config, [store], stopped)
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


def test_tiles_and_radius_are_lowered_to_what_the_mesh_holds(tmp_path: Path) -> None:
    store = write_store(tmp_path / "cubes.zarr", cubes_at(12, (9.0,), seed=3), (9.0,))
    fitted = fit_to_mesh(tiny(radius=9, tile=50), [store])
    with open_training_data(fitted, [store]) as data:
        assert fitted.radius == 1
        assert fitted.tile == min(data.splits[0].train.shape)  # type: ignore[union-attr]


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
    result = train(config, [store], RunFolder(tmp_path / "run"))
    losses = [entry["train_loss"] for entry in result.history]
    assert losses[-1] < losses[0]
    with pytest.raises(ConfigError, match="recompute is for neighborhoods, got a tile too"):
        make_config({**config.model_dump(), "recompute": True})


@pytest.mark.parametrize("tile", [None, 4])
def test_split_store_trains_on_all_but_the_last_box(tmp_path: Path, tile: int | None) -> None:
    boxes = [
        write_store(tmp_path / f"{name}.zarr", cubes_at(mesh, (9.0,), seed=mesh), (9.0,))
        for name, mesh in (("one", 9), ("other", 8), ("held", 10))
    ]
    config = fit_to_mesh(tiny(split="store", tile=tile, validation_samples=30), boxes)
    with open_training_data(config, boxes) as data:
        trained = [set(batch.store_index.tolist()) for batch in data.train]
        validated = [set(batch.store_index.tolist()) for batch in data.validation]
        assert set.union(*trained) == {0, 1}
        assert set.union(*validated) == {2}
        assert data.n_validation_cells == (30 if tile is None else 8 * 4**3)
        alone = fit_normalization(
            boxes[:2], config.inputs, [split.train for split in data.splits[:2]]
        )
        assert data.normalization == alone
        assert data.trained == trained_range(config, boxes[:2])
        # A box that is not trained on has the overdensities of its own mean.
        batch = next(iter(data.validation))
        cell, radius = batch.starts[0] if tile else batch.centers[0], config.radius
        around = np.ix_(*((int(first) + np.arange(-radius, radius + 1)) % 10 for first in cell))
        field = boxes[2].read_field("n_igm", 9.0)
        expected = alone.fields["n_igm"].apply(field, float(field.mean(dtype=np.float64)))[around]
        width = 2 * radius + 1
        got = batch.inputs[0, 0, :width, :width, :width]
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_split_store_needs_another_box(store: CubeStore, tmp_path: Path) -> None:
    small = write_store(tmp_path / "small.zarr", cubes_at(8, (9.0,), seed=1), (9.0,))
    with pytest.raises(ConfigError, match=r"got one store; give --store once more"):
        open_training_data(tiny(split="store"), [store])
    with pytest.raises(ConfigError, match="which is trained on too; give another box"):
        open_training_data(tiny(split="store"), [store, store])
    with pytest.raises(ConfigError, match=r"small\.zarr: radius 4 needs 9 cells a side"):
        open_training_data(tiny(split="store", radius=4), [store, small])
