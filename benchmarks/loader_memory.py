"""Measure the memory of loading: peak PSS of the whole process tree, shared pages counted once.

A case loads batches in a process of its own. The peak of the same process tree with an 8³ store is
subtracted, with everything imported, kernels compiled, workers started and almost nothing loaded.

- resident  a box whose fields fit the budget, r = 24, 3 epochs of 3000 samples
- regions   a box that does not fit, budget 256 MB, r = 24, 256 samples an opening
- epochs    20 short epochs: PSS after each, to see whether anything grows

    python benchmarks/loader_memory.py bench/box300.zarr resident epochs
    python benchmarks/loader_memory.py bench/box768.zarr regions epochs
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from process import output_of_script, peak_of_script
from result import print_result

from ionstore.build.store_writer import StoredField, create_store
from ionstore.cube.mesh import Mesh
from ionstore.cube.statistics import FieldStatistics

RESIDENT = {"radius": 24, "batch_size": 32, "samples_per_epoch": 3000}
REGIONS = {
    **RESIDENT,
    "batch_size": 16,
    "memory_budget": 256_000_000,
    "samples_per_opening": 256,
}
BASELINE = {"radius": 2, "batch_size": 32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("cases", nargs="+", choices=["resident", "regions", "epochs"])
    arguments = parser.parse_args()
    settings = {"resident": RESIDENT, "regions": REGIONS}
    with tempfile.TemporaryDirectory() as folder:
        tiny = write_tiny_store(Path(folder) / "tiny.zarr")
        for case in arguments.cases:
            for workers in (0, 1, 2):
                if case == "epochs":
                    chosen = REGIONS if "regions" in arguments.cases else RESIDENT
                    measure_epochs(arguments.store, chosen, workers)
                else:
                    measure_peak(case, arguments.store, tiny, settings[case], workers)


def measure_peak(
    case: str, store: Path, tiny: Path, settings: dict[str, int], workers: int
) -> None:
    baseline = peak_of_script(LOAD, str(tiny), json.dumps(BASELINE), str(workers), "3")
    peak = peak_of_script(LOAD, str(store), json.dumps(settings), str(workers), "3")
    print_result(
        f"{case}, {workers} workers",
        settings=settings,
        peak_mb=round(peak / 1e6),
        baseline_mb=round(baseline / 1e6),
        above_baseline_mb=round((peak - baseline) / 1e6),
    )


def measure_epochs(store: Path, settings: dict[str, int], workers: int) -> None:
    shorter = {**settings, "samples_per_epoch": 640}
    printed = output_of_script(LOAD, str(store), json.dumps(shorter), str(workers), "20")
    after = [round(int(line) / 1e6) for line in printed.split()]
    print_result(
        f"20 epochs, {workers} workers",
        settings=shorter,
        pss_mb_after_each_epoch=after,
        growth_mb_from_epoch_5_to_20=after[-1] - after[4],
    )


LOAD = """
import json, sys
from ionstore.loading import NeighborhoodLoader
from ioncli.process_memory import tree_memory_bytes

if __name__ == "__main__":
    store, settings, workers, epochs = sys.argv[1:]
    with NeighborhoodLoader(
        store, num_workers=int(workers), **json.loads(settings)
    ) as loader:
        for _ in range(int(epochs)):
            for batch in loader:
                batch.inputs.mean()
            print(tree_memory_bytes())
"""


def write_tiny_store(path: Path) -> Path:
    cubes = {name: np.ones((8, 8, 8), np.float32) for name in ("n_igm", "n_src", "xhii")}
    writer = create_store(
        path, Mesh(8), [8.0], [StoredField(name, "float32", "1") for name in cubes]
    )
    for name, cube in cubes.items():
        writer.shards.write_block(name, 0, (0, 0, 0), cube)
    writer.finalize({name: [FieldStatistics.of(cube)] for name, cube in cubes.items()})
    return path


if __name__ == "__main__":
    main()
