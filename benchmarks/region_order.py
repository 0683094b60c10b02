"""Measure what region order costs a network: R² after the same training in different orders.

The preset ``small``, shortened, on one store, with several seeds and three orders:

- random    all fields resident, uniformly random order
- regions   fields that do not fit the budget, samples a region's opening by default
- crowded   the same regions, each left only when all of its samples have been taken

    python benchmarks/region_order.py cube200.zarr --memory-budget 90MB
"""

import argparse
import tempfile
from pathlib import Path

from result import median_and_spread, print_result

from ionmodel.config.keys import read_preset
from ionmodel.config.training_config import make_config
from ionmodel.runs.folder import RunFolder
from ionmodel.training.data import open_training_data
from ionmodel.training.training import train_run
from ionstore.store.cube_store import CubeStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--memory-budget", default="90MB", help="too small for all fields")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--samples-per-epoch", type=int, default=25_600)
    arguments = parser.parse_args()
    store = CubeStore.open(arguments.store)
    short = {
        **read_preset("small"),
        "epochs": arguments.epochs,
        "samples_per_epoch": arguments.samples_per_epoch,
    }
    in_regions = {**short, "memory_budget": arguments.memory_budget}
    orders = {
        "random": short,
        "regions": in_regions,
        "crowded": {**in_regions, "samples_per_opening": 10**9},
    }
    scores: dict[str, list[float]] = {name: [] for name in orders}
    stats = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            for name, keys in orders.items():
                if name == "crowded":
                    keys["core"] = stats["regions"].core
                config = make_config({**keys, "seed": seed})
                with open_training_data(config, [store]) as data:
                    stats[name] = data.train.stats
                result = train_run(config, [store], RunFolder(Path(folder) / f"{name}{seed}"))
                scores[name].append(round(result.best_r2, 4))
    for name, values in scores.items():
        median, _ = median_and_spread(values)
        print_result(
            name,
            store=arguments.store.name,
            mode=stats[name].mode,
            core=stats[name].core,
            samples_per_opening=round(stats[name].samples_per_opening),
            predicted_amplification=round(stats[name].predicted_amplification, 2),
            epochs=arguments.epochs,
            samples_per_epoch=arguments.samples_per_epoch,
            validation_r2=values,
            median=median,
            spread=round(max(values) - min(values), 4),
        )


if __name__ == "__main__":
    main()
