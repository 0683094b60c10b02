"""What networks take: bytes of their widest layer, and how much fits a memory."""

import pytest

from ionmodel.network_memory import (
    largest_tile,
    layer_bytes,
    patches_at_once,
    tile_bytes,
)
from ionmodel.networks.pointwise import Pointwise
from ionmodel.networks.residual import Residual
from ionmodel.networks.two_branch import TwoBranch


def test_the_widest_layer_counts() -> None:
    assert layer_bytes(Residual(2, width=6, head_widths=[9]), 10) == 3 * 4 * 9 * 10**3
    assert layer_bytes(Pointwise(channels=14, widths=[3]), 10) == 3 * 4 * 14 * 10**3
    padded = TwoBranch(4, block_channels=(7,), head_widths=[64])  # its head sees no cells
    assert layer_bytes(padded, 9) == 3 * 4 * 7 * 9**3
    valid = TwoBranch(4, padding=False, block_channels=(7,), kernel=3, head_widths=[64])
    assert layer_bytes(valid, 9) == 3 * 4 * max(64, *valid_widths(valid)) * 9**3


def valid_widths(network: TwoBranch) -> list[int]:
    return [layer.out_features for layer in network.head if hasattr(layer, "out_features")]


@pytest.mark.parametrize("side", [8, 32, 64])
def test_the_largest_tile_that_fits_is_taken(side: int) -> None:
    network = Residual(3, width=5)
    assert largest_tile(network, tile_bytes(network, side)) == side
    smaller = largest_tile(network, tile_bytes(network, side) - 1)
    assert smaller == (None if side == 8 else side - 8)


def test_no_more_neighborhoods_at_once_than_fit() -> None:
    assert patches_at_once(TwoBranch(2, block_channels=(3,), kernel=3)) == 256
    wide = TwoBranch(24)  # 128 features of 49³ cells
    assert patches_at_once(wide) == 1
    assert tile_bytes(wide, 64) == tile_bytes(wide, 8) == layer_bytes(wide, 49)
