"""Measure what the symmetries of the cube cost, applied while cutting or to what was cut.

Random cells of a box of two float32 fields, each under a random one of 48 symmetries:

- plain          no symmetry
- while_cutting  `ionstore.loading.gather.gather_neighborhoods` with ``symmetries``
- afterwards     cut, then each sample flipped and transposed into the batch by NumPy

    python benchmarks/symmetry_throughput.py --mesh 300 --radius 24 --radius 12 --radius 4
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from result import median_and_spread, print_result

from ionstore.loading.gather import gather_neighborhoods
from ionstore.sampling.symmetry import N_SYMMETRIES, transformed

BATCH_BYTES, MOST_SAMPLES, N_BATCHES = 32e6, 1024, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mesh", type=int, default=300)
    parser.add_argument("--radius", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    fields = np.random.default_rng(0).random((2, *(arguments.mesh,) * 3), dtype=np.float32)
    for radius in arguments.radius or [24, 12, 4]:
        measure(fields, radius, arguments.rounds)


def measure(fields: np.ndarray, radius: int, rounds: int) -> None:
    width = 2 * radius + 1
    n = max(1, min(MOST_SAMPLES, int(BATCH_BYTES / (8 * width**3))))
    rng = np.random.default_rng(radius)
    batches = [
        (rng.integers(0, fields.shape[1], (n, 3)), rng.integers(0, N_SYMMETRIES, n))
        for _ in range(N_BATCHES)
    ]
    cut = np.empty((n, 2, width, width, width), np.float32)
    out = np.empty_like(cut)

    def plain(centers: np.ndarray, symmetries: np.ndarray) -> np.ndarray:
        return gather_neighborhoods(fields, centers, radius, out=out)

    def while_cutting(centers: np.ndarray, symmetries: np.ndarray) -> np.ndarray:
        return gather_neighborhoods(fields, centers, radius, symmetries=symmetries, out=out)

    def afterwards(centers: np.ndarray, symmetries: np.ndarray) -> np.ndarray:
        gather_neighborhoods(fields, centers, radius, out=cut)
        for sample, image, symmetry in zip(cut, out, symmetries.tolist(), strict=True):
            image[...] = transformed(sample, symmetry)
        return out

    expected = while_cutting(*batches[0]).copy()
    np.testing.assert_array_equal(afterwards(*batches[0]), expected)
    contestants: dict[str, Callable[..., np.ndarray]] = {
        "plain": plain,
        "while_cutting": while_cutting,
        "afterwards": afterwards,
    }
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, way in contestants.items():
            began = time.perf_counter()
            for batch in batches:
                way(*batch)
            rates[name].append(N_BATCHES * n / (time.perf_counter() - began))
    medians = {name: median_and_spread(values) for name, values in rates.items()}
    print_result(
        f"r = {radius}",
        mesh=fields.shape[1],
        rounds=rounds,
        samples_per_s={name: round(median) for name, (median, _) in medians.items()},
        spread={name: round(spread) for name, (_, spread) in medians.items()},
        while_cutting_relative_to={
            name: round(medians["while_cutting"][0] / medians[name][0], 2)
            for name in ("plain", "afterwards")
        },
    )


if __name__ == "__main__":
    main()
