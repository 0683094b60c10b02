"""How each layer of a patch network becomes layers of its dense form, or why it cannot."""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ionmodel.dense.layers import (
    DenseBranches,
    DilatedConvolution,
    FixedNormalization,
    Normalization,
    Unfold,
    cells3,
    triple,
)
from ionmodel.networks.base import Cells3, SlidingPooling
from ionmodel.networks.two_branch import ConvolutionBlock, FieldBranches

Module = TypeVar("Module", bound=nn.Module)

ELEMENTWISE = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh,
    nn.Identity, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU,
    nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold,
)  # fmt: skip
"""Layers that treat every value alike, wherever it stands."""

DROPOUT = (nn.AlphaDropout, nn.Dropout, nn.Dropout3d, nn.FeatureAlphaDropout)
"""Layers that do nothing in evaluation."""

ONE: Cells3 = (1, 1, 1)
ZERO: Cells3 = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Patch:
    """What is left of a patch at some depth of the network."""

    channels: int | None  # None until a layer tells
    width: Cells3  # cells of this depth along each axis
    spacing: Cells3 = ONE  # cells of the box between neighbors
    reach: Cells3 = ZERO  # cells of the box past its first that a value depends on
    flat: bool = False  # whether the patch network has features here, in the order of Flatten
    input_channels: int | None = None

    def knowing(self, channels: int) -> "Patch":
        """Return the same with known channels; they are those of the input where none were."""
        first = self.input_channels if self.channels is not None else channels
        return replace(self, channels=channels, input_channels=first)

    def after_window(self, window: Cells3, stride: Cells3) -> "Patch":
        """Return what a window of some extent at every stride leaves."""
        triples = tuple(zip(self.width, window, stride, strict=True))
        return replace(
            self,
            width=cells3((cells - extent) // step + 1 for cells, extent, step in triples),
            spacing=_product(self.spacing, stride),
            reach=self._reach_of(window),
        )

    def in_one_cell(self, channels: int) -> "Patch":
        """Return features that were made of all cells at once."""
        return replace(self, channels=channels, width=ONE, reach=self._reach_of(self.width))

    def _reach_of(self, window: Cells3) -> Cells3:
        return cells3(
            reach + (extent - 1) * spacing
            for reach, extent, spacing in zip(self.reach, window, self.spacing, strict=True)
        )


Converted = tuple[list[nn.Module], Patch]


def convert(layer: nn.Module, path: str, patch: Patch) -> Converted:
    """Return the dense layers of a layer of a patch network, and what it leaves of a patch.

    Raises
    ------
    ValueError
        If there is no exact dense form that is known here, or the patch does not fit the layer.
    """
    refuse_changes(layer, path)
    if isinstance(layer, nn.Sequential) and runs_as(layer, nn.Sequential):
        # not named_children, which leaves out a layer's second place
        return chain(layer._modules.items(), path, patch)
    rule = _RULES.get(type(layer))
    if rule is None and is_parametrized(layer):
        raise _refused(
            layer,
            path,
            "has parametrized weights; put them in place with remove_parametrizations of "
            "torch.nn.utils.parametrize",
            "or ",
        )
    if rule is None:
        raise _refused(layer, path, "is not a layer whose dense form is known")
    return rule(layer, path, patch)


def chain(stages: Iterable[tuple[str, nn.Module | None]], path: str, patch: Patch) -> Converted:
    """Return those of layers that follow each other, as of `convert`."""
    layers: list[nn.Module] = []
    for name, layer in stages:
        assert layer is not None
        converted, patch = convert(layer, f"{path}.{name}".strip("."), patch)
        layers += converted
    return layers, patch


def _convolution(layer: nn.Conv3d, path: str, patch: Patch) -> Converted:
    _need_cells(layer, path, patch)
    kernel, dilation = triple(layer.kernel_size), triple(layer.dilation)
    extent = _extent(kernel, dilation)
    if layer.padding == "same":
        padding = any(cells > 1 for cells in extent)
    else:
        padding = layer.padding != "valid" and any(triple(layer.padding))
    _refuse_padding(layer, path, padding)
    patch = _with_channels(layer, path, patch, layer.in_channels)
    _need_room(layer, path, patch, extent)
    dense = DilatedConvolution(
        layer,
        (layer.out_channels, layer.in_channels // layer.groups, *kernel),
        _product(dilation, patch.spacing),
        layer.groups,
    )
    after = patch.after_window(extent, triple(layer.stride))
    return [dense], replace(after, channels=layer.out_channels)


def _pooling(layer: nn.AvgPool3d | nn.MaxPool3d, path: str, patch: Patch) -> Converted:
    _need_cells(layer, path, patch)
    kernel = triple(layer.kernel_size)
    dilation, divisor = ONE, None
    if isinstance(layer, nn.MaxPool3d):
        dilation = triple(layer.dilation)
        if layer.return_indices:
            raise _refused(layer, path, "returns indices")
    else:
        # count_include_pad says nothing without padding.
        divisor = layer.divisor_override or math.prod(kernel)
    _refuse_padding(layer, path, any(triple(layer.padding)))
    if layer.ceil_mode:
        raise _refused(layer, path, "rounds widths up (ceil_mode), past the last cell of a patch")
    extent = _extent(kernel, dilation)
    _need_room(layer, path, patch, extent)
    dense = SlidingPooling(kernel, _product(dilation, patch.spacing), divisor)
    return [dense], patch.after_window(extent, triple(layer.stride))


def _normalization_of_cells(layer: nn.BatchNorm3d, path: str, patch: Patch) -> Converted:
    _need_cells(layer, path, patch)
    patch = _with_channels(layer, path, patch, layer.num_features)
    return [FixedNormalization(_with_statistics(layer, path))], patch


def _normalization_of_features(layer: nn.BatchNorm1d, path: str, patch: Patch) -> Converted:
    _need_features(layer, path, patch)
    patch = _with_features(layer, path, patch, layer.num_features)
    unfolded, patch = unfold(patch)
    return [*unfolded, FixedNormalization(_with_statistics(layer, path))], patch


def _flatten(layer: nn.Flatten, path: str, patch: Patch) -> Converted:
    n_axes = 2 if patch.flat else 5
    if layer.start_dim not in {1, 1 - n_axes} or layer.end_dim not in {-1, n_axes - 1}:
        raise _refused(
            layer,
            path,
            f"flattens axes {layer.start_dim} to {layer.end_dim}, not all but the batch",
        )
    return [], replace(patch, flat=True)


def _linear(layer: nn.Linear, path: str, patch: Patch) -> Converted:
    _need_features(layer, path, patch)
    patch = _with_features(layer, path, patch, layer.in_features)
    assert patch.channels is not None
    shape = (layer.out_features, patch.channels, *patch.width)
    return [DilatedConvolution(layer, shape, patch.spacing, 1)], patch.in_one_cell(
        layer.out_features
    )


def _dropout(layer: nn.Module, path: str, patch: Patch) -> Converted:
    return [], patch


def _elementwise(layer: nn.Module, path: str, patch: Patch) -> Converted:
    copied: Any = twin(layer)
    if getattr(copied, "inplace", False):
        copied.inplace = False  # the input of a first layer is the caller's
    return [copied], patch


def _parametric_relu(layer: nn.PReLU, path: str, patch: Patch) -> Converted:
    unfolded: list[nn.Module] = []
    if layer.num_parameters > 1 and patch.flat:
        patch = _with_features(layer, path, patch, layer.num_parameters)
        unfolded, patch = unfold(patch)
    elif layer.num_parameters > 1:
        patch = _with_channels(layer, path, patch, layer.num_parameters)
    return [*unfolded, twin(layer)], patch


def _field_branches(layer: FieldBranches, path: str, patch: Patch) -> Converted:
    _need_cells(layer, path, patch)
    patch = _with_channels(layer, path, patch, layer.channels)
    single = replace(patch, channels=1)
    ends = []
    branches = []
    for channel in range(layer.channels):
        name = str(channel % len(layer))
        layers, end = chain([(name, layer.branch_of(channel))], path, single)
        branches.append(nn.Sequential(*layers))
        ends.append(end)
    if any(replace(end, channels=0) != replace(ends[0], channels=0) for end in ends):
        raise _refused(layer, path, "has branches of different strides or widths")
    assert all(end.channels is not None for end in ends)
    channels = sum(end.channels or 0 for end in ends)
    return [DenseBranches(branches)], replace(ends[0], channels=channels)


def _convolution_block(layer: ConvolutionBlock, path: str, patch: Patch) -> Converted:
    return chain((("conv", layer.conv), ("norm", layer.norm), ("tail", layer.tail)), path, patch)


_RULES: dict[type[nn.Module], Callable[[Any, str, Patch], Converted]] = {
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


def unfold(patch: Patch) -> Converted:
    """Return what brings all features of a patch into each cell, nothing where they are there."""
    if patch.width == ONE:
        return [], patch
    if patch.channels is None:  # a network without weights, which says nothing on channels
        raise ValueError("network must have a layer with weights, or end in a single cell")
    features = patch.channels * math.prod(patch.width)
    return [Unfold(patch.width, patch.spacing)], patch.in_one_cell(features)


def twin(module: Module) -> Module:
    """Copy a module but for its parameters and buffers: modes are not shared, numbers are."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def _need_cells(layer: nn.Module, path: str, patch: Patch) -> None:
    if patch.flat:
        raise _refused(layer, path, "comes after Flatten, where no cells are left")


def _need_features(layer: nn.Module, path: str, patch: Patch) -> None:
    if not patch.flat:
        raise _refused(layer, path, "is applied to cells; put a Flatten before it", "or ")


def _need_room(layer: nn.Module, path: str, patch: Patch, extent: Cells3) -> None:
    if any(cells < need for cells, need in zip(patch.width, extent, strict=True)):
        raise ValueError(
            f"receptive_field is too small: {_name(layer, path)} spans {in_words(extent)} cells "
            f"where {in_words(patch.width)} are left of a patch; give the width the network was "
            "made for"
        )


def _refuse_padding(layer: nn.Module, path: str, padding: bool) -> None:
    if padding:
        raise _refused(
            layer,
            path,
            f"pads patches with cells that the box does not have (padding={layer.padding!r})",
        )


def refuse_changes(layer: nn.Module, path: str) -> None:
    """Raise ValueError for a layer that may do something else than all others of its class."""
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise _refused(layer, path, "has hooks, which may change its values; remove them", "or ")
    replaced = [name for name in vars(layer) if callable(getattr(type(layer), name, None))]
    if replaced:
        raise _refused(
            layer, path, f"has its {replaced[0]} replaced; put that of its class back", "or "
        )


def runs_as(network: nn.Module, base: type[nn.Module]) -> bool:
    """Whether calling a network is left to one of its base classes."""
    names = ("__call__", "__iter__", "forward")  # a Sequential goes through its layers by iterating
    return all(getattr(type(network), name, None) is getattr(base, name, None) for name in names)


def _with_statistics(layer: Normalization, path: str) -> Normalization:
    if layer.running_mean is None or layer.running_var is None:
        raise _refused(layer, path, "normalizes by the statistics of the batch, not running ones")
    return layer


def _with_channels(layer: nn.Module, path: str, patch: Patch, channels: int) -> Patch:
    if patch.channels not in {None, channels}:
        raise ValueError(
            f"{_name(layer, path)} takes {channels} channels, but {patch.channels} come to it; "
            "mend the network"
        )
    return patch.knowing(channels)


def _with_features(layer: nn.Module, path: str, patch: Patch, features: int) -> Patch:
    cells = math.prod(patch.width)
    channels = patch.channels if patch.channels is not None else features // cells
    if channels * cells != features or not channels:
        known = "any number of" if patch.channels is None else patch.channels
        raise ValueError(
            f"receptive_field does not fit: {_name(layer, path)} takes {features} features, but "
            f"{known} channels of {in_words(patch.width)} cells come to it; give the width the "
            "network was made for"
        )
    return patch.knowing(channels)


def _refused(layer: nn.Module, path: str, reason: str, conjunction: str = "") -> ValueError:
    return ValueError(f"{_name(layer, path)} {reason}; {conjunction}predict it patch by patch")


def _name(layer: nn.Module, path: str) -> str:
    return f"{path or 'network'} ({type(layer).__name__})"


def in_words(cells: Cells3) -> str:
    """Return cells along the axes for people."""
    return " by ".join(map(str, cells))


def _product(a: Cells3, b: Cells3) -> Cells3:
    return cells3(m * n for m, n in zip(a, b, strict=True))


def _extent(kernel: Cells3, dilation: Cells3) -> Cells3:
    return cells3((n - 1) * step + 1 for n, step in zip(kernel, dilation, strict=True))
