"""What networks take: bytes of their widest layer, and how much fits a memory."""

import subprocess
import sys

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
    assert layer_bytes(Residual(2, width=6, head_widths=[9]), 10) == 4 * 4 * 9 * 10**3
    assert layer_bytes(Pointwise(channels=14, widths=[3]), 10) == 4 * 4 * 14 * 10**3
    padded = TwoBranch(4, block_channels=(7,), head_widths=[64])  # its head sees no cells
    assert layer_bytes(padded, 9) == 4 * 4 * 7 * 9**3
    valid = TwoBranch(4, padding=False, block_channels=(7,), kernel=3, head_dropout_widths=[64])
    assert layer_bytes(valid, 9) == 4 * 4 * 64 * 9**3


MEASURE = """
import re
import torch
from ionmodel.dense import dense_form
from ionmodel.network_memory import tile_bytes
from ionmodel.networks.pointwise import Pointwise
from ionmodel.networks.residual import Residual
from ionmodel.networks.two_branch import TwoBranch

def resident(name):
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(name + r":\\s*(\\d+) kB", status.read())[1])

torch.set_num_threads(1)
network = {network}.eval()
form = dense_form(network)
with torch.no_grad():
    form(torch.randn(1, network.channels, *3 * (network.receptive_field + 7,)))
    x = torch.randn(1, network.channels, *3 * (network.receptive_field + 63,))
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # the peak is from now on
    form(x)
print(resident("VmHWM") - before, tile_bytes(network, 64))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are counted by Linux")
@pytest.mark.parametrize(
    "network",
    [
        "Residual(2, channels=14)",
        "Pointwise(channels=14, widths=[64, 64])",
        "TwoBranch(5, channels=6, block_channels=[32], kernel=3, padding=False, "
        "head_dropout_widths=[], head_widths=[8])",
    ],
)
def test_no_tile_takes_more_than_is_said(network: str) -> None:
    code = MEASURE.format(network=network)
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    measured, said = map(int, shown.stdout.split())
    assert said / 3 < measured < said


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
