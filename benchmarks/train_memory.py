"""Measure the memory that training takes: peak PSS of the whole process tree.

``small`` and ``week3`` run ``ionmodel train`` as a user would and report its whole process tree.
``way_2021`` loads one file per neighborhood and field into one array, splits it and copies it into
tensors, as the course project of 2021 did.

    ionstore simulate box300 --mesh 300 --box-length 714 && ionstore ingest box300 box300.zarr
    python benchmarks/train_memory.py box300.zarr small week3 way_2021
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from process import peak_of, peak_of_script
from result import print_result

RADIUS, BATCH_SIZE, N_SAMPLES = 24, 32, 3000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path, help="store of a box of at least 49 cells a side")
    parser.add_argument("cases", nargs="+", choices=["small", "week3", "way_2021"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "small" in arguments.cases:
            options = ["-o", "epochs=2", "-o", "device=cpu"]
            measure_training("small", arguments.store, folder / "small", options)
        if "week3" in arguments.cases:
            steps = f"samples_per_epoch={3 * BATCH_SIZE}"
            options = ["-o", steps, "-o", "epochs=1", "-o", "validation_samples=32"]
            options += ["-o", "device=cpu"]
            measure_training("week3", arguments.store, folder / "week3", options)
        if "way_2021" in arguments.cases:
            measure_way_2021(arguments.store, folder)


WAY_2021 = """
import sys
import numpy as np
import torch
from pathlib import Path

folder = Path(sys.argv[1])
n = len(list(folder.glob("n_igm_*.npy")))
rng = np.random.default_rng(2021)
X = np.stack([
    [np.load(folder / f"{name}_{m}.npy") for name in ("n_igm", "n_src")]
    for m in range(n)
])
order = rng.permutation(n)
train, valid = X[order[: int(0.8 * n)]], X[order[int(0.8 * n):]]
tensors = [torch.Tensor(part[:, channel]) for part in (train, valid) for channel in (0, 1)]
print(sum(float(tensor.sum()) for tensor in tensors))
"""


def measure_training(preset: str, store: Path, run: Path, options: list[str]) -> None:
    command = ["train", "--store", str(store), "--run", str(run), "--preset", preset, *options]
    main = "from ioncli.main import ionmodel; ionmodel()"
    peak = peak_of([sys.executable, "-c", main, *command])
    print_result(f"ionmodel train --preset {preset}", options=options, peak_mb=round(peak / 1e6))


def measure_way_2021(store: Path, folder: Path) -> None:
    from ionstore.loading.loaders import NeighborhoodLoader

    files = folder / "cubes"
    files.mkdir()
    with NeighborhoodLoader(
        store, radius=RADIUS, batch_size=50, samples_per_epoch=N_SAMPLES
    ) as loader:
        for batch in loader:
            start = len(list(files.glob("n_igm_*.npy")))
            for m, neighborhood in enumerate(batch.inputs.numpy(), start):
                for name, values in zip(("n_igm", "n_src"), neighborhood, strict=True):
                    np.save(files / f"{name}_{m}.npy", values)
    on_disk = sum(path.stat().st_size for path in files.iterdir())
    peak = peak_of_script(WAY_2021, str(files))
    print_result(
        "way of 2021: loading alone",
        samples=N_SAMPLES,
        on_disk_mb=round(on_disk / 1e6),
        peak_mb=round(peak / 1e6),
    )


if __name__ == "__main__":
    main()
