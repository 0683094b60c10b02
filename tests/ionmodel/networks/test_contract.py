"""The contract that every family of networks passes."""

import itertools
from typing import Any

import pytest
import torch

from ionmodel.dense.form import dense_form
from ionmodel.networks import NETWORKS, OPTIONS, PREDICTS_TILES
from ionmodel.networks.base import DenseNetwork, PatchNetwork, build_network, flops_per_sample
from ionmodel.networks.memory import SMALLEST_TILE, largest_tile, patches_at_once, tile_bytes

SMALL: dict[str, list[dict[str, Any]]] = {
    "pointwise": [{"radius": 0, "widths": (5,)}],
    "residual": [{"radius": 2, "width": 4, "head_widths": (3,)}],
    "two_branch": [
        {"radius": 2, "block_channels": (3,), "kernel": 3, "padding": padding}
        for padding in (True, False)
    ],
}
"""Small networks of each family; a new family adds its own here."""

CASES = [(name, options) for name, cases in SMALL.items() for options in cases]
IDS = [f"{name}{number}" for name, cases in SMALL.items() for number in range(len(cases))]


def made(name: str, options: dict[str, Any], *, seed: int = 3, **changes: Any) -> PatchNetwork:
    network = build_network(name, channels=2, seed=seed, **{**options, **changes})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # weights that start at zero would hide what a cell depends on
        for weights in network.parameters():
            weights.copy_(0.3 * torch.randn(weights.shape, generator=generator))
    return network.eval()


def test_every_family_is_tested() -> None:
    assert set(SMALL) == set(NETWORKS) == set(OPTIONS)


every_family = pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)


@every_family
def test_a_neighborhood_gives_one_number_between_0_and_1(
    name: str, options: dict[str, Any]
) -> None:
    network = made(name, options)
    width = network.receptive_field
    assert width == 2 * options["radius"] + 1
    assert network.channels == 2
    x = torch.randn(4, 2, width, width, width)
    out = network(x)
    assert out.shape[0] == out.numel() == 4
    assert out.dtype == torch.float32
    assert ((out > 0) & (out < 1)).all()
    torch.testing.assert_close(out, torch.sigmoid(network.logits(x)))
    torch.testing.assert_close(network(x, activate=False), network.logits(x))
    bare = made(name, options, final_activation=False)
    torch.testing.assert_close(bare(x), bare.logits(x))


@every_family
def test_other_shapes_are_refused(name: str, options: dict[str, Any]) -> None:
    network = made(name, options)
    width = network.receptive_field
    wrong = [(4, 1, width, width, width), (4, 3, width, width, width), (2, width, width, width)]
    if width > 1:
        wrong.append((4, 2, width, width, width - 1))
    for shape in wrong:
        with pytest.raises(ValueError, match=r"x must have shape \(batch, 2, "):
            network(torch.zeros(shape))


@every_family
def test_the_seed_alone_decides_the_weights(name: str, options: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    first, again, other = (
        build_network(name, channels=2, seed=seed, **options).state_dict() for seed in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@every_family
def test_every_corner_of_the_neighborhood_counts(name: str, options: dict[str, Any]) -> None:
    network = made(name, options)
    width = network.receptive_field
    x = torch.randn(1, 2, width, width, width, requires_grad=True)
    network.logits(x).sum().backward()
    assert x.grad is not None
    reach = width
    if name == "two_branch":  # pooling drops the last cells of odd widths
        (n_blocks,) = {len(options["block_channels"])}
        trimmed = 0 if options["padding"] else options["kernel"] - 1
        left = width
        for _ in range(n_blocks):
            left = (left - trimmed) // 2
        reach = 2 * left + 2 * (options["kernel"] // 2)
    for channel, corner in itertools.product(
        range(2), itertools.product((0, min(reach, width) - 1), repeat=3)
    ):
        assert x.grad[(0, channel, *corner)] != 0


@every_family
def test_every_weight_learns(name: str, options: dict[str, Any]) -> None:
    network = made(name, options).train()
    for layer in network.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    width = network.receptive_field
    network(torch.randn(8, 2, width, width, width)).square().sum().backward()
    for weights in network.parameters():
        assert weights.grad is not None
        assert torch.isfinite(weights.grad).all()


@every_family
def test_weights_travel_through_a_state_dict(name: str, options: dict[str, Any]) -> None:
    network = made(name, options)
    other = build_network(name, channels=2, seed=9, **options).eval()
    other.load_state_dict(network.state_dict())
    width = network.receptive_field
    x = torch.randn(2, 2, width, width, width)
    assert torch.equal(network(x), other(x))


@every_family
def test_a_dense_form_predicts_a_tile_as_its_neighborhoods(
    name: str, options: dict[str, Any]
) -> None:
    network = made(name, options)
    assert (name in PREDICTS_TILES) == isinstance(network, DenseNetwork)
    if not network.has_dense_form:
        with pytest.raises(ValueError, match="predict it patch by patch"):
            dense_form(network)
        return
    width, tile = network.receptive_field, 3
    x = torch.randn(1, 2, *(width + tile - 1 for _ in range(3)))
    with torch.no_grad():
        whole = dense_form(network)(x)
        own = network(x)
        assert whole.shape == (1, 1, tile, tile, tile)
        torch.testing.assert_close(own, whole[:, 0], rtol=1e-5, atol=1e-6)
        for i, j, k in itertools.product(range(tile), repeat=3):
            patch = x[:, :, i : i + width, j : j + width, k : k + width]
            one = network(patch).flatten()
            torch.testing.assert_close(one, whole[0, 0, i, j, k].flatten(), rtol=1e-5, atol=1e-6)


@every_family
def test_cost_and_memory_are_known(name: str, options: dict[str, Any]) -> None:
    network = made(name, options)
    assert flops_per_sample(network) > 0
    assert patches_at_once(network) >= 1
    least = tile_bytes(network, SMALLEST_TILE)
    assert least > 0
    assert largest_tile(network, least) is not None
    assert largest_tile(network, least - 1) is None
