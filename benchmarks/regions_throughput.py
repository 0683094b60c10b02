"""Measure how fast neighborhoods come out of a box that does not fit the memory budget.

All get the same budget for decoded data and batches, and deliver C-contiguous float32 batches of
at most 16 MB: neighborhoods in two fields, and the target at their centers. A batch of each, as it
is delivered in the rounds, is checked against what zarr-python reads.

- regions             `ionstore.loading.NeighborhoodLoader`, background thread
- tensorstore_random  TensorStore with a cache of the budget, uniformly random centers
- tensorstore_order   the same, fed the centers in the order of regions
- tensorstore_blocks  TensorStore reads each opened region's block at once, NumPy slices it
- c_memcpy            the limit: batches that are there already, copied in C

Rounds are interleaved. What the loader prepared while others ran, batches and open regions, is used
up before its clock starts.

    ionstore simulate bench/box256 --mesh 256 --box-length 609
    python benchmarks/tiled_store.py bench/box256 bench/box768.zarr --times 3
    python benchmarks/regions_throughput.py bench/box768.zarr --radius 24 --radius 12 --radius 4
"""

import argparse
import ctypes
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from contestants import compiled, pointer
from result import median_and_spread, print_result

from ionstore.cube.mesh import Array, Cells, Neighborhoods
from ionstore.loading.loaders import NeighborhoodLoader
from ionstore.store.cube_store import CubeStore

BATCH_BYTES, MOST_SAMPLES = 16e6, 1024
NAMES, TARGET = ("n_igm", "n_src"), "xhii"
N_LANES = 8
ROUND_S = 0.7


@dataclass(frozen=True, slots=True, eq=False)
class Delivered:
    """A contestant's batch: centers, their neighborhoods, and the target there."""

    centers: Cells
    inputs: Neighborhoods
    target: Array


class TensorStoreFields:
    """Both fields as TensorStore opens them, with a cache of a size."""

    def __init__(self, store: CubeStore, cache_bytes: int) -> None:
        import tensorstore as ts

        context = ts.Context({"cache_pool": {"total_bytes_limit": cache_bytes}})
        self.mesh = store.mesh.cells_per_side
        self.arrays = [
            ts.open(
                {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store.path / name)}},
                read=True,
                context=context,
                recheck_cached=False,  # otherwise every read looks at the file
            ).result()[0]
            for name in NAMES
        ]
        self.target = ts.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store.path / TARGET)}},
            read=True,
            context=context,
            recheck_cached=False,
        ).result()[0]
        self._both = ts.stack([ts.cast(array, ts.float32) for array in self.arrays])
        self._array = ts.array

    def read(self, starts: Cells, out: Array) -> None:
        """Fill ``out``, shape (n, 2, a, b, c), with periodic blocks; all are under way at once."""
        copies = []
        for start, target in zip(starts.tolist(), out, strict=True):
            axes = [
                periodic_pieces(first, length, self.mesh)
                for first, length in zip(start, target.shape[1:], strict=True)
            ]
            place = self._array(target)
            for pieces in itertools.product(*axes):
                there, here = zip(*pieces, strict=True)
                copies.append(place[(slice(None), *here)].write(self._both[(slice(None), *there)]))
        for copy in copies:
            copy.result()

    def read_targets(self, centers: Cells) -> Array:
        """Return the target at cells."""
        i, j, k = (centers % self.mesh).T
        return np.asarray(self.target.vindex[i, j, k].read().result())


def periodic_pieces(first: int, length: int, mesh: int) -> list[tuple[slice, slice]]:
    """Return (slice of the mesh, slice of the block) pairs along one axis."""
    pieces, done = [], 0
    while done < length:
        cell = (first + done) % mesh
        cells = min(length - done, mesh - cell)
        pieces.append((slice(cell, cell + cells), slice(done, done + cells)))
        done += cells
    return pieces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--radius", type=int, action="append")
    parser.add_argument("--budget-mb", type=float, default=256)
    parser.add_argument("--samples-per-opening", type=int, default=256)
    parser.add_argument(
        "--core",
        type=int,
        help="most cells along a side of a core; by default, of those that the budget allows, the "
        "one that decodes least",
    )
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    store = CubeStore.open(arguments.store)
    with tempfile.TemporaryDirectory() as folder:
        for radius in arguments.radius or [24, 12, 4]:
            measure(store, radius, arguments, Path(folder))


