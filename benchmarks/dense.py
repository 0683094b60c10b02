"""Measure tiles against neighborhoods: the same network, its weights and its cells, both ways.

The network is the one of the preset ``dense`` (``--radius default``: its own radius and tiles, and
means over balls among its inputs), or of another radius without means, on tiles of 48³ cells.

``train``: one step, forward and backward, rounds interleaved;

- tile     a batch of tiles: every cell of them is a target
- patch    a batch of single neighborhoods
- cnn      a batch of single neighborhoods of the same radius, by the network of 2021: blocks of 16
           and 32 channels, kernels of 5 cells, the same weights for both fields
- matmul   the limit: a product of two large matrices

Operations are those that the step executes, two for each multiply-add, forward and backward; a
first layer computes no gradients of its input.

``predict``: a whole store by `predict_store`, means over balls, decoding, encoding and read-back
included, against a sample of its cells predicted neighborhood by neighborhood; the two are the same
within 1e-5 of the spread of the predictions. The network of 2021 predicts neighborhoods of the same
radius, too. Memory is the peak of the process.

    python benchmarks/dense.py train --radius default 4 12
    python benchmarks/dense.py predict bench/box300.zarr --radius default 4 12
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accuracy import NETWORK_OF_2021
from result import median_and_spread, print_result
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from ioncli.process_memory import PeakMemory
from ionmodel.channels.cache import with_channels
from ionmodel.config.keys import read_preset
from ionmodel.config.training_config import TrainingConfig, make_config
from ionmodel.networks.base import DenseNetwork, PatchNetwork
from ionmodel.prediction.predictor import Predictor
from ionmodel.prediction.store import predict_store, read_inputs
from ionmodel.runs.network import network_of
from ionstore.cube.mesh import Region
from ionstore.loading.gather import gather_neighborhoods
from ionstore.storage.digest import in_words, start_digest
from ionstore.store.cube_store import CubeStore
from ionstore.store.normalization import fit_normalization

MATRIX = 2048
LARGE_TILES = {"scales": "none", "tile": 48, "batch_size": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cases = parser.add_subparsers(dest="case", required=True)
    train = cases.add_parser("train")
    predict = cases.add_parser("predict")
    predict.add_argument("store", type=Path)
    for case in (train, predict):
        case.add_argument("--radius", nargs="+", default=["default", "4", "12"])
        case.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for radius in arguments.radius:
        changes = {} if radius == "default" else {"radius": int(radius), **LARGE_TILES}
        config = make_config({**read_preset("dense"), **changes})
        network = untrained(config)
        if arguments.case == "train":
            measure_training(network, config, arguments.rounds)
        else:
            measure_prediction(network, config, CubeStore.open(arguments.store), arguments.rounds)


def untrained(config: TrainingConfig) -> DenseNetwork:
    """Return the network of a configuration; layers that start at zero are drawn as the others."""
    network = network_of(config)
    assert isinstance(network, DenseNetwork)
    generator = torch.Generator().manual_seed(1)
    for weights in network.parameters():
        if weights.ndim > 1 and not weights.any():
            nn.init.kaiming_normal_(weights, generator=generator)
    return network


def network_of_2021(radius: int) -> PatchNetwork:
    """Return the network of 2021 for neighborhoods of a radius, at least 3."""
    return network_of(
        make_config({**read_preset("small"), **NETWORK_OF_2021, "radius": max(radius, 3)})
    )


def measure_training(network: DenseNetwork, config: TrainingConfig, rounds: int) -> None:
    assert config.tile is not None
    radius, tile = config.radius, config.tile
    n_patches = 64 if radius <= 4 else 4
    cnn = network_of_2021(radius)
    samples = {"tile": (config.batch_size, tile), "patch": (n_patches, 1), "cnn": (n_patches, 1)}
    steps = {
        name: make_step(cnn if name == "cnn" else network, *sample)
        for name, sample in samples.items()
    }
    one, other = torch.randn(2, MATRIX, MATRIX)
    steps["matmul"] = lambda: one @ other
    seconds = interleaved(steps, rounds)
    cells = {name: n * side**3 for name, (n, side) in samples.items()}
    rate = {name: cells[name] / seconds[name][0] for name in cells}
    flops = {name: executed_flops(step) / seconds[name][0] for name, step in steps.items()}
    print_result(
        "train",
        radius=radius,
        channels=config.n_channels,
        tile=tile,
        cells_per_s={name: round(value) for name, value in rate.items()},
        spread={name: round(spread / median, 2) for name, (median, spread) in seconds.items()},
        tile_relative_to_patch=round(rate["tile"] / rate["patch"], 1),
        tile_relative_to_cnn=round(rate["tile"] / rate["cnn"], 1),
        gflop_per_s={name: round(value / 1e9) for name, value in flops.items()},
        share_of_matmul=round(flops["tile"] / flops["matmul"], 3),
    )


def make_step(network: PatchNetwork, n: int, side: int) -> Callable[[], None]:
    width = side + network.receptive_field - 1
    x, target = torch.randn(n, network.channels, width, width, width), torch.rand(n * side**3)

    def step() -> None:
        logits = network(x, activate=False)
        network.zero_grad()
        functional.binary_cross_entropy_with_logits(logits.flatten(), target).backward()

    return step


def executed_flops(step: Callable[[], object]) -> int:
    """Count the operations of convolutions and products in a step, while it runs."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


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


