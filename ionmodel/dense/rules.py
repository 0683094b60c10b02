"""Rules that turn each layer of a patch network into layers of its dense form."""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from ionmodel.dense.layers import (
    DenseBranches,
    DilatedConvolution,
    FixedBatchNorm,
    Unfold,
    triple,
)
from ionmodel.dense.patch import ONE, Patch, extent_of, product
from ionmodel.dense.refusals import (
    need_cells,
    need_features,
    need_room,
    refuse_changes,
    refuse_padding,
    refused,
    with_channels,
    with_features,
    with_statistics,
)
from ionmodel.networks.base import SlidingPooling
from ionmodel.networks.branches import ConvolutionBlock, FieldBranches

Module = TypeVar("Module", bound=nn.Module)

ELEMENTWISE = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh,
    nn.Identity, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU,
    nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold,
)  # fmt: skip
"""Layers that treat every value alike."""

DROPOUT = (nn.AlphaDropout, nn.Dropout, nn.Dropout3d, nn.FeatureAlphaDropout)
"""Layers that do nothing in evaluation."""

Converted = tuple[list[nn.Module], Patch]
"""Dense layers, and the patch after them."""


def convert(layer: nn.Module, path: str, patch: Patch) -> Converted:
    """Return the dense layers of a layer of a patch network, and the patch after it."""
    refuse_changes(layer, path)
    if isinstance(layer, nn.Sequential) and runs_as(layer, nn.Sequential):
        # Not named_children, which skips a layer that occurs a second time.
        return chain(layer._modules.items(), path, patch)
    # By the exact type, because a subclass may compute something else.
    rule = _RULES.get(type(layer))
    # Parametrizing a layer changes its class, so no rule is found for it.
    if rule is None and is_parametrized(layer):
        raise refused(
            layer,
            path,
            "has parametrized weights; put them in place with remove_parametrizations of "
            "torch.nn.utils.parametrize",
            "or ",
        )
    if rule is None:
        raise refused(layer, path, "is not a layer whose dense form is known")
    return rule(layer, path, patch)


def chain(stages: Iterable[tuple[str, nn.Module | None]], path: str, patch: Patch) -> Converted:
    """Convert layers that follow each other."""
    layers: list[nn.Module] = []
    for name, layer in stages:
        assert layer is not None
        converted, patch = convert(layer, f"{path}.{name}".strip("."), patch)
        layers += converted
    return layers, patch