class Contest:
    """Ways to the same neighborhoods: each method yields so many batches."""

    def __init__(
        self, store: CubeStore, radius: int, arguments: argparse.Namespace, folder: Path
    ) -> None:
        self.radius, self.width = radius, 2 * radius + 1
        self.sample_bytes = 4 * len(NAMES) * self.width**3
        self.batch_size = max(1, min(MOST_SAMPLES, int(BATCH_BYTES / self.sample_bytes)))
        self.out = np.empty((self.batch_size, len(NAMES), *(self.width,) * 3), np.float32)
        budget = int(arguments.budget_mb * 1e6)
        self.loader = NeighborhoodLoader(
            store,
            radius=radius,
            batch_size=self.batch_size,
            memory_budget=budget,
            samples_per_opening=arguments.samples_per_opening,
            core=arguments.core,
            n_lanes=N_LANES,
        )
        self._batches = iter(self.loader)
        self.cached = TensorStoreFields(store, budget - self.out.nbytes)
        self._plain = TensorStoreFields(store, 0)
        generator = np.random.default_rng(radius)
        self._random = generator.integers(0, self.cached.mesh, size=(10**5, 3))
        self._n_random = 0
        self._library = compiled(folder)
        self.source = np.random.default_rng(0).random(self.out.shape, dtype=np.float32)
        self._in_order = centers_in_order(self.loader)
        self._regions = openings(self.loader)

    def by_loader(self, n: int) -> Iterator[Delivered]:
        """Go on with the loader in regions, the same iteration in every round."""
        for batch in itertools.islice(self._batches, n):
            yield Delivered(batch.centers.numpy(), batch.inputs.numpy(), batch.target.numpy())

    def by_tensorstore_random(self, n: int) -> Iterator[Delivered]:
        """Read random cells by TensorStore, whose cache has the budget."""
        for _ in range(n):
            first = self._n_random % (len(self._random) - self.batch_size)
            self._n_random += self.batch_size
            centers = self._random[first : first + self.batch_size]
            self.cached.read(centers - self.radius, self.out)
            yield Delivered(centers, self.out, self.cached.read_targets(centers))

    def by_tensorstore_order(self, n: int) -> Iterator[Delivered]:
        """Read the cells of the loader's batches by TensorStore, whose cache has the budget."""
        for centers in itertools.islice(self._in_order, n):
            self.cached.read(centers - self.radius, self.out[: len(centers)])
            yield Delivered(centers, self.out[: len(centers)], self.cached.read_targets(centers))

    def by_tensorstore_blocks(self, n: int) -> Iterator[Delivered]:
        """Read the block of each region at once by TensorStore, then cut it by NumPy."""
        done, width = 0, self.width
        for start, block, centers in self._regions:
            decoded = np.empty((1, len(NAMES), *block), np.float32)
            self._plain.read(start[None], decoded)
            target = self._plain.read_targets(centers)
            within = (centers - self.radius - start) % self.cached.mesh
            for first in range(0, len(within), self.batch_size):
                some = slice(first, first + self.batch_size)
                corners = within[some].tolist()
                for place, (i, j, k) in zip(self.out, corners, strict=False):
                    place[...] = decoded[0, :, i : i + width, j : j + width, k : k + width]
                done += len(corners)
                yield Delivered(centers[some], self.out[: len(corners)], target[some])
            if done >= n * self.batch_size:
                return

    def by_memcpy(self, n: int) -> Iterator[Delivered]:
        """Copy a batch that is there already: the limit."""
        some = self._random[: self.batch_size]
        for _ in range(n):
            self._library.contiguous_copy(
                pointer(self.source), ctypes.c_int64(self.out.size), pointer(self.out)
            )
            yield Delivered(some, self.out, some[:, 0])


