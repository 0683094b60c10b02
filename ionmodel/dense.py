"""A patch network evaluated densely: the same numbers for all cells of a tile at once."""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ionmodel.networks.base import DenseNetwork, PatchNetwork
from ionmodel.networks.two_branch import ConvolutionBlock, FieldBranches, TwoBranch

Module = TypeVar("Module", bound=nn.Module)
Normalization = nn.BatchNorm1d | nn.BatchNorm3d
Cells3 = tuple[int, int, int]
"""Cells along the three axes."""

ELEMENTWISE = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh,
    nn.Identity, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU,
    nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold,
)  # fmt: skip
"""Layers that treat every value alike, wherever it stands."""

DROPOUT = (nn.AlphaDropout, nn.Dropout, nn.Dropout3d, nn.FeatureAlphaDropout)
"""Layers that do nothing in evaluation."""

_ONE: Cells3 = (1, 1, 1)
_ZERO: Cells3 = (0, 0, 0)


class DenseForm(nn.Module):
    """The dense form of a patch network; made by `dense_form`.

    Parameters
    ----------
    layers : Sequential
        Layers of stride 1 that map tiles to the values of their cells.
    receptive_field : int
        Width in cells of the neighborhoods that the patch network takes.
    channels : int or None
        Input channels; None where no layer tells.
    unused : tuple of int
        Cells at the end of each axis of a neighborhood that change no output.
    final_activation : bool
        Whether predictions are the sigmoid of the logits.
    """

    def __init__(
        self,
        layers: nn.Sequential,
        *,
        receptive_field: int,
        channels: int | None,
        unused: Cells3 = _ZERO,
        final_activation: bool = False,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.receptive_field = receptive_field
        self.channels = channels
        self.unused = unused
        self.final_activation = final_activation

    def forward(self, x: Tensor, *, activate: bool = True) -> Tensor:
        """Predict all cells of a tile.

        Parameters
        ----------
        x : Tensor, shape (batch, channels, T + 2r, T + 2r, T + 2r)
            Tiles with their halo of r cells, where the `receptive_field` is ``2 r + 1``; T is at
            least 1 and may differ from axis to axis. In the dtype of the weights.
        activate : bool
            False returns the logits of a network with a final activation.

        Returns
        -------
        Tensor of the same dtype, shape (batch, out, T, T, T)
            Position (i, j, k) is what the patch network makes of the neighborhood that starts
            there, ``x[:, :, i:i + 2r + 1, j:j + 2r + 1, k:k + 2r + 1]``.

        Raises
        ------
        ValueError
            If `x` has another number of axes or channels, or is narrower than a neighborhood.
        """
        z = self.logits(x)
        return torch.sigmoid(z) if activate and self.final_activation else z

    def logits(self, x: Tensor) -> Tensor:
        """Return the values before the final activation; arguments as in `forward`."""
        least = self.receptive_field
        if x.ndim != 5 or self.channels not in {None, x.shape[1]} or min(x.shape[2:]) < least:
            channels = "channels" if self.channels is None else self.channels
            raise ValueError(
                f"x must have shape (batch, {channels}, i, j, k) with at least {least} cells along "
                f"i, j and k, got {tuple(x.shape)}"
            )
        # Cells that the last strides drop are not read at all: every length then comes out even.
        for axis, cells in enumerate(self.unused, start=2):
            x = x.narrow(axis, 0, x.shape[axis] - cells)
        z: Tensor = self.layers(x)
        return z

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked for: nothing else is exact."""
        return super().train(False)


def dense_form(network: nn.Module, *, receptive_field: int | None = None) -> DenseForm:
    """Turn a patch network into one that predicts all cells of a tile at once, exactly.

    Parameters
    ----------
    network : Module
        Maps neighborhoods of shape (batch, channels, width, width, width) to (batch, out) or
        (batch,). Either a `PatchNetwork` with ``has_dense_form``, or a Sequential, nested as one
        likes, of Conv3d, BatchNorm1d, BatchNorm3d, AvgPool3d, MaxPool3d, Flatten, Linear,
        activations in `ELEMENTWISE` or PReLU, and Dropout. Nothing may pad. Left unchanged, in
        any mode.
    receptive_field : int, optional
        Width of those neighborhoods in cells, odd. Needed for a Sequential, whose layers do not
        tell how many cells pooling drops; a `PatchNetwork` knows its own.

    Returns
    -------
    DenseForm
        In evaluation mode, on the same device in the same dtype, without a copy of the weights.

    Raises
    ------
    ValueError
        If the network has no exact dense form that is known here (the message names the layer),
        the receptive field does not fit its layers, or it is missing.

    Notes
    -----
    A layer of stride s reads every s-th cell of its input. Here it reads all, and later layers
    look at every s-th of its outputs: strides become 1 and multiply the dilation of all that
    follows. Flatten and the Linear after it are a convolution as wide as what is left of a
    patch, later ones convolutions of one cell. Batch normalization by running statistics is an
    affine map of channels. At an odd width pooling drops cells, always at the end of a patch:
    these cells of the tile are cut off first, and no length is rounded any more.

    Pooling is separable, a sum or maximum over shifted views, axis by axis: 10 ms for 32 channels
    (first in memory), 64³ cells, kernel 2, on two cores, against 47 for AvgPool3d, 47 to 105 for a
    depthwise convolution at dilation 4 to 1, and 148 to 170 for MaxPool3d.

    Parameters are shared: training steps and ``load_state_dict`` of the network change the dense
    form too, and gradients of either reach the same tensors. ``network.to`` may replace running
    statistics: move the network first, then make its dense form. ``copy.deepcopy`` makes one
    that is independent. Modes are not shared: a dense form stays in evaluation mode.
    Where maxima tie, the gradient of a dense form is divided among them.

    Memory without gradients: input and output of a layer at once, ``itemsize * batch * (n_in +
    n_out) * L**3`` bytes at the widest layer, where L is at most ``T + receptive_field - 1``: no
    layer thins the mesh out. oneDNN's float32 convolutions hold as much again in a layout of
    their own (64³ cells, 64 features into a Linear of 256: 694 MiB by this rule, 641 measured).
    Others (float64 on a CPU) hold ``n_in * kernel**3`` values for every output cell.
    BatchNorm1d directly after Flatten has statistics for every place in a patch, and
    a network that ends in Flatten as many outputs: there each cell takes all its features at
    once, ``n_in * w**3`` values where w cells are left of a patch.

    References
    ----------
    Giusti et al. 2013, Fast image scanning with deep max-pooling convolutional neural networks.
    Long, Shelhamer, Darrell 2015, Fully convolutional networks for semantic segmentation,
    section 3.2.

    Examples
    --------
    >>> network = nn.Sequential(
    ...     nn.Conv3d(2, 4, 3), nn.ReLU(), nn.AvgPool3d(2), nn.Flatten(), nn.Linear(4 * 3**3, 1)
    ... )
    >>> dense = dense_form(network, receptive_field=9)
    >>> dense(torch.zeros(5, 2, 20, 20, 20)).shape
    torch.Size([5, 1, 12, 12, 12])
    """
    width, channels = _receptive_field(network, receptive_field), None
    final_activation = False
    if isinstance(network, PatchNetwork):
        channels, final_activation = network.channels, network.final_activation
    if isinstance(network, DenseNetwork):
        return DenseForm(
            nn.Sequential(_DenseFamily(_twin(network))),
            receptive_field=width,
            channels=channels,
            final_activation=final_activation,
        ).eval()
    patch = _Patch(channels, (width, width, width))
    if type(network) is TwoBranch:
        _refuse_hooks(network, "")
        stages = (("branches", network.branches), ("", nn.Flatten()), ("head", network.head))
        layers, patch = _chain(stages, "", patch)
    else:
        layers, patch = _convert(network, "", patch)
    if not patch.flat:
        raise ValueError(
            f"network must give (batch, out), but its last layer still has {_text(patch.width)} "
            "cells; add an nn.Flatten()"
        )
    unfolded, patch = _unfold(patch)
    first_channels = channels if channels is not None else patch.input_channels
    return DenseForm(
        nn.Sequential(*layers, *unfolded),
        receptive_field=width,
        channels=first_channels,
        unused=_cells(width - 1 - reach for reach in patch.reach),
        final_activation=final_activation,
    ).eval()


@dataclass(frozen=True, slots=True)
class _Patch:
    """What is left of a patch at some depth of the network."""

    channels: int | None  # None until a layer tells
    width: Cells3  # cells of this depth along each axis
    spacing: Cells3 = _ONE  # cells of the box between neighbors
    reach: Cells3 = _ZERO  # cells of the box past its first that a value depends on
    flat: bool = False  # whether the patch network has features here, in the order of Flatten
    input_channels: int | None = None

    def knowing(self, channels: int) -> "_Patch":
        """Return the same with known channels; they are those of the input where none were."""
        first = self.input_channels if self.channels is not None else channels
        return replace(self, channels=channels, input_channels=first)

    def after_window(self, window: Cells3, stride: Cells3) -> "_Patch":
        """Return what a window of some extent at every stride leaves."""
        triples = tuple(zip(self.width, window, stride, strict=True))
        return replace(
            self,
            width=_cells((cells - extent) // step + 1 for cells, extent, step in triples),
            spacing=_product(self.spacing, stride),
            reach=self._reach_of(window),
        )

    def in_one_cell(self, channels: int) -> "_Patch":
        """Return features that were made of all cells at once."""
        return replace(self, channels=channels, width=_ONE, reach=self._reach_of(self.width))

    def _reach_of(self, window: Cells3) -> Cells3:
        return _cells(
            reach + (extent - 1) * spacing
            for reach, extent, spacing in zip(self.reach, window, self.spacing, strict=True)
        )


Converted = tuple[list[nn.Module], _Patch]


def _convert(layer: nn.Module, path: str, patch: _Patch) -> Converted:
    _refuse_hooks(layer, path)
    if isinstance(layer, nn.Sequential) and type(layer).forward is nn.Sequential.forward:
        # not named_children, which leaves out a layer's second place
        return _chain(layer._modules.items(), path, patch)
    rule = _RULES.get(type(layer))
    if rule is None:
        raise _refused(layer, path, "is not a layer whose dense form is known")
    return rule(layer, path, patch)


def _chain(stages: Iterable[tuple[str, nn.Module | None]], path: str, patch: _Patch) -> Converted:
    layers: list[nn.Module] = []
    for name, layer in stages:
        assert layer is not None
        converted, patch = _convert(layer, f"{path}.{name}".strip("."), patch)
        layers += converted
    return layers, patch


def _convolution(layer: nn.Conv3d, path: str, patch: _Patch) -> Converted:
    _need_cells(layer, path, patch)
    kernel, dilation = _triple(layer.kernel_size), _triple(layer.dilation)
    extent = _extent(kernel, dilation)
    if layer.padding == "same":
        padding = any(cells > 1 for cells in extent)
    else:
        padding = layer.padding != "valid" and any(_triple(layer.padding))
    _refuse_padding(layer, path, padding)
    patch = _with_channels(layer, path, patch, layer.in_channels)
    _need_room(layer, path, patch, extent)
    dense = _Convolution(
        layer,
        (layer.out_channels, layer.in_channels // layer.groups, *kernel),
        _product(dilation, patch.spacing),
        layer.groups,
    )
    after = patch.after_window(extent, _triple(layer.stride))
    return [dense], replace(after, channels=layer.out_channels)


def _pooling(layer: nn.AvgPool3d | nn.MaxPool3d, path: str, patch: _Patch) -> Converted:
    _need_cells(layer, path, patch)
    kernel = _triple(layer.kernel_size)
    dilation, divisor = _ONE, None
    if isinstance(layer, nn.MaxPool3d):
        dilation = _triple(layer.dilation)
        if layer.return_indices:
            raise _refused(layer, path, "returns indices")
    else:
        # count_include_pad says nothing without padding.
        divisor = layer.divisor_override or math.prod(kernel)
    _refuse_padding(layer, path, any(_triple(layer.padding)))
    if layer.ceil_mode:
        raise _refused(layer, path, "rounds widths up (ceil_mode), past the last cell of a patch")
    extent = _extent(kernel, dilation)
    _need_room(layer, path, patch, extent)
    dense = _Pooling(kernel, _product(dilation, patch.spacing), divisor)
    return [dense], patch.after_window(extent, _triple(layer.stride))


def _normalization_of_cells(layer: nn.BatchNorm3d, path: str, patch: _Patch) -> Converted:
    _need_cells(layer, path, patch)
    patch = _with_channels(layer, path, patch, layer.num_features)
    return [_Normalization(_with_statistics(layer, path))], patch


def _normalization_of_features(layer: nn.BatchNorm1d, path: str, patch: _Patch) -> Converted:
    _need_features(layer, path, patch)
    patch = _with_features(layer, path, patch, layer.num_features)
    unfolded, patch = _unfold(patch)
    return [*unfolded, _Normalization(_with_statistics(layer, path))], patch


def _flatten(layer: nn.Flatten, path: str, patch: _Patch) -> Converted:
    n_axes = 2 if patch.flat else 5
    if layer.start_dim not in {1, 1 - n_axes} or layer.end_dim not in {-1, n_axes - 1}:
        raise _refused(
            layer,
            path,
            f"flattens axes {layer.start_dim} to {layer.end_dim}, not all but the batch",
        )
    return [], replace(patch, flat=True)


def _linear(layer: nn.Linear, path: str, patch: _Patch) -> Converted:
    _need_features(layer, path, patch)
    patch = _with_features(layer, path, patch, layer.in_features)
    assert patch.channels is not None
    shape = (layer.out_features, patch.channels, *patch.width)
    return [_Convolution(layer, shape, patch.spacing, 1)], patch.in_one_cell(layer.out_features)


def _dropout(layer: nn.Module, path: str, patch: _Patch) -> Converted:
    return [], patch


def _elementwise(layer: nn.Module, path: str, patch: _Patch) -> Converted:
    twin: Any = _twin(layer)
    if getattr(twin, "inplace", False):
        twin.inplace = False  # the input of a first layer is the caller's
    return [twin], patch


def _parametric_relu(layer: nn.PReLU, path: str, patch: _Patch) -> Converted:
    unfolded: list[nn.Module] = []
    if layer.num_parameters > 1 and patch.flat:
        patch = _with_features(layer, path, patch, layer.num_parameters)
        unfolded, patch = _unfold(patch)
    elif layer.num_parameters > 1:
        patch = _with_channels(layer, path, patch, layer.num_parameters)
    return [*unfolded, _twin(layer)], patch


def _field_branches(layer: FieldBranches, path: str, patch: _Patch) -> Converted:
    _need_cells(layer, path, patch)
    patch = _with_channels(layer, path, patch, layer.channels)
    single = replace(patch, channels=1)
    ends = []
    branches = []
    for channel in range(layer.channels):
        name = str(channel % len(layer))
        layers, end = _chain([(name, layer.branch_of(channel))], path, single)
        branches.append(nn.Sequential(*layers))
        ends.append(end)
    if any(replace(end, channels=0) != replace(ends[0], channels=0) for end in ends):
        raise _refused(layer, path, "has branches of different strides or widths")
    assert all(end.channels is not None for end in ends)
    channels = sum(end.channels or 0 for end in ends)
    return [_Branches(branches)], replace(ends[0], channels=channels)


def _convolution_block(layer: ConvolutionBlock, path: str, patch: _Patch) -> Converted:
    return _chain((("conv", layer.conv), ("norm", layer.norm), ("tail", layer.tail)), path, patch)


_RULES: dict[type[nn.Module], Callable[[Any, str, _Patch], Converted]] = {
    nn.AvgPool3d: _pooling,
    nn.BatchNorm1d: _normalization_of_features,
    nn.BatchNorm3d: _normalization_of_cells,
    nn.Conv3d: _convolution,
    nn.Flatten: _flatten,
    nn.Linear: _linear,
    nn.MaxPool3d: _pooling,
    nn.PReLU: _parametric_relu,
    ConvolutionBlock: _convolution_block,
    FieldBranches: _field_branches,
    **dict.fromkeys(DROPOUT, _dropout),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
}


class _Convolution(nn.Module):
    """A convolution of stride 1 with the weights of a Conv3d or Linear."""

    def __init__(
        self, layer: nn.Conv3d | nn.Linear, shape: tuple[int, ...], dilation: Cells3, groups: int
    ) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.shape, self.dilation, self.groups = shape, dilation, groups

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.reshape(self.shape)  # of a Linear: (out, channel * width**3)
        return functional.conv3d(x, weight, self.bias, dilation=self.dilation, groups=self.groups)


class _Normalization(nn.Module):
    """Batch normalization by running statistics, in any mode."""

    mean: Tensor
    variance: Tensor

    def __init__(self, layer: Normalization) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        self.register_buffer("mean", layer.running_mean)
        self.register_buffer("variance", layer.running_var)

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(
            x, self.mean, self.variance, self.weight, self.bias, training=False, eps=self.eps
        )


class _Pooling(nn.Module):
    """Mean (sum over a divisor) or, without a divisor, maximum over windows at every cell."""

    def __init__(self, kernel: Cells3, dilation: Cells3, divisor: int | None) -> None:
        super().__init__()
        self.kernel, self.dilation, self.divisor = kernel, dilation, divisor

    def forward(self, x: Tensor) -> Tensor:
        combine = torch.maximum if self.divisor is None else torch.add
        for axis, kernel, dilation in zip((2, 3, 4), self.kernel, self.dilation, strict=True):
            length = x.shape[axis] - (kernel - 1) * dilation
            out = x.narrow(axis, 0, length)
            for cell in range(1, kernel):
                out = combine(out, x.narrow(axis, cell * dilation, length))
            x = out
        return x if self.divisor is None else x / self.divisor


class _Unfold(nn.Module):
    """All features of a patch in each cell, in the order of Flatten."""

    def __init__(self, width: Cells3, spacing: Cells3) -> None:
        super().__init__()
        self.width, self.spacing = width, spacing

    def forward(self, x: Tensor) -> Tensor:
        for axis, width, spacing in zip((2, 3, 4), self.width, self.spacing, strict=True):
            x = x.unfold(axis, (width - 1) * spacing + 1, 1)[..., ::spacing]
        x = x.permute(0, 1, 5, 6, 7, 2, 3, 4)  # (batch, channel, places in the patch, i, j, k)
        return x.flatten(1, 4)


class _Branches(nn.Module):
    """One branch for each channel, their outputs one after the other."""

    def __init__(self, branches: Iterable[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x[:, c : c + 1]) for c, branch in enumerate(self.branches)], dim=1)


class _DenseFamily(nn.Module):
    """A network that takes tiles as it is, with an axis for its one output."""

    def __init__(self, network: DenseNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.logits(x).unsqueeze(1)


def _unfold(patch: _Patch) -> Converted:
    if patch.width == _ONE:
        return [], patch
    if patch.channels is None:  # a network without weights, which says nothing on channels
        raise ValueError("network must have a layer with weights, or end in a single cell")
    features = patch.channels * math.prod(patch.width)
    return [_Unfold(patch.width, patch.spacing)], patch.in_one_cell(features)


def _twin(module: Module) -> Module:
    """Copy a module but for its parameters and buffers: modes are not shared, numbers are."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def _receptive_field(network: nn.Module, receptive_field: int | None) -> int:
    if isinstance(network, PatchNetwork):
        if receptive_field not in {None, network.receptive_field}:
            raise ValueError(
                f"receptive_field must be the network's, {network.receptive_field}, or left out, "
                f"got {receptive_field}"
            )
        return network.receptive_field
    if receptive_field is None:
        raise ValueError(
            f"receptive_field must be given for a {type(network).__name__}: the width in cells of "
            "the patches it takes"
        )
    if receptive_field < 1 or receptive_field % 2 == 0:
        raise ValueError(f"receptive_field must be odd and positive, got {receptive_field}")
    return receptive_field


def _need_cells(layer: nn.Module, path: str, patch: _Patch) -> None:
    if patch.flat:
        raise _refused(layer, path, "comes after Flatten, where no cells are left")


def _need_features(layer: nn.Module, path: str, patch: _Patch) -> None:
    if not patch.flat:
        raise _refused(layer, path, "is applied to cells; put a Flatten before it", "or ")


def _need_room(layer: nn.Module, path: str, patch: _Patch, extent: Cells3) -> None:
    if any(cells < need for cells, need in zip(patch.width, extent, strict=True)):
        raise ValueError(
            f"receptive_field is too small: {_name(layer, path)} spans {_text(extent)} cells where "
            f"{_text(patch.width)} are left of a patch; give the width the network was made for"
        )


def _refuse_padding(layer: nn.Module, path: str, padding: bool) -> None:
    if padding:
        raise _refused(
            layer,
            path,
            f"pads patches with cells that the box does not have (padding={layer.padding!r})",
        )


def _refuse_hooks(layer: nn.Module, path: str) -> None:
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise _refused(layer, path, "has hooks, which may change its values; remove them", "or ")


def _with_statistics(layer: Normalization, path: str) -> Normalization:
    if layer.running_mean is None or layer.running_var is None:
        raise _refused(layer, path, "normalizes by the statistics of the batch, not running ones")
    return layer


def _with_channels(layer: nn.Module, path: str, patch: _Patch, channels: int) -> _Patch:
    if patch.channels not in {None, channels}:
        raise ValueError(
            f"{_name(layer, path)} takes {channels} channels, but {patch.channels} come to it; "
            "mend the network"
        )
    return patch.knowing(channels)


def _with_features(layer: nn.Module, path: str, patch: _Patch, features: int) -> _Patch:
    cells = math.prod(patch.width)
    channels = patch.channels if patch.channels is not None else features // cells
    if channels * cells != features or not channels:
        known = "any number of" if patch.channels is None else patch.channels
        raise ValueError(
            f"receptive_field does not fit: {_name(layer, path)} takes {features} features, but "
            f"{known} channels of {_text(patch.width)} cells come to it; give the width the "
            "network was made for"
        )
    return patch.knowing(channels)


def _refused(layer: nn.Module, path: str, reason: str, conjunction: str = "") -> ValueError:
    return ValueError(f"{_name(layer, path)} {reason}; {conjunction}predict it patch by patch")


def _name(layer: nn.Module, path: str) -> str:
    return f"{path or 'network'} ({type(layer).__name__})"


def _text(cells: Cells3) -> str:
    return " by ".join(map(str, cells))


def _triple(cells: Any) -> Cells3:
    return (cells, cells, cells) if isinstance(cells, int) else _cells(cells)


def _cells(values: Iterable[int]) -> Cells3:
    i, j, k = values
    return i, j, k


def _product(a: Cells3, b: Cells3) -> Cells3:
    return _cells(m * n for m, n in zip(a, b, strict=True))


def _extent(kernel: Cells3, dilation: Cells3) -> Cells3:
    return _cells((n - 1) * step + 1 for n, step in zip(kernel, dilation, strict=True))
