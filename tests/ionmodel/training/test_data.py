"""Samples of an epoch: how many, and which."""

import numpy as np
import pytest
import torch

from ionmodel.errors import ConfigError
from ionmodel.networks.base import build_network
from ionmodel.training.data import open_training_data
from ionmodel.training.evaluation import predict_cells
from ionstore.cube.mesh import Region
from ionstore.store.cube_store import CubeStore
from tests.ionmodel.conftest import ConfigMaker
from tests.support.tiny_tiles import tiny


def test_every_validation_cell_is_scored_once(store: CubeStore) -> None:
    """Tiles do not divide the region: the last ones overlap those before."""
    config = tiny(tile=3, validation_samples=None)
    network = build_network("residual", radius=1, channels=2, seed=1, width=3)
    with open_training_data(config, [store]) as data:
        region = data.splits[0].validation
        assert isinstance(region, Region)
        assert any(length % 3 for length in region.shape)
        found = predict_cells(network, data.validation, torch.device("cpu"), regions=[region])
        assert len(found.target) == data.n_validation_cells == 2 * region.n_cells
        whole = [store.read_block("xhii", z, region.start, region.shape) for z in store.redshifts]
        np.testing.assert_array_equal(np.sort(found.target), np.sort(np.concatenate(whole, None)))
        with pytest.raises(ValueError, match="regions must be given for a loader of tiles"):
            predict_cells(network, data.validation, torch.device("cpu"))
    with open_training_data(tiny(tile=3, validation_samples=4), [store]) as data:
        assert data.validation.n_samples == 4
        some = predict_cells(network, data.validation, torch.device("cpu"), regions=[region])
        assert len(some.target) == data.n_validation_cells <= 4 * 3**3


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


@pytest.mark.parametrize("samples", [2, 31, 100, 161])
def test_fewer_samples_than_a_batch_are_one_smaller_batch(
    store: CubeStore, tiny_config: ConfigMaker, samples: int
) -> None:
    with open_training_data(tiny_config(samples_per_epoch=samples), [store]) as data:
        sizes = [len(batch) for batch in data.train]
    assert set(sizes) == {min(32, samples)}
    assert sum(sizes) == samples // min(32, samples) * min(32, samples)


def test_one_training_sample_is_too_few(store: CubeStore, tiny_config: ConfigMaker) -> None:
    with pytest.raises(ConfigError, match="at least 2 training samples"):
        open_training_data(tiny_config(samples_per_epoch=1), [store])