def measure(store: CubeStore, radius: int, arguments: argparse.Namespace, folder: Path) -> None:
    contest = Contest(store, radius, arguments, folder)
    contestants: dict[str, Callable[[int], Iterator[Delivered]]] = {
        "regions": contest.by_loader,
        "tensorstore_random": contest.by_tensorstore_random,
        "tensorstore_order": contest.by_tensorstore_order,
        "tensorstore_blocks": contest.by_tensorstore_blocks,
    }
    for way in contestants.values():
        check(next(way(1)), store, radius)
    contestants["c_memcpy"] = contest.by_memcpy
    np.testing.assert_array_equal(next(contest.by_memcpy(1)).inputs, contest.source)
    prepared = 2 * N_LANES * arguments.samples_per_opening
    # Batches that the loader prepared while the others ran would cost no time here.
    dropped = {"regions": 5 + prepared // contest.batch_size}
    rates = rates_of(contestants, arguments.rounds, dropped)
    stats = contest.loader.stats
    contest.loader.close()
    medians = {name: median_and_spread(values) for name, values in rates.items()}
    print_result(
        f"r = {radius}",
        packages=("ionstore", "numpy", "numba", "numcodecs", "tensorstore", "torch"),
        mesh=contest.cached.mesh,
        budget_mb=arguments.budget_mb,
        samples_per_opening=arguments.samples_per_opening,
        core=stats.core,
        decoded_mb=round(stats.decoded_bytes / 1e6),
        batch_size=contest.batch_size,
        batches_mb=round(stats.batch_bytes / 1e6),
        predicted_amplification=round(stats.predicted_amplification),
        decode_ms_an_opening=round(1e3 * stats.decode_s / stats.openings, 1),
        rounds=arguments.rounds,
        samples_per_s={name: round(median, 1) for name, (median, _) in medians.items()},
        spread={name: round(spread, 1) for name, (_, spread) in medians.items()},
        gigabytes_per_s={
            name: round(median * contest.sample_bytes / 1e9, 2)
            for name, (median, _) in medians.items()
        },
        regions_relative_to={
            name: round(medians["regions"][0] / medians[name][0], 2)
            for name in contestants
            if name != "regions"
        },
    )


def rates_of(
    contestants: dict[str, Callable[[int], Iterator[Delivered]]],
    rounds: int,
    dropped: dict[str, int],
) -> dict[str, list[float]]:
    """Return samples/s in each round, the rounds interleaved, some batches dropped first."""
    sizes = {name: batches_a_round(way) for name, way in contestants.items()}
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, way in contestants.items():
            for _ in way(dropped.get(name, 0)):
                pass
            began = time.perf_counter()
            n_samples = sum(len(delivered.inputs) for delivered in way(sizes[name]))
            rates[name].append(n_samples / (time.perf_counter() - began))
    return rates


def batches_a_round(way: Callable[[int], Iterator[Delivered]]) -> int:
    """Return how many batches take about `ROUND_S`; running a few warms up what can be."""
    began, n = time.perf_counter(), 0
    for _ in way(64):
        n += 1
        if time.perf_counter() - began > ROUND_S:
            break
    return max(1, round(n * ROUND_S / (time.perf_counter() - began)))


def centers_in_order(loader: NeighborhoodLoader) -> Iterator[Cells]:
    """Yield the centers of the loader's batches."""
    for number in range(len(loader)):
        yield loader._plan.pick(0, number).cells


def openings(loader: NeighborhoodLoader) -> Iterator[tuple[Cells, tuple[int, ...], Cells]]:
    """Yield first cell and shape of the block of each opened region, and the centers in it."""
    plan = loader._plan
    start, shape, _, _ = plan.regions.blocks(loader._reach)
    for opening in plan.order.openings(0, 0, 0):
        at = plan.order.locate(0, [(0, opening.start, opening.stop)])
        numbers = plan.regions.numbers(at.region, at.member)
        centers = plan.regions.samples.find(numbers)[1]
        yield start[opening.region], tuple(shape[opening.region].tolist()), centers


def check(delivered: Delivered, store: CubeStore, radius: int) -> None:
    """Check neighborhoods and targets against what zarr-python reads, sample by sample."""
    centers, inputs, target = delivered.centers, delivered.inputs, delivered.target
    if inputs.dtype != np.float32 or not inputs.flags.c_contiguous:
        raise AssertionError(f"expected C-contiguous float32, got {inputs.dtype}, {inputs.strides}")
    mesh, width = store.mesh.cells_per_side, 2 * radius + 1
    expected = np.empty_like(inputs)
    for channel, name in enumerate(NAMES):
        field = zarr.open_array(store.path / name, mode="r")
        for sample, center in enumerate(centers.tolist()):
            axes = [periodic_pieces(cell - radius, width, mesh) for cell in center]
            for pieces in itertools.product(*axes):
                there, here = zip(*pieces, strict=True)
                expected[(sample, channel, *here)] = field[(0, *there)]
    np.testing.assert_array_equal(inputs, expected)
    i, j, k = (centers % mesh).T
    field = zarr.open_array(store.path / TARGET, mode="r")
    np.testing.assert_array_equal(target, field.vindex[np.zeros_like(i), i, j, k])


if __name__ == "__main__":
    main()
