"""Measure an ingest against the least that it can cost, and the memory that it takes.

``speed``: the same simulation, rounds interleaved, on as many threads as there are cores;

- blosc   the limit: every chunk of the fields, in memory already, encoded by Blosc and dropped
- ingest  `ionstore.ingest.ingest_cubes`: two readings with all checks and digests, encoding,
          checksums, writing to the disk, reading back and comparing

and what was stored is compared with the files. ``memory``: the peak of anonymous memory (that of
the page cache left out) of ``ionstore ingest`` on the simulation tiled to a larger mesh.

    ionstore simulate bench/box300 --mesh 300 --box-length 714
    python benchmarks/ingest.py bench/box300 speed
    python benchmarks/ingest.py bench/box256 memory --times 4
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numcodecs import blosc as blosc_settings
from result import median_and_spread, print_result

from ionstore.cube.mesh import Array
from ionstore.ingest.ingest import ingest_cubes
from ionstore.store.codecs import blosc
from ionstore.store.cube_store import CubeStore

PREFIXES = {"n_igm": "rho", "n_src": "nsrc", "xhii": "xHII"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("simulation", type=Path, help="a three-file set of one redshift")
    parser.add_argument("cases", nargs="+", choices=["speed", "memory"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--times", type=int, default=4, help="tiles along each axis, for memory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.simulation.parent) as name:
        if "speed" in arguments.cases:
            measure_speed(arguments.simulation, Path(name), arguments.rounds)
        if "memory" in arguments.cases:
            measure_memory(arguments.simulation, Path(name), arguments.times)


def measure_speed(simulation: Path, folder: Path, rounds: int) -> None:
    target = folder / "cubes.zarr"
    ingest_cubes(simulation, target)
    store = CubeStore.open(target)
    (redshift,) = store.redshifts
    fields = {name: store.read_field(name, redshift) for name in store.field_names}
    for name, values in fields.items():
        np.testing.assert_array_equal(values, np.load(file_of(simulation, name)))
    chunks = {name: chunks_of(values, store.layout.chunk_cells) for name, values in fields.items()}
    seconds: dict[str, list[float]] = {"blosc": [], "ingest": []}
    for _ in range(rounds):
        began = time.perf_counter()
        encode(store, chunks)
        seconds["blosc"].append(time.perf_counter() - began)
        began = time.perf_counter()
        ingest_cubes(simulation, target, overwrite=True)
        seconds["ingest"].append(time.perf_counter() - began)
    medians = {name: median_and_spread(values) for name, values in seconds.items()}
    n_bytes = sum(values.nbytes for values in fields.values())
    print_result(
        "speed",
        mesh=store.mesh.cells_per_side,
        stored_mb=round(n_bytes / 1e6),
        rounds=rounds,
        seconds={name: round(median, 3) for name, (median, _) in medians.items()},
        spread={name: round(spread, 3) for name, (_, spread) in medians.items()},
        cells_per_s={
            name: round(store.mesh.n_cells * len(fields) / median)
            for name, (median, _) in medians.items()
        },
        ingest_relative_to_blosc=round(medians["blosc"][0] / medians["ingest"][0], 3),
    )


def file_of(simulation: Path, name: str) -> Path:
    (path,) = simulation.glob(f"{PREFIXES[name]}_z*.npy")
    return path


def chunks_of(values: Array, side: int) -> list[Array]:
    """Return the chunks of a cube, those at its faces filled up as Zarr does."""
    cells = -(-values.shape[0] // side) * side
    whole = np.zeros((cells,) * 3, values.dtype)
    whole[tuple(slice(n) for n in values.shape)] = values
    n = cells // side
    cut = whole.reshape(n, side, n, side, n, side).transpose(0, 2, 4, 1, 3, 5)
    return list(np.ascontiguousarray(cut).reshape(-1, side, side, side))


def encode(store: CubeStore, chunks: dict[str, list[Array]]) -> None:
    before, blosc_settings.use_threads = blosc_settings.use_threads, False
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for name, of_field in chunks.items():
                codec = blosc(store.compression(name), store.dtype(name))
                for _ in pool.map(codec.encode, of_field):
                    pass
    finally:
        blosc_settings.use_threads = before


def measure_memory(simulation: Path, folder: Path, times: int) -> None:
    tiled = folder / "tiled"
    tiled.mkdir()
    for name in PREFIXES:
        path = file_of(simulation, name)
        box = np.load(path)
        n = box.shape[0]
        shape = (times * n,) * 3
        out = np.lib.format.open_memmap(tiled / path.name, "w+", box.dtype, shape)
        for x in range(times):
            out[x * n : (x + 1) * n] = np.tile(box, (1, times, times))
        out.flush()
        del out
    command = [
        sys.executable,
        "-c",
        "from ioncli.main import ionstore; ionstore()",
        "ingest",
        str(tiled),
        str(folder / "tiled.zarr"),
    ]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr)
    peak = 0
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process.pid))
        time.sleep(0.05)
    if process.returncode != 0:
        raise SystemExit(f"the ingest ended with {process.returncode}")
    print_result(
        "memory",
        mesh=shape[0],
        seconds=round(time.perf_counter() - began, 1),
        peak_anonymous_mb=round(peak / 1e6),
    )


def anonymous_bytes(pid: int) -> int:
    """Return the anonymous memory of a process, 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


if __name__ == "__main__":
    main()
