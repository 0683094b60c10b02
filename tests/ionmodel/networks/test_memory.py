"""What networks take: bytes of their widest layer, and how much fits a memory."""

import subprocess
import sys

import pytest

from ionmodel.networks.memory import largest_tile, layer_bytes, patches_at_once, tile_bytes
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


def test_features_of_all_fields_count() -> None:
    beside = TwoBranch(
        3, channels=8, padding=False, block_channels=(32,), kernel=3, head_dropout_widths=(64,)
    )
    assert layer_bytes(beside, 10) == 4 * 2 * (8 * 32 + 64) * 10**3
    waiting = TwoBranch(
        5, channels=6, padding=False, block_channels=(64, 8), kernel=3, head_dropout_widths=()
    )
    assert layer_bytes(waiting, 10) == 4 * (5 * 8 + 4 * 64) * 10**3


@pytest.mark.parametrize("width", [8, 64])
def test_no_tile_takes_less_than_a_smaller_one(width: int) -> None:
    said = [tile_bytes(Pointwise(widths=[width]), tile) for tile in range(8, 100)]
    assert said == sorted(said)
    assert said[0] == 3 * layer_bytes(Pointwise(widths=[width]), 8) // 2  # in the heap
    assert said[-1] == layer_bytes(Pointwise(widths=[width]), 99) or width == 8


def test_features_that_stay_in_the_heap_count() -> None:
    network = TwoBranch(
        3, channels=8, padding=False, block_channels=(32,), kernel=3, head_dropout_widths=(64,)
    )
    said = [tile_bytes(network, tile) for tile in range(8, 120)]
    assert said == sorted(said)
    # Those of all fields and as large holes, beside what the head takes.
    assert tile_bytes(network, 48) == 4 * (2 * (8 * 32 + 64) + 2 * 8 * 32) * 54**3
    assert said[-1] == layer_bytes(network, 125)  # nothing lies in the heap at that size


MEASURE = """
import re
import torch
from ionmodel.dense import dense_form
from ionmodel.networks.memory import tile_bytes
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
    outputs = []
    for layer in form.modules():
        layer.register_forward_hook(lambda layer, given, out: outputs.append(out.nbytes))
    x = torch.randn(1, network.channels, *3 * (network.receptive_field + {tile} - 1,))
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")  # the peak is from now on
    for _ in range(3):  # what one tile leaves of the heap is not all of use to the next
        form(x)
print(max(outputs), resident("VmHWM") - before, tile_bytes(network, {tile}))
"""


# Slow: each peak is that of a new process, which imports torch.
@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are counted by Linux")
@pytest.mark.parametrize(
    ("network", "tile"),
    [
        ("Residual(2, channels=14)", 64),
        ("Pointwise(channels=14, widths=[64, 64])", 64),
        ("TwoBranch(3, block_channels=[64], kernel=3, padding=False, "
        "head_dropout_widths=[], head_widths=[8])", 32),
        ("TwoBranch(3, channels=8, block_channels=[32], kernel=3, padding=False, "
        "head_dropout_widths=[], head_widths=[64])", 48),
    ],
)  # fmt: skip
def test_no_tile_takes_more_than_is_said(network: str, tile: int) -> None:
    code = MEASURE.format(network=network, tile=tile)
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    largest, measured, said = map(int, shown.stdout.split())
    assert measured < said
    # Of the layers alone: how many copies a machine's oneDNN makes says nothing on the bound.
    assert said < 8 * largest


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
