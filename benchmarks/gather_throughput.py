"""Measure how fast neighborhoods of random cells come out, against the ways without a store.

All contestants deliver the same batches of two fields, C-contiguous float32, checked equal:

- gather      `ionstore.neighborhoods.gather_neighborhoods`, one thread
- loader      `ionstore.loading.NeighborhoodLoader`, batch in hand, thread mode
- pad         the box padded by the radius in memory (``np.pad``, wrapped), then one slice a cell
- memmap      ``.npy`` files mapped into memory, each neighborhood from up to eight slices
- files_2021  one ``.npy`` file per neighborhood and field, written beforehand, loaded and stacked

Rounds are interleaved, files are in the page cache. One JSON line per radius.

    python benchmarks/gather_throughput.py --mesh 300 --radius 24 --radius 12 --radius 4
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from result import median_and_spread, print_result

from ionstore.grid import Mesh
from ionstore.loading import NeighborhoodLoader
from ionstore.neighborhoods import gather_neighborhoods
from ionstore.statistics import FieldStatistics
from ionstore.store_writer import StoredField, create_store

BATCH_BYTES = 32e6


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
    n = max(16, int(BATCH_BYTES / (4 * 2 * width**3)))
    mesh = fields.shape[1]
    centers = np.random.default_rng(radius).integers(0, mesh, size=(n, 3))
    out = np.empty((n, 2, width, width, width), np.float32)
    padded = np.pad(fields, ((0, 0), *((radius, radius),) * 3), mode="wrap")
    mapped = [np.load(folder / f"field{index}.npy", mmap_mode="r") for index in range(2)]
    files = folder / f"neighborhoods{radius}"
    files.mkdir()
    for m, neighborhood in enumerate(gather_neighborhoods(fields, centers, radius)):
        for index in range(2):
            np.save(files / f"{index}_{m}.npy", neighborhood[index])
    loader = NeighborhoodLoader(
        folder / "cubes.zarr", radius=radius, batch_size=n, centers=centers, shuffle=False
    )
    batches = itertools.chain.from_iterable(itertools.repeat(loader))

    def by_loader() -> np.ndarray:
        return next(batches).inputs.numpy()

    def by_pad() -> np.ndarray:
        for m, (i, j, k) in enumerate(centers):
            out[m] = padded[:, i : i + width, j : j + width, k : k + width]
        return out

    def by_memmap() -> np.ndarray:
        for m, center in enumerate(centers):
            pieces = [periodic_pieces(int(c) - radius, width, mesh) for c in center]
            for index, field in enumerate(mapped):
                for (ax, bx), (ay, by), (az, bz) in itertools.product(*pieces):
                    out[m, index, bx, by, bz] = field[ax, ay, az]
        return out

    def by_files() -> np.ndarray:
        samples = [[np.load(files / f"{index}_{m}.npy") for index in range(2)] for m in range(n)]
        return np.array(samples)

    contestants: dict[str, Callable[[], np.ndarray]] = {
        "gather": lambda: gather_neighborhoods(fields, centers, radius, out=out),
        "loader": by_loader,
        "pad": by_pad,
        "memmap": by_memmap,
        "files_2021": by_files,
    }
    expected = gather_neighborhoods(fields, centers, radius).copy()
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    copies = []
    for _ in range(rounds):
        for name, cut in contestants.items():
            out.fill(np.nan)
            repeats = 4
            if name == "loader":  # it ran ahead while the others were timed
                repeats = 16
                next(batches), next(batches)
            start = time.perf_counter()
            for _ in range(repeats):
                result = cut()
            rates[name].append(repeats * n / (time.perf_counter() - start))
            np.testing.assert_array_equal(result, expected)
        start = time.perf_counter()
        np.copyto(out, expected)
        copies.append(n / (time.perf_counter() - start))
    loader.close()
    medians = {name: median_and_spread(values) for name, values in rates.items()}
    print_result(
        f"r = {radius}",
        mesh=mesh,
        samples=n,
        rounds=rounds,
        samples_per_s={name: round(median) for name, (median, _) in medians.items()},
        spread={name: round(spread) for name, (_, spread) in medians.items()},
        gather_relative_to={
            name: round(medians["gather"][0] / medians[name][0], 2)
            for name in contestants
            if name != "gather"
        },
        gather_relative_to_contiguous_copy=round(
            medians["gather"][0] / median_and_spread(copies)[0], 2
        ),
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