def _convolution(layer: nn.Conv3d, path: str, patch: Patch) -> Converted:
    need_cells(layer, path, patch)
    kernel, dilation = triple(layer.kernel_size), triple(layer.dilation)
    extent = extent_of(kernel, dilation)
    if layer.padding == "same":
        padding = any(cells > 1 for cells in extent)
    else:
        padding = layer.padding != "valid" and any(triple(layer.padding))
    refuse_padding(layer, path, padding)
    patch = with_channels(layer, path, patch, layer.in_channels)
    need_room(layer, path, patch, extent)
    dense = DilatedConvolution(
        layer,
        (layer.out_channels, layer.in_channels // layer.groups, *kernel),
        product(dilation, patch.spacing),
        layer.groups,
    )
    after = patch.after_window(extent, triple(layer.stride))
    return [dense], replace(after, channels=layer.out_channels)


def _pooling(layer: nn.AvgPool3d | nn.MaxPool3d, path: str, patch: Patch) -> Converted:
    need_cells(layer, path, patch)
    kernel = triple(layer.kernel_size)
    dilation, divisor = ONE, None
    if isinstance(layer, nn.MaxPool3d):
        dilation = triple(layer.dilation)
        if layer.return_indices:
            raise refused(layer, path, "returns indices")
    else:
        # count_include_pad does not matter without padding.
        divisor = layer.divisor_override or math.prod(kernel)
    refuse_padding(layer, path, any(triple(layer.padding)))
    if layer.ceil_mode:
        raise refused(layer, path, "rounds widths up (ceil_mode), past the last cell of a patch")
    extent = extent_of(kernel, dilation)
    need_room(layer, path, patch, extent)
    dense = SlidingPooling(kernel, product(dilation, patch.spacing), divisor)
    return [dense], patch.after_window(extent, triple(layer.stride))


def _batch_norm_of_cells(layer: nn.BatchNorm3d, path: str, patch: Patch) -> Converted:
    need_cells(layer, path, patch)
    patch = with_channels(layer, path, patch, layer.num_features)
    return [FixedBatchNorm(with_statistics(layer, path))], patch


def _batch_norm_of_features(layer: nn.BatchNorm1d, path: str, patch: Patch) -> Converted:
    need_features(layer, path, patch)
    patch = with_features(layer, path, patch, layer.num_features)
    # Every place in a patch has statistics of its own here, so each needs features of its own.
    unfolded, patch = unfold(patch)
    return [*unfolded, FixedBatchNorm(with_statistics(layer, path))], patch


def _flatten(layer: nn.Flatten, path: str, patch: Patch) -> Converted:
    n_axes = 2 if patch.flat else 5
    if layer.start_dim not in {1, 1 - n_axes} or layer.end_dim not in {-1, n_axes - 1}:
        raise refused(
            layer,
            path,
            f"flattens axes {layer.start_dim} to {layer.end_dim}, not all but the batch",
        )
    return [], replace(patch, flat=True)


def _linear(layer: nn.Linear, path: str, patch: Patch) -> Converted:
    need_features(layer, path, patch)
    patch = with_features(layer, path, patch, layer.in_features)
    assert patch.channels is not None
    shape = (layer.out_features, patch.channels, *patch.width)
    return [DilatedConvolution(layer, shape, patch.spacing, 1)], patch.in_one_cell(
        layer.out_features
    )


def _dropout(layer: nn.Module, path: str, patch: Patch) -> Converted:
    return [], patch  # the identity in evaluation, the only mode of a dense form


def _elementwise(layer: nn.Module, path: str, patch: Patch) -> Converted:
    copied: Any = twin(layer)
    if getattr(copied, "inplace", False):
        copied.inplace = False  # a first layer would overwrite the caller's input
    return [copied], patch


def _parametric_relu(layer: nn.PReLU, path: str, patch: Patch) -> Converted:
    unfolded: list[nn.Module] = []
    if layer.num_parameters > 1 and patch.flat:
        patch = with_features(layer, path, patch, layer.num_parameters)
        unfolded, patch = unfold(patch)
    elif layer.num_parameters > 1:
        patch = with_channels(layer, path, patch, layer.num_parameters)
    return [*unfolded, twin(layer)], patch


def _field_branches(layer: FieldBranches, path: str, patch: Patch) -> Converted:
    need_cells(layer, path, patch)
    patch = with_channels(layer, path, patch, layer.channels)
    single = replace(patch, channels=1)
    ends = []
    branches = []
    for channel in range(layer.channels):
        name = str(channel % len(layer))
        layers, end = chain([(name, layer.branch_of(channel))], path, single)
        branches.append(nn.Sequential(*layers))
        ends.append(end)
    # The branches are concatenated, so their features must be those of the same cells.
    if any(replace(end, channels=0) != replace(ends[0], channels=0) for end in ends):
        raise refused(layer, path, "has branches of different strides or widths")
    assert all(end.channels is not None for end in ends)
    channels = sum(end.channels or 0 for end in ends)
    return [DenseBranches(branches)], replace(ends[0], channels=channels)


def _convolution_block(layer: ConvolutionBlock, path: str, patch: Patch) -> Converted:
    return chain((("conv", layer.conv), ("norm", layer.norm), ("tail", layer.tail)), path, patch)


_RULES: dict[type[nn.Module], Callable[[Any, str, Patch], Converted]] = {
    nn.AvgPool3d: _pooling,
    nn.BatchNorm1d: _batch_norm_of_features,
    nn.BatchNorm3d: _batch_norm_of_cells,
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
    """Return a layer that gathers all features of a patch in each cell, if one is needed."""
    if patch.width == ONE:
        return [], patch
    if patch.channels is None:  # no layer has weights, from which channels would follow
        raise ValueError("network must have a layer with weights, or end in a single cell")
    features = patch.channels * math.prod(patch.width)
    return [Unfold(patch.width, patch.spacing)], patch.in_one_cell(features)


def twin(module: Module) -> Module:
    """Copy a module but share its parameters and buffers."""
    # A copy, because a dense form stays in evaluation mode while the network may train.
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def runs_as(network: nn.Module, base: type[nn.Module]) -> bool:
    """Tell if a network is called just as its base class is."""
    names = ("__call__", "__iter__", "forward")  # a Sequential goes through its layers by iterating
    return all(getattr(type(network), name, None) is getattr(base, name, None) for name in names)
