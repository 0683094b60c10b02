"""A dense form gives what the patch network gives for every patch, or is refused."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ionmodel.dense.form import dense_form
from ionmodel.dense.rules import DROPOUT, ELEMENTWISE
from ionmodel.networks.base import PatchNetwork
from ionmodel.networks.pointwise import Pointwise
from ionmodel.networks.residual import Residual
from ionmodel.networks.two_branch import TwoBranch
from ionstore.loading.gather import gather_neighborhoods, gather_tiles

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Largest difference, in units of the largest patch prediction (of 1 where that is smaller)."""

VALID: dict[str, Any] = {
    "kernel": 3,
    "padding": False,
    "block_channels": (3,),
    "head_dropout_widths": (5,),
    "head_widths": (4,),
    "negative_slope": 0.3,
}


def randomized(network: nn.Module, seed: int) -> nn.Module:
    """Draw all weights and running statistics so that values stay of order one with depth."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in network.parameters():
            spread = 1.4 / weights[0].numel() ** 0.5 if weights.ndim > 1 else 0.5
            weights.normal_(std=spread, generator=generator)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm3d):
                if layer.affine:
                    layer.weight.uniform_(0.5, 1.5, generator=generator)
                if layer.running_mean is not None and layer.running_var is not None:
                    layer.running_mean.normal_(generator=generator)
                    layer.running_var.uniform_(0.3, 3.0, generator=generator)
    return network


def tiles(
    n_channels: int, *widths: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((2, n_channels, *widths), dtype=dtype, generator=generator)


def by_patches(network: nn.Module, x: Tensor, width: int) -> Tensor:
    """Predict every patch of a tile by itself, as (batch, out, T, T, T)."""
    n_cells = [length - width + 1 for length in x.shape[2:]]
    patches = (
        x[:, :, i : i + width, j : j + width, k : k + width].clone()  # layers may work in place
        for i, j, k in np.ndindex(*n_cells)
    )
    rows = [network(patch).reshape(len(x), -1) for patch in patches]
    return torch.stack(rows, dim=2).unflatten(2, n_cells)


def assert_close(got: Tensor, expected: Tensor) -> None:
    assert got.dtype == expected.dtype
    tolerance = TOLERANCE[expected.dtype] * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


def varies(values: Tensor) -> bool:
    """Whether the values differ: constant predictions would agree wherever they stood."""
    return float(values.std()) > 1e-3 * float(values.abs().max())


@torch.no_grad()
def assert_dense(
    network: nn.Module, x: Tensor, width: int, dense: nn.Module | None = None
) -> Tensor:
    """Compare a tile with its patches, and return what the patches give."""
    network.eval()
    if dense is None:
        own = isinstance(network, PatchNetwork)
        dense = dense_form(network, receptive_field=None if own else width)
    expected = by_patches(network, x, width)
    assert_close(dense(x), expected)
    return expected


ACTIVATIONS: list[Callable[[], nn.Module]] = [
    nn.ReLU,
    nn.GELU,
    nn.Tanh,
    lambda: nn.LeakyReLU(0.2, inplace=True),
    nn.Softplus,
    nn.PReLU,
]


def three(draw: st.DrawFn, limits: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(draw(st.integers(1, max(1, limit))) for limit in limits)


def window(draw: st.DrawFn, widths: tuple[int, ...], most: int, *, dilated: bool) -> dict[str, Any]:
    """Options of a layer whose window fits into an input."""
    kernel = three(draw, tuple(min(most, w) for w in widths))
    if draw(st.booleans()):  # the same on all axes, where pools and convolutions are usual
        kernel = 3 * (min(kernel),)
    options: dict[str, Any] = {
        "kernel_size": kernel,
        "stride": three(draw, draw(st.sampled_from([(1, 1, 1), (2, 2, 2), (3, 2, 1)]))),
    }
    if dilated:
        room = ((w - 1) // (k - 1) if k > 1 else 3 for w, k in zip(widths, kernel, strict=True))
        options["dilation"] = three(draw, tuple(min(3, steps) for steps in room))
    return options


def spatial_layer(draw: st.DrawFn, x: Tensor) -> nn.Module:
    """A layer that takes an input."""
    n_in, widths = x.shape[1], tuple(x.shape[2:])
    match draw(st.sampled_from(["conv", "conv", "mean", "max", "norm", "prelu", "dropout"])):
        case "conv":
            groups = draw(st.sampled_from([n for n in range(1, n_in + 1) if n_in % n == 0]))
            n_out = groups * draw(st.integers(1, 3))
            bias = draw(st.booleans())
            options = window(draw, widths, draw(st.sampled_from([2, 3, 7])), dilated=True)
            return nn.Conv3d(n_in, n_out, groups=groups, bias=bias, **options)
        case "mean":
            divisor = draw(st.sampled_from([None, 3]))
            return nn.AvgPool3d(divisor_override=divisor, **window(draw, widths, 3, dilated=False))
        case "max":
            return nn.MaxPool3d(**window(draw, widths, 3, dilated=True))
        case "norm":
            return nn.BatchNorm3d(n_in, affine=draw(st.booleans()))
        case "prelu":
            return nn.PReLU(n_in)
        case _:
            return nn.Dropout3d(0.5)


@st.composite
def architectures(draw: st.DrawFn) -> tuple[nn.Sequential, int, int]:
    """A patch network, its width and its channels; the shapes are found by running it."""
    width = 2 * draw(st.sampled_from([0, 1, 2, 3, 4, 5, 5, 6, 6])) + 1
    n_channels = draw(st.integers(1, 4))
    x = torch.zeros(1, n_channels, width, width, width)
    layers: list[nn.Module] = []

    def add(layer: nn.Module) -> None:
        nonlocal x
        layers.append(layer)
        with torch.no_grad():
            x = layer.eval()(x)

    for _ in range(draw(st.integers(0, 4))):
        add(spatial_layer(draw, x))
        if draw(st.booleans()):
            add(draw(st.sampled_from(ACTIVATIONS))())
    cut = draw(st.integers(0, len(layers)))
    layers = [nn.Sequential(*layers[:cut]), nn.Sequential(nn.Sequential(*layers[cut:]))]

    add(nn.Flatten())
    n_linear = draw(st.integers(0 if x.shape[1] <= 64 else 1, 3))
    for depth in range(n_linear + 1):
        if draw(st.booleans()) and x.shape[1] <= 128:
            add(nn.BatchNorm1d(x.shape[1], affine=draw(st.booleans())))
        if draw(st.booleans()):
            add(nn.Dropout(0.5))
            add(draw(st.sampled_from(ACTIVATIONS))())
        if depth < n_linear:
            bias = draw(st.booleans())
            add(nn.Linear(x.shape[1], draw(st.integers(1, 4)), bias=bias))
    return nn.Sequential(*layers), width, n_channels


@st.composite
def placed_tiles(draw: st.DrawFn, mesh: tuple[int, int, int]) -> tuple[int, np.ndarray]:
    """A width, and where two tiles start: one anywhere, one in the last cells before the faces."""
    anywhere = [draw(st.integers(0, cells - 1)) for cells in mesh]
    return draw(st.integers(1, 3)), np.array([anywhere, [cells - 1 for cells in mesh]])


# Slow: many drawn networks, each applied patch by patch.
@settings(derandomize=True, deadline=None, max_examples=100)
@given(architectures(), st.data(), st.sampled_from([torch.float32, torch.float64]))
@torch.no_grad()
def test_every_patch_of_a_tile_is_predicted_as_by_itself(
    architecture: tuple[nn.Sequential, int, int], data: st.DataObject, dtype: torch.dtype
) -> None:
    network, width, n_channels = architecture
    has_weights = any(isinstance(layer, nn.Conv3d | nn.Linear) for layer in network.modules())
    assume(has_weights)
    seed = data.draw(st.integers(0, 100), label="seed")
    randomized(network.to(dtype).eval(), seed)
    mesh = data.draw(st.tuples(*3 * (st.integers(width, width + 3),)), label="mesh")
    tile, starts = data.draw(placed_tiles(mesh), label="tile and starts")
    fields = np.random.default_rng(seed).normal(size=(n_channels, *mesh)).astype("f4")

    radius = width // 2
    wrapped = np.pad(fields, [(0, 0), *3 * [(radius, radius)]], mode="wrap")
    offsets = np.array(list(np.ndindex(tile, tile, tile)))
    cells = ((starts[:, None] + offsets) % mesh).reshape(-1, 3)  # those of a tile, one by one
    patches = np.stack(
        [wrapped[:, i : i + width, j : j + width, k : k + width] for i, j, k in cells]
    )
    expected = network(torch.from_numpy(patches).to(dtype)).unflatten(0, (2, -1))
    dense = dense_form(network, receptive_field=width)
    predicted = dense(torch.from_numpy(gather_tiles(fields, starts, tile, radius)).to(dtype))
    assert_close(predicted.flatten(2).transpose(1, 2), expected)
    assume(varies(expected))


BOX_NETWORKS: dict[str, Callable[[], tuple[nn.Module, int]]] = {
    "two branches": lambda: (TwoBranch(2, **VALID), 2),
    "shared branches, bare": lambda: (
        TwoBranch(3, shared_branches=True, final_activation=False, **VALID),
        3,
    ),
    "strides": lambda: (
        nn.Sequential(
            nn.Conv3d(2, 4, 2, stride=2),
            nn.BatchNorm3d(4),
            nn.GELU(),
            nn.MaxPool3d(2, stride=1),
            nn.Flatten(),
            nn.Linear(4 * 2**3, 3),
        ),
        3,
    ),
    "residual": lambda: (Residual(2, width=4), 2),
}


@pytest.mark.parametrize("name", BOX_NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tile", [1, 3, 5, 7])
def test_tiles_of_a_periodic_box_equal_its_patches(
    name: str, dtype: torch.dtype, tile: int
) -> None:
    network, radius = BOX_NETWORKS[name]()
    randomized(network.to(dtype).eval(), 4)
    mesh = 7
    fields = np.random.default_rng(1).normal(size=(2, mesh, mesh, mesh)).astype("f4")
    cells = np.array(list(np.ndindex(mesh, mesh, mesh)))
    starts = cells[(cells % tile == 0).all(axis=1)]  # the last ones reach past the box
    with torch.no_grad():
        patches = torch.from_numpy(gather_neighborhoods(fields, cells, radius)).to(dtype)
        expected = network(patches).reshape(mesh, mesh, mesh, -1)
        dense = dense_form(network, receptive_field=2 * radius + 1)
        predicted = dense(torch.from_numpy(gather_tiles(fields, starts, tile, radius)).to(dtype))
    assert varies(expected)
    offsets = np.array(list(np.ndindex(tile, tile, tile)))
    i, j, k = np.moveaxis((starts[:, None] + offsets) % mesh, -1, 0)  # each (tile, cell)
    assert_close(predicted.flatten(2).transpose(1, 2), expected[i, j, k])
    assert len(np.unique((i * mesh + j) * mesh + k)) == mesh**3


@pytest.mark.parametrize("radius", [5, 6, 7, 8, 9])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_two_branches_at_widths_that_pooling_rounds(
    radius: int, shared: bool, channels: int
) -> None:
    options = VALID | {"block_channels": (2, 3), "shared_branches": shared, "channels": channels}
    network = randomized(TwoBranch(radius, **options).double(), 20 + radius)
    width = 2 * radius + 1
    assert varies(assert_dense(network, tiles(channels, width + 1, width, width + 2), width))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_network_of_2021_without_padding(dtype: torch.dtype) -> None:
    options = VALID | {"kernel": 5, "block_channels": (4, 4, 4), "final_activation": False}
    network = randomized(TwoBranch(18, **options).to(dtype), 2)
    expected = assert_dense(network, tiles(2, 38, 37, 38, dtype=dtype), 37)
    assert varies(expected)
    assert expected.shape == (2, 1, 2, 1, 2)


def test_cells_that_pooling_drops_are_not_read() -> None:
    network = nn.Sequential(
        nn.AvgPool3d(2),  # 9 → 4, one cell dropped
        nn.Conv3d(1, 2, 2),
        nn.MaxPool3d((2, 1, 3), stride=(3, 2, 1)),  # 3 → 1, 2, 1
        nn.Flatten(),
        nn.Linear(4, 1),
    )
    randomized(network.double(), 2)
    x = tiles(1, 12, 12, 12)
    assert_dense(network, x, 9)
    dense = dense_form(network, receptive_field=9)
    assert dense.unused == (3, 1, 1)
    x[:, :, -3:] = x[:, :, :, -1:] = x[..., -1:] = torch.nan
    assert torch.isfinite(dense(x)).all()
    x[:, :, -4] = torch.nan
    assert not torch.isfinite(dense(x)).all()


def test_a_tile_of_one_cell_is_a_patch() -> None:
    network = randomized(TwoBranch(3, **VALID).double(), 3).eval()
    x = tiles(2, 7, 7, 7)
    got = dense_form(network)(x)
    assert got.shape == (2, 1, 1, 1, 1)
    torch.testing.assert_close(got.flatten(), network(x))


@pytest.mark.parametrize("width", [1, 3, 5])
def test_kernel_as_wide_as_the_patch(width: int) -> None:
    network = nn.Sequential(nn.Conv3d(2, 3, width), nn.Tanh(), nn.Flatten(), nn.Linear(3, 2))
    assert_dense(randomized(network.double(), 5), tiles(2, width + 1, width + 2, width), width)


@pytest.mark.parametrize("width", [1, 3])
def test_linear_layers_alone_tell_the_channels(width: int) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(2 * width**3, 3), nn.SiLU(), nn.Linear(3, 1))
    assert_dense(randomized(network.double(), 6), tiles(2, *3 * (width + 2,)), width)
    assert dense_form(network, receptive_field=width).channels == 2


def test_statistics_of_every_place_in_a_patch() -> None:
    network = nn.Sequential(
        nn.Conv3d(1, 2, 2, stride=2), nn.Flatten(), nn.BatchNorm1d(2 * 2**3), nn.ReLU(),
        nn.Linear(16, 3), nn.BatchNorm1d(3), nn.PReLU(3),
    )  # fmt: skip
    assert_dense(randomized(network.double(), 7), tiles(1, 8, 7, 6), 5)


def test_features_of_a_patch_without_a_linear_layer() -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, (1, 2, 3)), nn.MaxPool3d(1, stride=2), nn.Flatten())
    expected = assert_dense(randomized(network.double(), 8), tiles(1, 6, 6, 6), 5)
    assert expected.shape == (2, 2 * 3 * 2 * 2, 2, 2, 2)


def test_per_channel_slopes_before_and_after_flatten() -> None:
    network = nn.Sequential(
        nn.Conv3d(1, 2, 2), nn.PReLU(2), nn.Flatten(), nn.PReLU(16), nn.Linear(16, 1), nn.Flatten()
    )
    assert_dense(randomized(network.double(), 9), tiles(1, 5, 5, 5), 3)


@pytest.mark.parametrize("kind", ELEMENTWISE + DROPOUT)
def test_every_known_layer_without_weights(kind: type[nn.Module]) -> None:
    layer = kind(0.1, 0.7) if kind is nn.Threshold else kind()
    flat = nn.Identity() if kind in {nn.Dropout3d, nn.FeatureAlphaDropout} else layer
    network = nn.Sequential(
        nn.Conv3d(1, 2, 2, stride=2), layer, nn.Flatten(), flat, nn.Linear(2, 2), flat
    )
    assert_dense(randomized(network.double(), 10), tiles(1, 5, 5, 5), 3)


def test_a_layer_may_stand_at_two_places() -> None:
    layer = nn.Conv3d(2, 2, 2)
    network = nn.Sequential(layer, nn.ReLU(), layer, nn.Flatten())
    assert_dense(randomized(network.double(), 11), tiles(2, 5, 5, 5), 3)


def test_padding_that_adds_no_cell_is_none() -> None:
    network = nn.Sequential(
        nn.Conv3d(1, 2, 1, padding="same"), nn.Conv3d(2, 2, 3, padding="valid"),
        nn.AvgPool3d(1, count_include_pad=False), nn.Flatten(), nn.Linear(2, 1),
    )  # fmt: skip
    assert_dense(randomized(network.double(), 12), tiles(1, 5, 5, 5), 3)


def test_logits_and_predictions() -> None:
    x = tiles(2, 6, 6, 6)
    network = randomized(TwoBranch(2, **VALID).double(), 13).eval()
    dense = dense_form(network)
    torch.testing.assert_close(dense(x), torch.sigmoid(dense.logits(x)))
    torch.testing.assert_close(dense(x, activate=False), dense.logits(x))
    with torch.no_grad():
        logits = by_patches(lambda patch: network(patch, activate=False), x, 5)  # type: ignore[arg-type]
    torch.testing.assert_close(dense.logits(x), logits)
    assert dense.channels == 2
    assert dense.receptive_field == 5


def test_recomputed_blocks() -> None:
    network = randomized(TwoBranch(2, **VALID).double(), 14)
    for module in network.modules():
        if hasattr(module, "recompute"):
            module.recompute = True
    assert_dense(network, tiles(2, 6, 6, 6), 5)


@pytest.mark.parametrize("training", [True, False])
def test_families_that_are_dense_give_an_axis_of_outputs(training: bool) -> None:
    for network in (Residual(2, width=4), Pointwise(0)):
        randomized(network, 15).train(training)
        x = tiles(2, 7, 7, 7, dtype=torch.float32)
        dense = dense_form(network)
        assert network.training is training
        assert not any(module.training for module in dense.modules())
        assert_shared(network, dense)
        torch.testing.assert_close(dense(x), network(x)[:, None], rtol=0, atol=0)


def test_parametrized_weights_of_a_dense_family_are_followed() -> None:
    network = Residual(2, width=4)
    stem = weight_norm(network.stem)
    randomized(network.double(), 20).eval()
    x = tiles(2, 7, 7, 7)
    dense = dense_form(network)
    before = assert_dense(network, x, 5, dense)
    with torch.no_grad():
        stem.parametrizations.weight.original0.mul_(2)
    assert (assert_dense(network, x, 5, dense) - before).abs().max() > 0.01


def assert_shared(network: nn.Module, dense: nn.Module) -> None:
    own = {tensor.data_ptr() for tensor in network.state_dict().values()}
    assert {tensor.data_ptr() for tensor in dense.state_dict().values()} <= own
    assert {id(p) for p in dense.parameters()} == {id(p) for p in network.parameters()}


def test_later_changes_of_the_weights_change_the_dense_form() -> None:
    network = randomized(TwoBranch(2, **VALID).double(), 16)
    dense = dense_form(network)
    apart = copy.deepcopy(dense)
    assert_shared(network, dense)
    x = tiles(2, 6, 6, 6)
    before = dense(x).detach()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    network.train()
    for patch in (x[..., :5, :5, :5], x[..., 1:, 1:, 1:]):  # running statistics move as well
        network(patch).sum().backward()
        optimizer.step()
    trained = dense(x).detach()
    assert (trained - before).abs().max() > 0.01
    assert_dense(network, x, 5, dense)
    network.load_state_dict(randomized(TwoBranch(2, **VALID).double(), 17).state_dict())
    assert (dense(x) - trained).abs().max() > 0.01
    assert_dense(network, x, 5, dense)
    torch.testing.assert_close(apart(x), before)


def test_modes_are_not_shared() -> None:
    network = randomized(TwoBranch(2, **VALID).double(), 18).train()
    dense = dense_form(network)
    assert all(module.training for module in network.modules())
    assert not any(module.training for module in dense.modules())
    x = tiles(2, 6, 6, 6)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    evaluated = dense(x)
    assert not any(module.training for module in dense.train().modules())
    torch.testing.assert_close(dense(x), evaluated, rtol=0, atol=0)
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_gradients_are_those_of_the_patches() -> None:
    network = randomized(TwoBranch(3, **VALID).double(), 19).eval()
    x = tiles(2, 8, 8, 8)
    by_patches(network, x, 7).square().sum().backward()
    expected = {name: p.grad for name, p in network.named_parameters()}
    network.zero_grad()
    dense_form(network)(x).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[name])
    assert any(parameter.grad.abs().max() > 1e-3 for parameter in network.parameters())  # type: ignore[union-attr]


def test_the_tile_is_left_as_it_was() -> None:
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.ReLU(True), nn.Linear(27, 1))
    x = tiles(1, 4, 4, 4, dtype=torch.float32)
    before = x.clone()
    dense_form(network, receptive_field=3)(x)
    assert torch.equal(x, before)
    assert network[0].inplace


@pytest.mark.parametrize(
    "shape", [(2, 5, 5, 5), (1, 2, 4, 5, 5), (1, 2, 5, 5, 4), (1, 3, 5, 5, 5), (1, 2, 5, 5)]
)
def test_tiles_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    dense = dense_form(TwoBranch(2, **VALID))
    with pytest.raises(
        ValueError, match=r"x must have shape \(batch, 2, i, j, k\) with at least 5"
    ):
        dense(torch.zeros(shape))


def ended(*layers: nn.Module, features: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Sequential(*layers), nn.Flatten(), nn.Linear(features, 1))


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda *_: None)
    return layer


def with_hooked_stem(network: Residual) -> nn.Module:
    hooked(network.stem)
    return network


class Shifted(nn.Conv3d):
    """A convolution that does something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class ShiftedCall(nn.Sequential):
    """Layers with something after them."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) + 1


class ShiftedForward(nn.Sequential):
    """Layers with something after them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class Backwards(nn.Sequential):
    """Layers from the last to the first."""

    def __iter__(self) -> Iterator[nn.Module]:
        return reversed(list(self._modules.values()))  # type: ignore[arg-type]


