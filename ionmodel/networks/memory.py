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
_HEAP_BYTES = 2**25  # an array up to here may lie in the heap of glibc, a larger one never does


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
    no dense form. Of branches also the features of all fields. Half as much again where arrays lie
    in the heap, which keeps holes among them: up to 0.45 of what is counted was measured. Somewhat
    more than is measured, for ``--memory`` is a bound.
    """
    if not network.has_dense_form:
        return patches_at_once(network) * layer_bytes(network, network.receptive_field)
    widest = _widest(network)
    cells = (tile + network.receptive_field - 1) ** 3
    in_heap = min(cells, _HEAP_BYTES // (4 * widest))
    # The larger of the two, so that a larger tile never takes less than a smaller one.
    return 4 * _features_at_once(network) * max(cells, 3 * in_heap // 2)


def layer_bytes(network: PatchNetwork, width: int) -> int:
    """Return at most how many bytes the arrays of layers hold on a cube of so many cells a side."""
    return 4 * _features_at_once(network) * width**3


def _features_at_once(network: PatchNetwork) -> int:
    widest = _widest(network)
    at_once = _LAYERS_AT_ONCE * widest
    if isinstance(network, TwoBranch) and network.has_dense_form:
        # While a layer of the last branch works, the features of the other fields wait.
        of_branches = max(_convolved(network.branches))
        waiting = network.n_beside * (network.channels - 1) // network.channels
        at_once = max(at_once, waiting + _LAYERS_AT_ONCE * of_branches)
        # The features of all fields lie apart and side by side; then, with a copy of them, goes
        # what the head makes of them, and a copy of that.
        at_once = max(at_once, 2 * (network.n_beside + widest))
    return at_once


def _widest(network: PatchNetwork) -> int:
    features = [network.channels, *_convolved(network)]
    if network.has_dense_form:  # elsewhere linear layers see no cells
        linear = (layer for layer in network.modules() if isinstance(layer, nn.Linear))
        features += [layer.out_features for layer in linear]
    return max(features)


def _convolved(network: nn.Module) -> list[int]:
    return [layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv3d)]


def patches_at_once(network: PatchNetwork) -> int:
    """Return how many neighborhoods are predicted together where there is no dense form."""
    return max(1, min(_PATCHES, _PATCHES_BYTES // layer_bytes(network, network.receptive_field)))
