"""Measure batches on a device: cut there, or cut by the CPU and copied.

Batches of random neighborhoods, batch in hand on the device, 20 at a time in the middle of an
epoch; all ways give the same batches, which is checked:

- on_device  `NeighborhoodLoader(device=…)`: fields live on the device
- pinned     the background thread, page-locked copies, then ``batch.to(device)`` (CUDA only)
- copied     the background thread, then ``batch.to(device)``

    python benchmarks/device_throughput.py bench/box300.zarr --device cuda
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from result import median_and_spread, print_result

from ionstore.loading.loaders import Batch, NeighborhoodLoader

BATCH_BYTES, MOST_SAMPLES, N_DROPPED, N_TIMED = 32e6, 1024, 5, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--radius", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    for radius in arguments.radius or [24, 12, 4]:
        measure(arguments.store, device, radius, arguments.rounds)


def measure(store: Path, device: torch.device, radius: int, rounds: int) -> None:
    sample_bytes = 8 * (2 * radius + 1) ** 3
    batch_size = max(1, min(MOST_SAMPLES, int(BATCH_BYTES / sample_bytes)))
    settings = {"radius": radius, "batch_size": batch_size}
    loaders = {
        "on_device": NeighborhoodLoader(store, **settings, device=device),
        "copied": NeighborhoodLoader(store, **settings),
    }
    if device.type == "cuda":
        loaders["pinned"] = NeighborhoodLoader(store, **settings, pin_memory=True)

    def batches(name: str, n: int) -> list[Batch]:
        loaders[name].position = 0
        return [batch.to(device) for batch in itertools.islice(loaders[name], n)]

    expected = batches("copied", 2)
    for name in loaders:
        for batch, other in zip(batches(name, 2), expected, strict=True):
            np.testing.assert_array_equal(batch.inputs.cpu(), other.inputs.cpu())
            np.testing.assert_array_equal(batch.target.cpu(), other.target.cpu())
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(rounds):
        for name, loader in loaders.items():
            loader.position = 0
            iteration = iter(loader)
            for number in range(N_DROPPED + N_TIMED):
                if number == N_DROPPED:
                    wait(device)
                    began = time.perf_counter()
                next(iteration).to(device)
            wait(device)
            rates[name].append(N_TIMED * batch_size / (time.perf_counter() - began))
    for loader in loaders.values():
        loader.close()
    medians = {name: median_and_spread(values) for name, values in rates.items()}
    print_result(
        f"r = {radius}",
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        batch_size=batch_size,
        rounds=rounds,
        samples_per_s={name: round(median) for name, (median, _) in medians.items()},
        spread={name: round(spread) for name, (_, spread) in medians.items()},
        on_device_relative_to={
            name: round(medians["on_device"][0] / medians[name][0], 2)
            for name in loaders
            if name != "on_device"
        },
    )


def wait(device: torch.device) -> None:
    """Wait until the device has done everything that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
