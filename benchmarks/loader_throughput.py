"""Measure how fast batches reach a loop, against a stock torch DataLoader.

Every contestant delivers the same long epoch of batches, checked first. The clock starts after the
first two batches, so that starting up does not count.

- inline         `ionstore.loading.gather.gather_neighborhoods`, called in the loop
- inline_ring    the same, from shared memory into four shared batches in turn, as in the loader
- loader_0       `ionstore.loading.NeighborhoodLoader`, its background thread
- loader_1, _2   the same with one and two worker processes
- stock_0, _2    a torch DataLoader, with no and with two workers, that slices the padded box

The loop does nothing but take batches. The loader also reads the target and returns the cells; the
stock one does not. Rounds are interleaved; all workers are started by forkserver and live through
all rounds. One JSON line per radius.

    python benchmarks/loader_throughput.py --mesh 300 --radius 24 --radius 12 --radius 4
    python benchmarks/loader_throughput.py --store cubes.zarr
"""

import argparse
import itertools
import mmap
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from box import Box, stored_box, synthetic_box
from contest import N_DROPPED, N_TIMED, Case, Streaming, rates_of, summary
from contestants import streaming_loader
from result import print_result
from torch.utils.data import DataLoader, Dataset

from ionstore.cube.mesh import Array, Fields, Neighborhoods
from ionstore.loading.gather import gather_neighborhoods


class PaddedBox(Dataset[torch.Tensor]):
    """Slices of a padded box, as one writes them."""

    def __init__(self, padded: torch.Tensor, centers: Array, width: int) -> None:
        self.padded = padded
        self.centers = centers
        self.width = width

    def __len__(self) -> int:
        return len(self.centers)

    def __getitem__(self, index: int) -> torch.Tensor:
        i, j, k = self.centers[index].tolist()
        width = self.width
        return self.padded[:, i : i + width, j : j + width, k : k + width]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mesh", type=int, default=300, help="cells a side of a made-up box")
    parser.add_argument("--store", type=Path, help="a store to cut from instead")
    parser.add_argument("--radius", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as torch does in its workers
    with tempfile.TemporaryDirectory() as name:
        if arguments.store is None:
            box = synthetic_box(Path(name), arguments.mesh)
        else:
            box = stored_box(arguments.store)
        for radius in arguments.radius or [24, 12, 4]:
            measure(box, radius, arguments.rounds)


def measure(box: Box, radius: int, rounds: int) -> None:
    case = Case.of(box, radius, N_DROPPED + N_TIMED)
    padded = np.pad(box.fields, ((0, 0), *((radius,) * 2,) * 3), mode="wrap")
    contestants = {
        "inline": inline(case, box.fields, [case.out]),
        "inline_ring": inline(case, shared(box.fields), [shared(case.out) for _ in range(4)]),
        "loader_0": streaming_loader(case, 0),
        "loader_1": streaming_loader(case, 1),
        "loader_2": streaming_loader(case, 2),
        "stock_0": stock(case, torch.from_numpy(padded), 0),
        "stock_2": stock(case, torch.from_numpy(padded).share_memory_(), 2),
    }
    numbers = summary(rates_of(contestants, rounds))
    medians = numbers["samples_per_s"]
    pairs = [
        ("loader_0", "inline"),
        ("loader_0", "inline_ring"),
        ("loader_1", "inline"),
        ("loader_2", "inline"),
        ("loader_0", "stock_0"),
        ("loader_2", "stock_2"),
        ("stock_2", "inline"),
    ]
    print_result(
        f"r = {radius}",
        store=box.store.path.name,
        mesh=box.mesh,
        batch_size=case.n,
        batches=N_TIMED,
        rounds=rounds,
        **numbers,
        ratios={f"{a} / {b}": round(medians[a] / medians[b], 2) for a, b in pairs},
    )


def inline(case: Case, fields: Fields, batches: list[Neighborhoods]) -> Streaming:
    def epoch() -> Iterator[Array]:
        for centers, out in zip(case.batches, itertools.cycle(batches), strict=False):
            yield gather_neighborhoods(fields, centers, case.radius, out=out)

    return Streaming(case, epoch)


def shared(values: Array) -> Array:
    """Return a copy in shared memory, which has no huge pages where ordinary memory has them."""
    copy = np.ndarray(values.shape, values.dtype, buffer=mmap.mmap(-1, values.nbytes))
    copy[...] = values
    return copy


def stock(case: Case, padded: torch.Tensor, num_workers: int) -> Streaming:
    loader = DataLoader(
        PaddedBox(padded, case.batches.reshape(-1, 3), case.width),
        batch_size=case.n,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        multiprocessing_context="forkserver" if num_workers else None,
    )
    return Streaming(case, lambda: (batch.numpy() for batch in loader))


if __name__ == "__main__":
    main()
