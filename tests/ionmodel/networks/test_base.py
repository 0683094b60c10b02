"""The contract, building by name, and cost."""

import importlib
import itertools
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ionmodel.networks import NETWORKS
from ionmodel.networks.base import PatchNetwork, build_network, flops_per_sample
from ionmodel.networks.two_branch import TwoBranch

SMALL: dict[str, Any] = {"radius": 4, "channels": 2, "block_channels": (3, 4), "kernel": 3}


class Central(PatchNetwork):
    """The central cell of the first field."""

    has_dense_form = True

    def _logits(self, x: Tensor) -> Tensor:
        middle = self.receptive_field // 2
        return x[:, 0, middle, middle, middle]


def test_every_name_leads_to_a_family() -> None:
    for path in NETWORKS.values():
        module, _, attribute = path.partition(":")
        assert issubclass(getattr(importlib.import_module(module), attribute), PatchNetwork)


@pytest.mark.process
def test_the_table_imports_no_torch() -> None:
    code = "import sys, ionmodel.networks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_seed_alone_decides_the_weights() -> None:
    first = build_network("two_branch", seed=5, **SMALL)
    torch.rand(3)
    again = build_network("two_branch", seed=5, **SMALL)
    other = build_network("two_branch", seed=6, **SMALL)
    assert isinstance(first, TwoBranch)
    weights = [
        network.state_dict()["branches.0.0.conv.weight"] for network in (first, again, other)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_recompute_changes_no_initial_weight() -> None:
    stock = build_network("two_branch", seed=5, **SMALL).state_dict()
    recomputed = build_network("two_branch", seed=5, recompute=True, **SMALL).state_dict()
    assert all(torch.equal(stock[name], recomputed[name]) for name in stock)


def test_building_leaves_global_random_state() -> None:
    before = torch.get_rng_state()
    build_network("two_branch", seed=5, **SMALL)
    assert torch.equal(torch.get_rng_state(), before)


def test_unknown_name_is_refused() -> None:
    with pytest.raises(
        ValueError, match="name must be one of pointwise, residual, two_branch, got 'unknown'"
    ):
        build_network("unknown", radius=4, channels=2, seed=0)


def test_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="depth"):
        build_network("two_branch", depth=3, seed=0, **SMALL)


def test_contract_is_checked() -> None:
    with pytest.raises(ValueError, match="receptive_field must be odd and positive, got 4"):
        Central(receptive_field=4, channels=1, final_activation=True)
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        Central(receptive_field=3, channels=0, final_activation=True)
    with pytest.raises(TypeError, match="abstract"):
        PatchNetwork(receptive_field=3, channels=1, final_activation=True)  # type: ignore[abstract]


@pytest.mark.parametrize(
    "shape", [(5, 2, 9, 9, 7), (5, 1, 9, 9, 9), (2, 9, 9, 9), (5, 2, 11, 11, 11)]
)
def test_input_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    network = build_network("two_branch", seed=0, **SMALL)
    for call in (network, network.logits):
        with pytest.raises(ValueError, match=r"must have shape \(batch, 2, 9, 9, 9\), got"):
            call(torch.zeros(shape))


def test_final_activation_is_the_sigmoid() -> None:
    x = torch.randn(4, 1, 3, 3, 3)
    network = Central(receptive_field=3, channels=1, final_activation=True)
    torch.testing.assert_close(network(x), torch.sigmoid(x[:, 0, 1, 1, 1]))
    torch.testing.assert_close(network.logits(x), x[:, 0, 1, 1, 1])


@pytest.mark.parametrize("recompute", [True, False])
def test_flops_equal_a_count_by_hand(recompute: bool) -> None:
    network = build_network("two_branch", seed=0, recompute=recompute, **SMALL)
    convolutions = 2 * (2 * 27 * 3 * 9**3 + 2 * 27 * 3 * 4 * 4**3)
    widths = [2 * 4 * 2**3, 256, 128, 64, 32, 16, 8, 4, 1]
    linear = sum(2 * a * b for a, b in itertools.pairwise(widths))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert flops_per_sample(network) == convolutions + linear
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_flops_of_the_system_of_2021() -> None:
    with torch.device("meta"):
        network = TwoBranch(24)
    block_1, block_2, block_3 = 49**3, 128 * 24**3, 128 * 12**3
    convolutions = 2 * 2 * 125 * 128 * (block_1 + block_2 + block_3)
    head = sum(layer.weight.numel() for layer in network.modules() if isinstance(layer, nn.Linear))
    assert flops_per_sample(network) == convolutions + 2 * head


def test_flops_of_tiles_that_a_network_does_not_predict_are_refused() -> None:
    with pytest.raises(ValueError, match="must have shape"):
        flops_per_sample(build_network("two_branch", seed=0, **SMALL), 2)


def test_flops_of_a_tile_equal_a_count_by_hand() -> None:
    options: dict[str, Any] = {"width": 5, "head_widths": (4,), "channels": 2}
    network = build_network("residual", radius=2, seed=0, **options)
    expected = 2 * (27 * 2 * 5 * 5**3 + 27 * 5 * 5 * 3**3 + (5 * 4 + 4) * 3**3)
    assert flops_per_sample(network, 3) == expected
