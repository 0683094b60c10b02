"""The estimated time of a run; no test depends on how fast a machine is."""

import pickle
import random

import numpy as np
import pytest
import torch

from ionmodel.config.training_config import TrainingConfig
from ionmodel.networks.base import PatchNetwork, build_network
from ionmodel.training.timing import estimate_seconds
from tests.ionmodel.conftest import ConfigMaker

MANY = 10**12


def network_of(config: TrainingConfig) -> PatchNetwork:
    return build_network(
        config.network, radius=config.radius, channels=2, seed=0, **config.network_options()
    )


def random_states() -> tuple[bytes, bytes, object]:
    of_numpy = pickle.dumps(np.random.get_state())  # noqa: NPY002
    return torch.get_rng_state().numpy().tobytes(), of_numpy, random.getstate()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_left_unchanged(
    tiny_config: ConfigMaker, recompute: bool, training: bool
) -> None:
    config = tiny_config(recompute=recompute)
    network = network_of(config).train(training)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert any("running_mean" in name for name in before)  # a step would change it
    estimate_seconds(network, config, n_training_cells=10, n_validation_cells=10)
    after = network.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    assert all(weights.grad is None for weights in network.parameters())
    assert all(module.training is training for module in network.modules())


@pytest.mark.parametrize("recompute", [False, True])
def test_random_states_are_left_unchanged(tiny_config: ConfigMaker, recompute: bool) -> None:
    config = tiny_config(recompute=recompute)
    assert config.head_dropout > 0  # draws random numbers
    network = network_of(config)
    before = random_states()
    estimate_seconds(network, config, n_training_cells=10, n_validation_cells=10)
    assert random_states() == before


def test_accelerators_that_are_not_used_are_not_seeded(
    tiny_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    torch.cuda.manual_seed_all(1)
    assert seeds == [1]
    config = tiny_config()
    estimate_seconds(network_of(config), config, n_training_cells=10, n_validation_cells=10)
    assert seeds == [1]


def test_nothing_left_takes_no_time(tiny_config: ConfigMaker) -> None:
    config = tiny_config()
    seconds = estimate_seconds(network_of(config), config, n_training_cells=0, n_validation_cells=0)
    assert seconds == 0


@pytest.mark.parametrize("changes", [{}, {"recompute": True}, {"loss": "mse"}])
def test_training_and_validation_both_take_time(
    tiny_config: ConfigMaker, changes: dict[str, object]
) -> None:
    config = tiny_config(**changes)
    network = network_of(config)

    def seconds(n_training: int, n_validation: int) -> float:
        return estimate_seconds(
            network, config, n_training_cells=n_training, n_validation_cells=n_validation
        )

    assert 0 < seconds(1, 0) < seconds(MANY, 0)
    assert 0 < seconds(0, 1) < seconds(0, MANY)


def test_a_batch_too_costly_to_time_is_timed_in_part(
    tiny_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(batch_size=10**9)  # would take terabytes
    monkeypatch.setattr("ionmodel.training.timing._PROBE_FLOPS", 1)
    sizes: list[int] = []
    network = network_of(config)
    forward = type(network).forward

    def noted(self: PatchNetwork, x: torch.Tensor, *, activate: bool = True) -> torch.Tensor:
        sizes.append(len(x))
        return forward(self, x, activate=activate)

    monkeypatch.setattr(type(network), "forward", noted)
    assert estimate_seconds(network, config, n_training_cells=1, n_validation_cells=0) > 0
    assert sizes == [2]  # batch normalization needs two
