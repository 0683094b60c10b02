"""Measure ways to run dilated 3³ convolutions: one layer of a dense network, both passes.

- plain          as torch does it: float32, channels first
- channels-last  the same in the memory format ``channels_last_3d``
- fragments      undilated convolutions of the ``dilation³`` interleaved sub-lattices, each as one
                 sample of a batch (space to batch), copies there and back included
- bf16           in bfloat16 by autocast, channels last
- matmul         the limit: a product of two large matrices in float32

All ways are checked to give the same numbers (bf16: to its precision), rounds are interleaved.

    python benchmarks/convolution.py
"""

import argparse
import time
from collections.abc import Callable

import torch
from result import median_and_spread, print_result
from torch import Tensor, nn
from torch.nn import functional

LAYERS = ((1, 32, 8, 8), (1, 32, 24, 4), (3, 32, 24, 4), (9, 32, 24, 4))
"""Dilation, channels, cells of a tile's side in the output, tiles a batch."""
MATRIX = 2048

Way = Callable[[nn.Conv3d, Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    for dilation, channels, tile, n_tiles in LAYERS:
        measure(dilation, channels, tile, n_tiles, rounds)


def measure(dilation: int, channels: int, tile: int, n_tiles: int, rounds: int) -> None:
    torch.manual_seed(1)
    layer = nn.Conv3d(channels, channels, 3, dilation=dilation)
    x = torch.randn(n_tiles, channels, *(tile + 2 * dilation,) * 3, requires_grad=True)
    steps = {name: make_step(way, layer, x) for name, way in WAYS.items()}
    expected = WAYS["plain"](layer, x)
    for name, way in WAYS.items():
        tolerance = 0.03 if name == "bf16" else 1e-4
        torch.testing.assert_close(way(layer, x).float(), expected, atol=tolerance, rtol=tolerance)
    one, other = torch.randn(2, MATRIX, MATRIX)
    steps["matmul"] = lambda: one @ other
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):  # the first one is left out
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - began)
    operations = 3 * 2 * 27 * channels**2 * n_tiles * tile**3
    rates = {}
    for name, values in seconds.items():
        median, _ = median_and_spread(values[1:])
        rates[name] = (2 * MATRIX**3 if name == "matmul" else operations) / median / 1e9
    print_result(
        "convolution",
        dilation=dilation,
        channels=channels,
        tile=tile,
        tiles=n_tiles,
        gflop_per_s={name: round(rate, 1) for name, rate in rates.items()},
        relative_to_plain={
            name: round(rate / rates["plain"], 2) for name, rate in rates.items() if name in WAYS
        },
    )


def make_step(way: Way, layer: nn.Conv3d, x: Tensor) -> Callable[[], None]:
    def step() -> None:
        layer.zero_grad()
        x.grad = None
        way(layer, x).float().square().mean().backward()

    return step


def plain(layer: nn.Conv3d, x: Tensor) -> Tensor:
    return functional.conv3d(x, layer.weight, layer.bias, dilation=layer.dilation)


def channels_last(layer: nn.Conv3d, x: Tensor) -> Tensor:
    memory_format = torch.channels_last_3d
    weight = layer.weight.contiguous(memory_format=memory_format)
    x = x.contiguous(memory_format=memory_format)
    return functional.conv3d(x, weight, layer.bias, dilation=layer.dilation)


def bf16(layer: nn.Conv3d, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return channels_last(layer, x)


def fragments(layer: nn.Conv3d, x: Tensor) -> Tensor:
    step = layer.dilation[0]
    n, channels, width = x.shape[:3]
    tile = width - 2 * step
    short = -width % step
    x = functional.pad(x, (0, short) * 3)
    per_axis = x.shape[2] // step
    x = x.view(n, channels, *(per_axis, step) * 3).permute(0, 3, 5, 7, 1, 2, 4, 6)
    y = functional.conv3d(x.reshape(-1, channels, *(per_axis,) * 3), layer.weight, layer.bias)
    y = y.view(n, *(step,) * 3, -1, *(per_axis - 2,) * 3).permute(0, 4, 5, 1, 6, 2, 7, 3)
    side = (per_axis - 2) * step
    return y.reshape(n, -1, *(side,) * 3)[..., :tile, :tile, :tile]


WAYS: dict[str, Way] = {
    "plain": plain,
    "channels-last": channels_last,
    "fragments": fragments,
    "bf16": bf16,
}

if __name__ == "__main__":
    main()
