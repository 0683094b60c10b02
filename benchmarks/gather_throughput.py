"""Measure how fast neighborhoods of random cells come out, against the ways without a store.

All contestants deliver the same batches of two fields, C-contiguous float32, checked equal:

- gather      `ionstore.neighborhoods.gather_neighborhoods`, one thread
- loader      `ionstore.loading.NeighborhoodLoader`, batch in hand, thread mode
- pad         the box padded by the radius in memory (``np.pad``, wrapped), then one slice a cell
- memmap      ``.npy`` files mapped into memory, each neighborhood from up to eight slices
- files_2021  one ``.npy`` file per neighborhood and field, written beforehand, loaded and stacked
- contiguous_copy  the limit: batches that are there already, copied

Rounds are interleaved, files are in the page cache. One JSON line per radius.

    python benchmarks/gather_throughput.py --mesh 300 --radius 24 --radius 12 --radius 4
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from result import median_and_spread, print_result

from ionstore.grid import Mesh
from ionstore.loading import NeighborhoodLoader
from ionstore.neighborhoods import gather_neighborhoods
from ionstore.statistics import FieldStatistics
from ionstore.store_writer import StoredField, create_store

BATCH_BYTES, MOST_SAMPLES = 32e6, 1024
N_BATCHES = 8  # of different cells, so that no contestant finds its data in the processor's cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mesh", type=int, default=300)
    parser.add_argument("--radius", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    rng = np.random.default_rng(2021)
    fields = np.empty((2, *(arguments.mesh,) * 3), np.float32)
    fields[0] = rng.lognormal(sigma=0.3, size=fields.shape[1:]).astype(np.float32)
    fields[1] = rng.poisson(0.4, size=fields.shape[1:])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        for index in range(2):
            np.save(path / f"field{index}.npy", fields[index])
        write_store(path / "cubes.zarr", fields)
        for radius in arguments.radius or [24, 12, 4]:
            measure(fields, radius, arguments.rounds, path)


def measure(fields: np.ndarray, radius: int, rounds: int, folder: Path) -> None:
    width = 2 * radius + 1
    n = min(MOST_SAMPLES, int(BATCH_BYTES / (4 * 2 * width**3)))
    mesh = fields.shape[1]
    rng = np.random.default_rng(radius)
    batches = list(rng.integers(0, mesh, size=(N_BATCHES, n, 3)))
    out = np.empty((n, 2, width, width, width), np.float32)
    padded = np.pad(fields, ((0, 0), *((radius, radius),) * 3), mode="wrap")
    mapped = [np.load(folder / f"field{index}.npy", mmap_mode="r") for index in range(2)]
    files = folder / f"neighborhoods{radius}"
    files.mkdir()
    for b, centers in enumerate(batches):
        for m, neighborhood in enumerate(gather_neighborhoods(fields, centers, radius, out=out)):
            for index in range(2):
                np.save(files / f"{index}_{b}_{m}.npy", neighborhood[index])
    loader = NeighborhoodLoader(
        folder / "cubes.zarr",
        radius=radius,
        batch_size=n,
        centers=np.concatenate(batches),
        shuffle=False,
    )

    def by_gather() -> Iterator[np.ndarray]:
        for centers in batches:
            yield gather_neighborhoods(fields, centers, radius, out=out)

    def by_loader() -> Iterator[np.ndarray]:
        for batch in loader:
            yield batch.inputs.numpy()

    def by_pad() -> Iterator[np.ndarray]:
        for centers in batches:
            for m, (i, j, k) in enumerate(centers):
                out[m] = padded[:, i : i + width, j : j + width, k : k + width]
            yield out

    def by_memmap() -> Iterator[np.ndarray]:
        for centers in batches:
            for m, center in enumerate(centers):
                pieces = [periodic_pieces(int(c) - radius, width, mesh) for c in center]
                for index, field in enumerate(mapped):
                    for (ax, bx), (ay, by), (az, bz) in itertools.product(*pieces):
                        out[m, index, bx, by, bz] = field[ax, ay, az]
            yield out

    def by_files() -> Iterator[np.ndarray]:
        for b in range(N_BATCHES):
            yield np.array(
                [[np.load(files / f"{i}_{b}_{m}.npy") for i in range(2)] for m in range(n)]
            )

    def by_contiguous_copy() -> Iterator[np.ndarray]:
        for source in sources:
            np.copyto(out, source)
            yield out

    sources = [gather_neighborhoods(fields, centers, radius) for centers in batches]
    contestants: dict[str, Callable[[], Iterator[np.ndarray]]] = {
        "gather": by_gather,
        "loader": by_loader,
        "pad": by_pad,
        "memmap": by_memmap,
        "files_2021": by_files,
        "contiguous_copy": by_contiguous_copy,
    }
    for cut in contestants.values():
        out.fill(np.nan)
        for result, expected in zip(cut(), sources, strict=True):
            np.testing.assert_array_equal(result, expected)
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, cut in contestants.items():
            start = time.perf_counter()
            for _ in cut():
                pass
            rates[name].append(N_BATCHES * n / (time.perf_counter() - start))
    loader.close()
    medians = {name: median_and_spread(values) for name, values in rates.items()}
    print_result(
        f"r = {radius}",
        mesh=mesh,
        samples=N_BATCHES * n,
        rounds=rounds,
        samples_per_s={name: round(median) for name, (median, _) in medians.items()},
        gather_cells_per_s=round(medians["gather"][0] * 2 * width**3),
        spread={name: round(spread) for name, (_, spread) in medians.items()},
        gather_relative_to={
            name: round(medians["gather"][0] / medians[name][0], 2)
            for name in contestants
            if name != "gather"
        },
    )


def periodic_pieces(first: int, width: int, mesh: int) -> list[tuple[slice, slice]]:
    """Return (slice of the mesh, slice of the neighborhood) pairs along one axis."""
    first %= mesh
    before = min(width, mesh - first)
    pieces = [(slice(first, first + before), slice(0, before))]
    if before < width:
        pieces.append((slice(0, width - before), slice(before, width)))
    return pieces


def write_store(path: Path, fields: np.ndarray) -> None:
    """Write the two fields, and the first again as target."""
    cubes = {"n_igm": fields[0], "n_src": fields[1].astype(np.uint8), "xhii": fields[0]}
    stored = [StoredField(name, str(cube.dtype), "1") for name, cube in cubes.items()]
    writer = create_store(path, Mesh(fields.shape[1]), [8.0], stored)
    for name, cube in cubes.items():
        for shard in writer.layout.shard_indices():
            start, shape = writer.layout.shard_region(shard)
            block = tuple(slice(a, a + cells) for a, cells in zip(start, shape, strict=True))
            writer.write_block(name, 0, start, cube[block])
    writer.finalize({name: [FieldStatistics.of(cube)] for name, cube in cubes.items()})


if __name__ == "__main__":
    main()
