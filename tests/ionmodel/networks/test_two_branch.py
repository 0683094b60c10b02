"""The two-branch network: shapes, weights and options."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ionmodel.dense.form import dense_form
from ionmodel.networks.two_branch import TwoBranch

SMALL: dict[str, Any] = {
    "block_channels": (3, 4),
    "kernel": 3,
    "head_dropout_widths": (6,),
    "head_widths": (4,),
}


def test_defaults_at_radius_24_are_the_system_of_2021() -> None:
    with torch.device("meta"):
        network = TwoBranch(24)
        logits = network(torch.empty(32, 2, 49, 49, 49), activate=False)
    assert network.n_features == 2 * 128 * 6**3 == 55_296
    assert logits.shape == (32,)
    layers = [layer for layer in network.head if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in layers] == [256, 128, 64, 32, 16, 8, 4, 1]
    assert layers[0].in_features == 55_296
    shares = [layer.p for layer in network.head if isinstance(layer, nn.Dropout)]
    assert shares == [0.8, *5 * (0.5,)]
    assert [type(layer) for layer in network.head[-5:]] == [
        nn.Linear,
        nn.LeakyReLU,
        nn.Linear,
        nn.LeakyReLU,
        nn.Linear,
    ]
    assert len(network.branches) == 2
    kernels = [tuple(m.weight.shape) for m in network.modules() if isinstance(m, nn.Conv3d)]
    assert kernels == 2 * [(128, 1, 5, 5, 5), (128, 128, 5, 5, 5), (128, 128, 5, 5, 5)]


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_any_number_of_fields(channels: int, shared: bool) -> None:
    network = TwoBranch(4, channels=channels, shared_branches=shared, **SMALL)
    assert len(network.branches) == (1 if shared else channels)
    assert network.channels == channels
    assert network.receptive_field == 9
    assert not network.has_dense_form
    out = network(torch.randn(5, channels, 9, 9, 9))
    assert out.shape == (5,)
    assert out.dtype == torch.float32


@pytest.mark.parametrize(
    ("radius", "blocks", "kernel", "width"),
    [(24, 3, 5, 2), (18, 3, 5, 1), (5, 2, 3, 1), (7, 2, 3, 2), (6, 1, 3, 5), (1, 1, 1, 1)],
)
def test_without_padding_convolutions_narrow_the_patch(
    radius: int, blocks: int, kernel: int, width: int
) -> None:
    with torch.device("meta"):
        network = TwoBranch(radius, padding=False, kernel=kernel, block_channels=(4,) * blocks)
        out = network(torch.empty(3, 2, *3 * (2 * radius + 1,)))
    assert network.has_dense_form
    assert network.n_features == 2 * 4 * width**3
    assert out.shape == (3,)


def test_no_weight_is_named_or_shaped_otherwise_without_padding() -> None:
    padded = TwoBranch(5, block_channels=(3, 4), kernel=3).state_dict()
    valid = TwoBranch(5, block_channels=(3, 4), kernel=3, padding=False).state_dict()
    assert list(padded) == list(valid)
    assert {name for name in padded if padded[name].shape != valid[name].shape} == {"head.1.weight"}


@pytest.mark.parametrize("shared", [True, False])
def test_names_of_weights_are_those_of_older_checkpoints(shared: bool) -> None:
    network = TwoBranch(4, block_channels=(3,), shared_branches=shared, head_widths=(4,))
    block = [
        "conv.weight",
        "conv.bias",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    ]
    branches = [f"branches.{n}.0.{name}" for n in range(1 if shared else 2) for name in block]
    linear = [1, 4, 7, 10, 13, 16, 18]
    head = [f"head.{n}.{name}" for n in linear for name in ("weight", "bias")]
    assert list(network.state_dict()) == branches + head


def test_branches_are_joined_field_by_field() -> None:
    network = TwoBranch(4, channels=3, **SMALL).eval()
    x = torch.randn(2, 3, 9, 9, 9)
    joined = network.branches(x)
    assert joined.shape == (2, 3 * 4, 2, 2, 2)
    for field in range(3):
        alone = network.branches[field](x[:, field : field + 1])
        torch.testing.assert_close(joined[:, 4 * field : 4 * field + 4], alone)


def test_each_separate_branch_reads_its_own_field() -> None:
    network = TwoBranch(4, **SMALL).eval()
    x = torch.randn(3, 2, 9, 9, 9, requires_grad=True)
    for parameter in network.branches[1].parameters():
        nn.init.zeros_(parameter)
    (gradient,) = torch.autograd.grad(network(x, activate=False).sum(), x)
    assert gradient[:, 0].abs().max() > 0
    assert gradient[:, 1].abs().max() == 0


def test_shared_branches_see_fields_alike() -> None:
    network = TwoBranch(4, shared_branches=True, **SMALL).eval()
    x = torch.randn(3, 2, 9, 9, 9)
    branch = network.branches[0]
    features = torch.cat([branch(x[:, :1]).flatten(1), branch(x[:, 1:]).flatten(1)], dim=1)
    torch.testing.assert_close(network.logits(x), network.head(features).squeeze(1))


@pytest.mark.parametrize("radius", [3, 4, 7])
def test_prediction_depends_on_the_corners(radius: int) -> None:
    network = TwoBranch(radius, **SMALL).eval()
    width = network.receptive_field
    x = torch.randn(2, 2, *3 * (width,), requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x, activate=False).sum(), x)
    assert (gradient[..., 0, 0, 0] != 0).all()
    assert (gradient[..., -1, -1, -1] != 0).all()


def test_activation_is_applied_on_request() -> None:
    network = TwoBranch(4, **SMALL).eval()
    x = torch.randn(3, 2, 9, 9, 9)
    logits = network.logits(x)
    torch.testing.assert_close(network(x), torch.sigmoid(logits))
    torch.testing.assert_close(network(x, activate=False), logits)
    bare = TwoBranch(4, final_activation=False, **SMALL).eval()
    torch.testing.assert_close(bare(x), bare.logits(x))


@pytest.mark.parametrize("recompute", [True, False])
def test_convolution_bias_changes_no_prediction(recompute: bool) -> None:
    network = TwoBranch(
        4, recompute=recompute, feature_dropout=0.0, head_dropout=0.0, **SMALL
    ).double()
    x = torch.randn(3, 2, 9, 9, 9, dtype=torch.float64)
    before = network(x)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("conv.bias"):
                parameter.add_(1.0)
    torch.testing.assert_close(network(x), before)
    unbiased = TwoBranch(4, conv_bias=False, **SMALL)
    assert not any(name.endswith("conv.bias") for name, _ in unbiased.named_parameters())


def test_checkpoints_are_exchanged_between_modes_of_memory() -> None:
    stock = TwoBranch(4, **SMALL)
    recomputed = TwoBranch(4, recompute=True, **SMALL)
    stock(torch.randn(3, 2, 9, 9, 9))
    assert list(stock.state_dict()) == list(recomputed.state_dict())
    recomputed.load_state_dict(stock.state_dict(), strict=True)
    x = torch.randn(3, 2, 9, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(recomputed.eval()(x), stock.eval()(x))


def test_head_without_hidden_layers() -> None:
    network = TwoBranch(4, block_channels=(3,), head_dropout_widths=(), head_widths=())
    assert [type(layer) for layer in network.head] == [nn.Dropout, nn.Linear]
    assert network.n_features == 2 * 3 * 4**3


def test_one_batch_can_be_learned() -> None:
    torch.manual_seed(3)
    network = TwoBranch(
        2, block_channels=(8, 8), kernel=3, head_dropout_widths=(), head_widths=(8,),
        feature_dropout=0.0,
    )  # fmt: skip
    x, y = torch.randn(8, 2, 5, 5, 5), torch.rand(8)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(network(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 5e-3


@pytest.mark.parametrize(
    ("radius", "options", "message"),
    [
        (-1, {}, "radius must be at least 0, got -1"),
        (3, {}, "radius must be at least 4 for 3 blocks"),
        (17, {"padding": False}, "must be at least 18 for 3 blocks that each take 4 cells off"),
        (3, {"padding": False, **SMALL}, "at least 5 .* halve it, got 3; .* a narrower kernel"),
        (4, {"channels": 0}, "channels must be at least 1, got 0"),
        (4, {"block_channels": ()}, "block_channels must be at least 1 positive numbers"),
        (4, {"block_channels": (16, 0)}, "block_channels"),
        (4, {"kernel": 4}, "kernel must be odd and positive, got 4"),
        (4, {"kernel": -1}, "kernel"),
        (4, {"feature_dropout": 1.0}, "feature_dropout must be at least 0 and below 1, got 1.0"),
        (4, {"head_dropout": -0.1}, "head_dropout"),
        (4, {"head_dropout_widths": (0,)}, "head_dropout_widths"),
        (4, {"head_widths": (8, -4)}, "head_widths"),
    ],
)
def test_values_out_of_range_are_refused(
    radius: int, options: dict[str, Any], message: str
) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        TwoBranch(radius, **options)


def test_radius_that_just_suffices() -> None:
    with torch.device("meta"):
        assert TwoBranch(4).n_features == 2 * 128


@pytest.mark.parametrize(
    ("radius", "kernel", "block_channels"),
    [(2, 3, [3]), (3, 3, [3]), (5, 3, [3, 4]), (8, 3, [2, 3])],
)
@pytest.mark.parametrize("shared", [False, True])
def test_without_padding_a_tile_is_as_good_as_its_neighborhoods(
    radius: int, kernel: int, block_channels: list[int], shared: bool
) -> None:
    torch.manual_seed(radius)
    network = TwoBranch(
        radius,
        padding=False,
        kernel=kernel,
        block_channels=block_channels,
        shared_branches=shared,
        feature_dropout=0.3,
        head_dropout_widths=[5],
        head_widths=[4],
    ).double()
    width = 2 * radius + 1
    network(torch.randn(8, 2, width, width, width, dtype=torch.float64))  # running statistics
    tiles = torch.randn(2, 2, *(width + 2,) * 3, dtype=torch.float64)
    network.eval()
    dense = network(tiles)
    assert dense.shape == (2, 3, 3, 3)
    for i, j, k in np.ndindex(3, 3, 3):
        patch = tiles[:, :, i : i + width, j : j + width, k : k + width]
        torch.testing.assert_close(dense[:, i, j, k], network(patch), rtol=1e-12, atol=1e-12)
    narrow = network(tiles[:, :, :width, :, :width])  # no wider than a neighborhood along two axes
    torch.testing.assert_close(narrow, dense[:, :1, :, :1], rtol=1e-12, atol=1e-12)
    for wrong in (tiles[:, :1], tiles[:, [0, 1, 1]], tiles[:, :, :, 3:]):
        with pytest.raises(ValueError, match=r"must have shape \(batch, 2, "):
            network(wrong)
    network.train()
    network(tiles, activate=False).square().mean().backward()
    for name, weights in network.named_parameters():
        assert weights.grad is not None, name
        redundant = name.endswith("conv.bias")  # normalization subtracts it again
        assert redundant or weights.grad.abs().max() > 0, name


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    block_channels=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    kernel=st.sampled_from([1, 3]),
    wider=st.integers(0, 3),
    channels=st.integers(1, 3),
    shared=st.booleans(),
    widths=st.lists(st.integers(1, 4), max_size=2),
    beyond=st.tuples(*3 * (st.integers(0, 3),)),
)
@torch.no_grad()
def test_a_tile_gives_what_the_dense_form_gives(
    *,
    block_channels: list[int],
    kernel: int,
    wider: int,
    channels: int,
    shared: bool,
    widths: list[int],
    beyond: tuple[int, int, int],
) -> None:
    least = 1
    for _ in block_channels:
        least = 2 * least + kernel - 1
    torch.manual_seed(wider)
    network = TwoBranch(
        least // 2 + wider,
        channels=channels,
        padding=False,
        kernel=kernel,
        block_channels=block_channels,
        shared_branches=shared,
        head_dropout_widths=widths,
        head_widths=widths[:1],
    ).double()
    width = network.receptive_field
    x = torch.randn(2, channels, *(width + cells for cells in beyond), dtype=torch.float64)
    network(torch.randn(2, channels, *3 * (width + 1,), dtype=torch.float64))  # statistics
    network.eval()
    expected = dense_form(network).logits(x).squeeze(1)
    got = network.logits(x).reshape(expected.shape)  # a neighborhood has no axes of cells
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_with_padding_a_tile_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must have shape \(batch, 2, 9, 9, 9\)"):
        TwoBranch(4, block_channels=(3,))(torch.zeros(1, 2, 10, 10, 10))