def measure_prediction(
    network: DenseNetwork, config: TrainingConfig, store: CubeStore, rounds: int
) -> None:
    everywhere = [Region((0, 0, 0), store.mesh.shape)]
    radius, redshift = config.radius, store.redshifts[0]
    with tempfile.TemporaryDirectory(dir=store.path.parent) as name:
        joined = with_channels(
            store, config.derived_channels, Path(name, "joined"), redshifts=[redshift]
        )
        normalization = fit_normalization(
            [joined], config.channel_names, everywhere, redshifts=[redshift]
        )
        checkpoint = Path(name, "best.pt")
        weights = b"weights as initialized"
        checkpoint.write_bytes(weights)
        digest = start_digest()
        digest.update(weights)
        predictor = Predictor(
            config,
            normalization,
            network.eval(),
            torch.device("cpu"),
            checkpoint,
            len(weights),
            in_words(digest),
            None,
        )
        target = Path(name, "predicted.zarr")
        cnn = network_of_2021(radius).eval()
        random_patches = torch.randn(128, cnn.channels, *(cnn.receptive_field,) * 3)
        seconds: dict[str, list[float]] = {"store": [], "patches": [], "cnn": []}
        rng = np.random.default_rng(0)
        n_patches = 2048 if radius <= 4 else 128
        block = read_inputs(predictor, joined, redshift, (0, 0, 0), (64, 64, 64))
        gather_neighborhoods(block, np.full((1, 3), radius), radius)  # compiled before it is timed
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
                began = time.perf_counter()
                with torch.inference_mode():
                    cnn(random_patches)
                seconds["cnn"].append(time.perf_counter() - began)
        found = CubeStore.open(target).read_block("xhii_predicted", redshift, (0,) * 3, (64,) * 3)
        difference = np.abs(found[tuple(cells.T)] - alone).max() / alone.std()
        assert difference < 1e-5, difference
    (whole, spread), (sample, _), (of_cnn, _) = map(median_and_spread, seconds.values())
    n_cells = store.mesh.n_cells
    extrapolated = sample * n_cells / n_patches
    of_cnn_extrapolated = of_cnn * n_cells / len(random_patches)
    print_result(
        "predict",
        radius=radius,
        channels=config.n_channels,
        mesh=store.mesh.cells_per_side,
        seconds=round(whole, 1),
        spread=round(spread, 1),
        us_per_cell=round(1e6 * whole / n_cells, 2),
        patches_extrapolated_s=round(extrapolated),
        relative_to_patches=round(extrapolated / whole),
        relative_to_cnn=round(of_cnn_extrapolated / whole),
        difference_by_spread=float(f"{difference:.2g}"),
        peak_mb=round(peak.peak_bytes / 1e6),
        above_before_mb=round((peak.peak_bytes - before.peak_bytes) / 1e6),
    )


if __name__ == "__main__":
    main()
