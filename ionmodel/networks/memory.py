"""Memory that a network needs to predict, and the largest tile that fits a bound."""

from torch import nn

from ionmodel.networks.base import PatchNetwork
from ionmodel.networks.two_branch import TwoBranch

TILE_CELLS = 64
"""Cells along a side of the tiles of a dense network; larger ones gain little."""
SMALLEST_TILE = 8
"""Cells along a side of the smallest tile that is worth its halo."""

_PATCHES = 256
_PATCHES_BYTES = 2**28  # bound on the layers of the neighborhoods that are predicted together
# The input of a layer, its output, the shortcut that is added, and a copy in the order of oneDNN.
_LAYERS_AT_ONCE = 4
_HEAP_BYTES = 2**25  # an array up to here may lie in the heap of glibc, a larger one never does


def largest_tile(network: PatchNetwork, memory_bytes: int) -> int | None:
    """Return the side of the largest tiles that fit a bound; None if none do."""
    sides = range(TILE_CELLS, SMALLEST_TILE - 1, -8)
    return next((side for side in sides if tile_bytes(network, side) <= memory_bytes), None)


def tile_bytes(network: PatchNetwork, tile: int) -> int:
    """Return a bound on the bytes of layers while one tile, or one set of patches, is predicted."""
    if not network.has_dense_form:
        return patches_at_once(network) * layer_bytes(network, network.receptive_field)
    cells = (tile + network.receptive_field - 1) ** 3
    at_once = _features_at_once(network)
    # The heap keeps holes among arrays: up to 0.45 of the counted bytes were measured, so half as
    # much again is added there. Better too much than too little, because --memory is a bound.
    in_heap = min(cells, _HEAP_BYTES // (4 * _widest(network)))
    # The largest of all, so that a larger tile never takes less than a smaller one.
    values = at_once * max(cells, 3 * in_heap // 2)
    if isinstance(network, TwoBranch):
        # Arrays of single branches may still lie in the heap where those of the head do not. The
        # heap is not always given back before the head works: then the features of the fields,
        # and holes as large that layers left between them, add to what the head takes.
        in_heap = min(cells, _HEAP_BYTES // (4 * max(_convolved(network.branches))))
        values = max(values, (at_once + 2 * network.n_beside) * in_heap)
    return 4 * values


def layer_bytes(network: PatchNetwork, width: int) -> int:
    """Return a bound on the bytes of the arrays of layers, on a cube of some width in cells."""
    return 4 * _features_at_once(network) * width**3


def _features_at_once(network: PatchNetwork) -> int:
    widest = _widest(network)
    at_once = _LAYERS_AT_ONCE * widest
    if isinstance(network, TwoBranch) and network.has_dense_form:
        # While a layer of the last branch works, the features of the other fields are kept.
        of_branches = max(_convolved(network.branches))
        waiting = network.n_beside * (network.channels - 1) // network.channels
        at_once = max(at_once, waiting + _LAYERS_AT_ONCE * of_branches)
        # Then all features exist twice, apart and side by side; later side by side with a copy,
        # beside the output of the head and a copy of that.
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
    """Return how many neighborhoods are predicted together without a dense form."""
    return max(1, min(_PATCHES, _PATCHES_BYTES // layer_bytes(network, network.receptive_field)))
