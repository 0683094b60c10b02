"""Measure how fast neighborhoods of random cells come out, against what else one would use.

All contestants deliver batches of two fields, C-contiguous float32, checked before they are timed:

- gather       `ionstore.loading.gather.gather_neighborhoods`, one thread
- loader       `ionstore.loading.NeighborhoodLoader`, thread mode, batch in hand, in mid-epoch
- c_row_copy   the same row copies in C
- c_memcpy     the limit: batches that are there already, one memcpy each
- pad          the box padded by the radius in memory (``np.pad``, wrapped), then one slice a cell
- windows      the padded box seen through NumPy's ``sliding_window_view``, indexed with the cells
- memmap       ``.npy`` files mapped into memory, each neighborhood from up to eight slices
- files_2021   one ``.npy`` file per neighborhood and field, written beforehand, loaded and stacked
- zarr_python  the store, opened with zarr-python, each neighborhood from up to eight slices
- tensorstore  the store, opened with TensorStore, every chunk decoded and cached, all cores
- torchio      TorchIO's crop of the padded box
- monai        MONAI's crop of the padded box
- xbatcher     xbatcher's windows of the padded box, of a coarser grid of cells

Rounds are interleaved, files are in the page cache, torch has one thread. A slow contestant cuts
fewer samples a round. One that is not installed is left out; the extra ``bench`` has them all. One
JSON line per radius.

    python benchmarks/gather_throughput.py --mesh 300 --radius 24 --radius 12 --radius 4
    python benchmarks/gather_throughput.py --store cubes.zarr
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from box import Box, stored_box, synthetic_box
from contest import Case, rates_of, summary
from contestants import all_of
from result import print_result

PEERS = ("monai", "tensorstore", "torchio", "xarray", "xbatcher")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mesh", type=int, default=300, help="cells a side of a made-up box")
    parser.add_argument("--store", type=Path, help="a store to cut from instead")
    parser.add_argument("--radius", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    # Everyone gets one thread, as in a worker of a torch DataLoader: two that share two cores with
    # anything else wait for each other.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.store is None:
            box = synthetic_box(folder, arguments.mesh)
        else:
            box = stored_box(arguments.store)
        for radius in arguments.radius or [24, 12, 4]:
            measure(box, radius, arguments.rounds, folder)


def measure(box: Box, radius: int, rounds: int, folder: Path) -> None:
    case = Case.of(box, radius)
    contestants, skipped = all_of(case, folder)
    for name, reason in skipped.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    numbers = summary(rates_of(contestants, rounds))
    medians = numbers["samples_per_s"]
    print_result(
        f"r = {radius}",
        packages=PEERS,
        store=box.store.path.name,
        mesh=box.mesh,
        batch_size=case.n,
        rounds=rounds,
        **numbers,
        samples_a_round={name: one.samples_a_round for name, one in contestants.items()},
        gather_cells_per_s=medians["gather"] * 2 * case.width**3,
        gather_relative_to={
            name: round(medians["gather"] / median, 2)
            for name, median in medians.items()
            if name != "gather"
        },
        skipped=skipped,
    )


if __name__ == "__main__":
    main()