class ShiftedResidual(Residual):
    """A family that does something after its activation."""

    def forward(self, x: Tensor, *, activate: bool = True) -> Tensor:
        return super().forward(x, activate=activate) + 1


def replaced(network: nn.Module, path: str = "", name: str = "forward") -> nn.Module:
    """The network with another function in the place of a layer's own."""
    layer = network.get_submodule(path)
    own = getattr(layer, name)
    setattr(layer, name, lambda *arguments: own(*arguments) + 1)
    return network


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "padded family": (
        lambda: TwoBranch(2, block_channels=(3,), kernel=3),
        r"^branches\.0\.0\.conv \(Conv3d\) pads patches .*padding=\(1, 1, 1\).*patch by patch$",
    ),
    "padding": (lambda: ended(nn.Conv3d(1, 1, 3, padding=(0, 1, 0))), r"^0\.0 \(Conv3d\) pads"),
    "same": (
        lambda: ended(nn.Conv3d(1, 1, (1, 1, 3), padding="same")),
        r"^0\.0 \(Conv3d\) pads .*padding='same'",
    ),
    "mean padding": (lambda: ended(nn.AvgPool3d(2, padding=1)), r"^0\.0 \(AvgPool3d\) pads"),
    "max padding": (lambda: ended(nn.MaxPool3d(3, padding=1)), r"^0\.0 \(MaxPool3d\) pads"),
    "mean ceil": (lambda: ended(nn.AvgPool3d(2, ceil_mode=True)), r"^0\.0 .*ceil_mode.*by patch$"),
    "max ceil": (lambda: ended(nn.MaxPool3d(2, ceil_mode=True)), r"^0\.0 .*ceil_mode"),
    "indices": (lambda: ended(nn.MaxPool3d(2, return_indices=True)), r"^0\.0 .* returns indices"),
    "batch statistics": (
        lambda: ended(nn.Conv3d(1, 1, 5), nn.BatchNorm3d(1, track_running_stats=False)),
        r"^0\.1 \(BatchNorm3d\) normalizes by the statistics of the batch",
    ),
    "batch statistics of features": (
        lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(125, track_running_stats=False)),
        r"^1 \(BatchNorm1d\) normalizes by the statistics of the batch",
    ),
    "instance normalization": (
        lambda: ended(nn.InstanceNorm3d(1)),
        r"^0\.0 \(InstanceNorm3d\) is not a layer whose dense form is known; predict it patch by",
    ),
    "random slopes": (lambda: ended(nn.RReLU()), r"^0\.0 \(RReLU\) is not a layer"),
    "adaptive": (lambda: ended(nn.AdaptiveAvgPool3d(1)), r"^0\.0 \(AdaptiveAvgPool3d\) is not"),
    "subclass": (lambda: ended(Shifted(1, 1, 5)), r"^0\.0 \(Shifted\) is not a layer"),
    "unknown family": (lambda: nn.LSTM(3, 3), r"^network \(LSTM\) is not a layer whose dense"),
    "own call": (lambda: ended(ShiftedCall()), r"^0\.0 \(ShiftedCall\) is not a layer"),
    "own forward": (lambda: ended(ShiftedForward()), r"^0\.0 \(ShiftedForward\) is not a layer"),
    "own order": (lambda: Backwards(nn.Flatten()), r"^network \(Backwards\) is not a layer"),
    "own forward of a dense family": (
        lambda: ShiftedResidual(2),
        r"^network \(ShiftedResidual\) is not a layer",
    ),
    "replaced forward": (
        lambda: replaced(ended(nn.Conv3d(1, 1, 5)), "0.0"),
        r"^0\.0 \(Conv3d\) has its forward replaced; put that of its class back; or predict it pat",
    ),
    "replaced inner function": (
        lambda: replaced(ended(nn.Conv3d(1, 1, 5)), "0.0", "_conv_forward"),
        r"^0\.0 \(Conv3d\) has its _conv_forward replaced",
    ),
    "replaced forward of layers": (
        lambda: replaced(ended(nn.Conv3d(1, 1, 5)), "0"),
        r"^0 \(Sequential\) has its forward replaced",
    ),
    "replaced forward of a family": (
        lambda: replaced(TwoBranch(2, **VALID), "branches.0.0"),
        r"^branches\.0\.0 \(ConvolutionBlock\) has its forward replaced",
    ),
    "replaced forward of a dense family": (
        lambda: replaced(Residual(2), "stem"),
        r"^stem \(Conv3d\) has its forward replaced",
    ),
    "parametrized": (
        lambda: ended(weight_norm(nn.Conv3d(1, 1, 5))),
        r"^0\.0 \(ParametrizedConv3d\) has parametrized weights; put them .*; or predict it patch",
    ),
    "hooks": (lambda: ended(hooked(nn.Conv3d(1, 1, 5))), r"^0\.0 \(Conv3d\) has hooks.* by patch$"),
    "hooks of a family": (lambda: hooked(TwoBranch(2, **VALID)), r"^network \(TwoBranch\) has hoo"),
    "hooks of a dense family": (lambda: hooked(Residual(2)), r"^network \(Residual\) has hooks"),
    "hooks within a dense family": (
        lambda: with_hooked_stem(Residual(2)),
        r"^stem \(Conv3d\) has hooks",
    ),
    "partial flatten": (
        lambda: nn.Sequential(nn.Flatten(2), nn.Linear(125, 1)),
        r"^0 \(Flatten\) flattens axes 2 to -1, not all but the batch; predict it",
    ),
    "flatten to an inner axis": (
        lambda: nn.Sequential(nn.Flatten(1, 3)),
        r"^0 \(Flatten\) flattens axes 1 to 3",
    ),
    "flatten of the batch": (lambda: nn.Sequential(nn.Flatten(0)), r"flattens axes 0 to -1"),
    "linear on cells": (
        lambda: nn.Sequential(nn.Linear(5, 2)),
        r"^0 \(Linear\) is applied to cells; put a Flatten before it; or predict it patch by",
    ),
    "flat normalization on cells": (
        lambda: ended(nn.BatchNorm1d(1)),
        r"^0\.0 \(BatchNorm1d\) is applied to cells",
    ),
    "convolution after flatten": (
        lambda: nn.Sequential(nn.Flatten(), nn.Conv3d(1, 1, 1)),
        r"^1 \(Conv3d\) comes after Flatten, where no cells are left; predict",
    ),
    "mean after flatten": (lambda: nn.Sequential(nn.Flatten(), nn.AvgPool3d(1)), r"^1 .*after Fl"),
    "max after flatten": (lambda: nn.Sequential(nn.Flatten(), nn.MaxPool3d(1)), r"^1 .*after Fl"),
    "normalization after flatten": (
        lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm3d(125)),
        r"^1 \(BatchNorm3d\) comes after Flatten",
    ),
    "no flatten": (
        lambda: nn.Sequential(nn.Conv3d(1, 1, (3, 4, 5))),
        r"^network must give \(batch, out\), but its last layer still has 3 by 2 by 1 cells",
    ),
    "no weights": (lambda: nn.Sequential(nn.Flatten()), "^network must have a layer with weights"),
    "wide kernel": (
        lambda: ended(nn.AvgPool3d(2), nn.Conv3d(1, 1, (3, 1, 1))),
        r"^receptive_field is too small: 0\.1 \(Conv3d\) spans 3 by 1 by 1 cells where 2 by 2 by 2",
    ),
    "wide pool": (lambda: ended(nn.MaxPool3d(4, dilation=2)), r"too small: 0\.0 .*spans 7 by 7"),
    "features": (
        lambda: ended(nn.Conv3d(1, 4, 3), features=4 * 4**3),
        r"^receptive_field does not fit: 2 \(Linear\) takes 256 features, but 4 channels of 3 by 3",
    ),
    "no whole channels": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(126, 1)),
        r"1 \(Linear\) takes 126 features, but any number of channels of 5 by 5 by 5 cells",
    ),
    "fewer features than cells": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(27, 1)),
        r"takes 27 features",
    ),
    "features of a norm": (
        lambda: nn.Sequential(nn.Conv3d(1, 2, 5), nn.Flatten(), nn.BatchNorm1d(3)),
        r"2 \(BatchNorm1d\) takes 3 features",
    ),
    "features of slopes": (
        lambda: nn.Sequential(nn.Conv3d(1, 2, 5), nn.Flatten(), nn.PReLU(3)),
        r"2 \(PReLU\) takes 3 features",
    ),
    "channels": (
        lambda: ended(nn.Conv3d(1, 4, 3), nn.Conv3d(3, 1, 3)),
        r"^0\.1 \(Conv3d\) takes 3 channels, but 4 come to it; fix the network$",
    ),
    "channels of a norm": (
        lambda: ended(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(3)),
        r"^0\.1 \(BatchNorm3d\) takes 3 channels, but 4 come",
    ),
    "channels of slopes": (
        lambda: ended(nn.Conv3d(1, 4, 3), nn.PReLU(3)),
        r"^0\.1 \(PReLU\) takes 3 channels, but 4 come",
    ),
}


