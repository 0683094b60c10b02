"""Measure tiles against neighborhoods: the same network, its weights and its cells, both ways.

``train``: one step, forward and backward, of the default network at a radius, rounds interleaved;

- tile     a batch of tiles: every cell of them is a target
- patch    a batch of single neighborhoods
- matmul   the limit: a product of two large matrices, in operations a second

``predict``: a whole store by `predict_store`, decoding, encoding and read-back included, against a
sample of its cells predicted neighborhood by neighborhood; both are compared. Memory is the peak
of the process above what it was before.

    python benchmarks/dense.py train --radius 4 12
    python benchmarks/dense.py predict bench/box300.zarr --radius 4 12
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from result import median_and_spread, print_result
from torch.nn import functional

from ionmodel.config import make_config
from ionmodel.config_keys import read_preset
from ionmodel.networks.base import DenseNetwork, build_network, flops_per_sample
from ionmodel.predicted_store import predict_store, read_inputs
from ionmodel.prediction import Predictor
from ionstore.neighborhoods import gather_neighborhoods
from ionstore.normalize import fit_normalization
from ionstore.process_memory import PeakMemory
from ionstore.split import Region
from ionstore.store import CubeStore

MATRIX = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cases = parser.add_subparsers(dest="case", required=True)
    train = cases.add_parser("train")
    predict = cases.add_parser("predict")
    predict.add_argument("store", type=Path)
    for case in (train, predict):
        case.add_argument("--radius", type=int, nargs="+", default=[4, 12])
        case.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for radius in arguments.radius:
        network = default_network(radius)
        if arguments.case == "train":
            measure_training(network, radius, arguments.rounds)
        else:
            measure_prediction(network, radius, CubeStore.open(arguments.store), arguments.rounds)


def default_network(radius: int) -> DenseNetwork:
    """Return the default network at a radius, all of its weights random, as if trained."""
    config = make_config({**read_preset("dense"), "radius": radius})
    network = build_network(
        config.network, radius=radius, channels=2, seed=0, **config.network_options()
    )
    assert isinstance(network, DenseNetwork)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in network.parameters():
            weights.copy_(0.05 * torch.randn(weights.shape, generator=generator))
    return network


def measure_training(network: DenseNetwork, radius: int, rounds: int) -> None:
    preset = read_preset("dense")
    tile, n_tiles = preset["tile"], preset["batch_size"]
    n_patches = 64 if radius <= 4 else 4
    samples = {"tile": (n_tiles, tile), "patch": (n_patches, 1)}
    steps = {name: make_step(network, *sample) for name, sample in samples.items()}
    one, other = torch.randn(2, MATRIX, MATRIX)
    steps["matmul"] = lambda: one @ other
    seconds = interleaved(steps, rounds)
    cells = {name: n * side**3 for name, (n, side) in samples.items()}
    rate = {name: cells[name] / seconds[name][0] for name in cells}
    flops = {
        name: 3 * n * flops_per_sample(network, side) / seconds[name][0]
        for name, (n, side) in samples.items()
    }
    ceiling = 2 * MATRIX**3 / seconds["matmul"][0]
    print_result(
        "train",
        radius=radius,
        tile=tile,
        cells_per_s={name: round(value) for name, value in rate.items()},
        spread={name: round(spread / median, 2) for name, (median, spread) in seconds.items()},
        tile_relative_to_patch=round(rate["tile"] / rate["patch"], 1),
        gflop_per_s={name: round(value / 1e9) for name, value in flops.items()}
        | {"matmul": round(ceiling / 1e9)},
        share_of_matmul=round(flops["tile"] / ceiling, 3),
    )


def make_step(network: DenseNetwork, n: int, side: int) -> Callable[[], None]:
    width = side + network.receptive_field - 1
    x, target = torch.randn(n, 2, width, width, width), torch.rand(n, side, side, side)

    def step() -> None:
        logits = network(x, activate=False)
        network.zero_grad()
        functional.binary_cross_entropy_with_logits(logits, target).backward()

    return step


def interleaved(
    steps: dict[str, Callable[[], object]], rounds: int
) -> dict[str, tuple[float, float]]:
    """Return median and spread of the seconds of each step, the first round left out."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - began)
    return {name: median_and_spread(values[1:]) for name, values in seconds.items()}


def measure_prediction(network: DenseNetwork, radius: int, store: CubeStore, rounds: int) -> None:
    config = make_config({**read_preset("dense"), "radius": radius})
    everywhere = [Region((0, 0, 0), store.mesh.shape)]
    redshift = store.redshifts[0]
    normalization = fit_normalization([store], config.inputs, everywhere, redshifts=[redshift])
    with tempfile.TemporaryDirectory(dir=store.path.parent) as name:
        checkpoint = Path(name, "best.pt")
        checkpoint.write_bytes(b"random weights")
        predictor = Predictor(
            config, normalization, network.eval(), torch.device("cpu"), checkpoint, None
        )
        target = Path(name, "predicted.zarr")
        seconds: dict[str, list[float]] = {"store": [], "patches": []}
        rng = np.random.default_rng(0)
        n_patches = 2048 if radius <= 4 else 128
        block = read_inputs(predictor, store, redshift, (0, 0, 0), (64, 64, 64))
        with PeakMemory() as before:
            time.sleep(0.3)
        with PeakMemory() as peak:
            for _ in range(rounds):
                began = time.perf_counter()
                predict_store(predictor, store, target, redshifts=[redshift], overwrite=True)
                seconds["store"].append(time.perf_counter() - began)
                cells = rng.integers(0, 64, (n_patches, 3))
                began = time.perf_counter()
                with torch.inference_mode():
                    patches = gather_neighborhoods(block, cells + radius, radius)
                    alone = network(torch.from_numpy(patches)).flatten().numpy()
                seconds["patches"].append(time.perf_counter() - began)
        found = CubeStore.open(target).read_block("xhii_predicted", redshift, (0,) * 3, (64,) * 3)
        np.testing.assert_allclose(found[tuple(cells.T)], alone, atol=1e-5)
    (whole, spread), (sample, _) = (median_and_spread(values) for values in seconds.values())
    n_cells = store.mesh.n_cells
    extrapolated = sample * n_cells / n_patches
    print_result(
        "predict",
        radius=radius,
        mesh=store.mesh.cells_per_side,
        seconds=round(whole, 1),
        spread=round(spread, 1),
        us_per_cell=round(1e6 * whole / n_cells, 2),
        patches_extrapolated_s=round(extrapolated),
        relative_to_patches=round(extrapolated / whole),
        peak_mb=round(peak.peak_bytes / 1e6),
        above_before_mb=round((peak.peak_bytes - before.peak_bytes) / 1e6),
    )


if __name__ == "__main__":
    main()
