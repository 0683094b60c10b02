"""Refuse layers that have no exact dense form, or do not fit the patch that reaches them."""

import math

from torch import nn

from ionmodel.dense.layers import BatchNorm
from ionmodel.dense.patch import Patch, in_words
from ionmodel.networks.base import Cells3


def need_cells(layer: nn.Module, path: str, patch: Patch) -> None:
    """Refuse a layer of cells if it comes after Flatten."""
    if patch.flat:
        raise refused(layer, path, "comes after Flatten, where no cells are left")


def need_features(layer: nn.Module, path: str, patch: Patch) -> None:
    """Refuse a layer of features if it comes before Flatten."""
    if not patch.flat:
        raise refused(layer, path, "is applied to cells; put a Flatten before it", "or ")


def need_room(layer: nn.Module, path: str, patch: Patch, extent: Cells3) -> None:
    """Refuse a window that is wider than the patch."""
    if any(cells < need for cells, need in zip(patch.width, extent, strict=True)):
        raise ValueError(
            f"receptive_field is too small: {_name(layer, path)} spans {in_words(extent)} cells "
            f"where {in_words(patch.width)} are left of a patch; give the width the network was "
            "made for"
        )


def refuse_padding(layer: nn.Module, path: str, padding: bool) -> None:
    """Refuse a layer that pads."""
    if padding:
        raise refused(
            layer,
            path,
            f"pads patches with cells that the box does not have (padding={layer.padding!r})",
        )


def refuse_changes(layer: nn.Module, path: str) -> None:
    """Refuse a layer that may compute other values than its class does."""
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise refused(layer, path, "has hooks, which may change its values; remove them", "or ")
    # A method of the object itself hides that of its class, for which the rules are written.
    replaced = [name for name in vars(layer) if callable(getattr(type(layer), name, None))]
    if replaced:
        raise refused(
            layer, path, f"has its {replaced[0]} replaced; put that of its class back", "or "
        )


def with_statistics(layer: BatchNorm, path: str) -> BatchNorm:
    """Return a layer that has running statistics."""
    # Statistics of a batch differ between a tile and its patches, so no dense form is exact.
    if layer.running_mean is None or layer.running_var is None:
        raise refused(layer, path, "normalizes by the statistics of the batch, not running ones")
    return layer


def with_channels(layer: nn.Module, path: str, patch: Patch, channels: int) -> Patch:
    """Return the patch with the channels that a layer takes."""
    if patch.channels not in {None, channels}:
        raise ValueError(
            f"{_name(layer, path)} takes {channels} channels, but {patch.channels} come to it; "
            "fix the network"
        )
    return patch.knowing(channels)


def with_features(layer: nn.Module, path: str, patch: Patch, features: int) -> Patch:
    """Return the patch with the channels that follow from a layer's features."""
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


def refused(layer: nn.Module, path: str, reason: str, conjunction: str = "") -> ValueError:
    """Return the error for a layer."""
    # Prediction patch by patch always works, so every message names it as the way out.
    return ValueError(f"{_name(layer, path)} {reason}; {conjunction}predict it patch by patch")


def _name(layer: nn.Module, path: str) -> str:
    return f"{path or 'network'} ({type(layer).__name__})"