def test_layers_of_a_class_that_adds_nothing_are_those_of_a_sequential() -> None:
    class Named(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(2, 1))

    assert_dense(randomized(Named().double(), 21), tiles(1, 5, 5, 5), 3)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_dense_form_is_refused_by_name(name: str) -> None:
    make, message = REFUSED[name]
    network = make()
    width = None if isinstance(network, PatchNetwork) else 5
    with pytest.raises(ValueError, match=message):
        dense_form(network, receptive_field=width)


def test_a_family_of_other_makers_is_refused() -> None:
    class Central(PatchNetwork):
        has_dense_form = True

        def _logits(self, x: Tensor) -> Tensor:
            return x[:, 0, 1, 1, 1]

    network = Central(receptive_field=3, channels=1, final_activation=True)
    with pytest.raises(ValueError, match=r"network \(Central\) is not a layer whose dense form"):
        dense_form(network)


@pytest.mark.parametrize(
    ("network", "receptive_field", "message"),
    [
        (nn.Sequential(), None, "receptive_field must be given for a Sequential: the width"),
        (nn.Sequential(), 4, "receptive_field must be a whole number, odd and positive, got 4"),
        (nn.Sequential(), 9.0, "receptive_field must be a whole number, odd and positive, got 9.0"),
        (nn.Sequential(), -1, "receptive_field must be a whole number, odd and positive, got -1"),
        (Pointwise(0), 3, "receptive_field must be the network's, 1, or left out, got 3"),
    ],
)
def test_receptive_field_must_be_known(
    network: nn.Module, receptive_field: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dense_form(network, receptive_field=receptive_field)
