"""How much memory a network takes to predict, and what it predicts at once within a memory."""

from torch import nn

from ionmodel.networks.base import PatchNetwork
from ionmodel.networks.two_branch import TwoBranch

TILE_CELLS = 64
"""Cells along a side of what a dense network predicts at once: larger tiles gain little."""
SMALLEST_TILE = 8
"""Cells along a side of the least that is worth it."""

_PATCHES = 256
_PATCHES_BYTES = 2**28  # that the layers of neighborhoods predicted at once may take
_LAYERS_AT_ONCE = 4  # input and output of a layer, what is added, a copy in the order of oneDNN


def largest_tile(network: PatchNetwork, memory_bytes: int) -> int | None:
    """Return the side of the largest tiles that fit a memory; None if none do.

    Parameters
    ----------
    network : PatchNetwork
        The network.
    memory_bytes : int
        Bytes that its layers may take.

    Returns
    -------
    int or None
        At most `TILE_CELLS`.
    """
    sides = range(TILE_CELLS, SMALLEST_TILE - 1, -8)
    return next((side for side in sides if tile_bytes(network, side) <= memory_bytes), None)


def tile_bytes(network: PatchNetwork, tile: int) -> int:
    """Return about how many bytes the layers of a network take for what is predicted at once.

    Notes
    -----
    Its widest layer, four times: its input, its output, what is added to that, and a copy in the
    order of oneDNN; of one tile, or of the neighborhoods that are predicted together where there is
    no dense form. Somewhat more than is measured, for ``--memory`` is a bound.
    """
    if not network.has_dense_form:
        return patches_at_once(network) * layer_bytes(network, network.receptive_field)
    return layer_bytes(network, tile + network.receptive_field - 1)


def layer_bytes(network: PatchNetwork, width: int) -> int:
    """Return at most how many bytes layers take at a time on a cube of so many cells a side."""
    features = [network.channels]
    for layer in network.modules():
        if isinstance(layer, nn.Conv3d):
            features.append(layer.out_channels)
        elif isinstance(layer, nn.Linear) and network.has_dense_form:
            features.append(layer.out_features)
    at_once = _LAYERS_AT_ONCE * max(features)
    if isinstance(network, TwoBranch) and network.has_dense_form:
        # The features of all fields lie apart, and side by side, before the head joins them.
        at_once = max(at_once, 2 * network.n_beside + max(features))
    return 4 * at_once * width**3


def patches_at_once(network: PatchNetwork) -> int:
    """Return how many neighborhoods are predicted together where there is no dense form."""
    return max(1, min(_PATCHES, _PATCHES_BYTES // layer_bytes(network, network.receptive_field)))
