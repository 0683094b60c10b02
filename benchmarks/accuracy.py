"""What presets make of the same minutes: R² of held-out cells, and how soon it is reached.

Each preset trains for about the same time on the same split: one epoch is timed first, then as many
are run as fit. The best checkpoints predict the same cells of the validation region. The first
preset is compared with the others: unexplained variance (1 - R²), and the time after which an epoch
of it reaches what the other has in the end. ``--other`` are boxes of other seeds, predicted whole.

    python benchmarks/accuracy.py cube200.zarr --minutes 10
    python benchmarks/accuracy.py seed1.zarr --other seed2.zarr --presets dense small
"""

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from result import print_result

from ionmodel.config import TrainingConfig, make_config
from ionmodel.config_keys import over_preset, parse_options, read_preset
from ionmodel.datasets import open_training_data
from ionmodel.evaluation import predict_cells, r_squared
from ionmodel.events import Plan
from ionmodel.prediction import load
from ionmodel.run_folder import RunFolder
from ionmodel.splits import fit_to_mesh
from ionmodel.training import train
from ionstore.store import CubeStore

N_CELLS = 20_000
N_LOOKS = 20
"""Epochs after which the best checkpoint so far is looked at, which is not counted as training."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--redshift", type=float)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--presets", nargs="+", default=["dense", "small"])
    parser.add_argument("-o", "--option", action="append", default=[], help="of the first preset")
    parser.add_argument("--other", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    store = CubeStore.open(arguments.store)
    redshift = arguments.redshift or store.redshifts[0]
    curves = []
    with tempfile.TemporaryDirectory() as folder:
        for place, preset in enumerate(arguments.presets):
            options = parse_options(arguments.option) if place == 0 else {}
            keys = over_preset(read_preset(preset), {**options, "redshifts": [redshift]})
            config = fit_to_mesh(make_config(keys), [store])
            run = RunFolder(Path(folder) / preset)
            curve, numbers = trained(config, store, run, 60 * arguments.minutes)
            for other in arguments.other:
                numbers[f"r2_of_{other.stem}"] = transferred(run, CubeStore.open(other), redshift)
            curves.append((preset, curve, numbers))
            print_result(f"{store.path.stem} {preset}", redshift=redshift, **numbers)
    first, curve, numbers = curves[0]
    for preset, _, theirs in curves[1:]:
        reached = next((at for at, r2 in curve if r2 >= theirs["r2"]), math.inf)
        print_result(
            f"{store.path.stem} {first} against {preset}",
            unexplained_ratio=round((1 - numbers["r2"]) / (1 - theirs["r2"]), 3),
            seconds_to_their_r2=round(reached, 1),
            of_their_seconds=round(reached / theirs["seconds"], 3),
        )


def trained(
    config: TrainingConfig, store: CubeStore, run: RunFolder, seconds: float
) -> tuple[list[tuple[float, float]], dict[str, Any]]:
    """Train for about that time; return (seconds, validation R²) by epoch, and what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        probe = RunFolder(Path(folder) / "probe")
        once = train(config.model_copy(update={"epochs": 1}), [store], probe)
    n_epochs = max(1, round(seconds / once.history[0]["seconds"]))
    config = config.model_copy(update={"epochs": n_epochs})
    curve: list[tuple[float, float]] = []
    looking = 0.0

    def look(entry: dict[str, Any]) -> None:
        nonlocal looking
        began = time.perf_counter()
        if len(curve) < N_LOOKS:
            spent = curve[-1][0] if curve else preparing
            is_same = config.tile is None and config.validation_samples == N_CELLS
            r2 = entry["validation_r2"] if is_same else held_out(config, store, run)
            curve.append((spent + entry["seconds"], r2))
        looking += time.perf_counter() - began

    preparing = 0.0

    def prepared(plan: Plan) -> None:
        nonlocal preparing
        preparing = time.perf_counter() - began

    began = time.perf_counter()
    result = train(config, [store], run, on_plan=prepared, on_epoch=look)
    took = time.perf_counter() - began - looking
    return curve, {
        "r2": round(held_out(config, store, run), 4),
        "epochs": n_epochs,
        "best_epoch": result.best_epoch,
        "seconds": round(took, 1),
        "cells_in_millions": round(result.history[-1]["cells"] / 1e6, 2),
        "r2_by_time": [(round(at), round(r2, 4)) for at, r2 in curve],
    }


def held_out(config: TrainingConfig, store: CubeStore, run: RunFolder) -> float:
    """Return R² over the same cells of the validation region, whatever a preset validates with."""
    predictor = load(run.path)
    update = {"tile": None, "validation_samples": N_CELLS, "batch_size": 256}
    with open_training_data(
        config.model_copy(update=update),
        [store],
        normalization=predictor.normalization,
        channels_folder=run.channels,
    ) as data:
        predictions = predict_cells(
            predictor.network,
            data.validation,
            predictor.device,
            redshift_input=config.redshift_input,
        )
    return predictions.r_squared


def transferred(run: RunFolder, store: CubeStore, redshift: float) -> float:
    """Return R² of another box."""
    predictor = load(run.path)
    nearest = min(store.redshifts, key=lambda other: abs(other - redshift))
    fields = {name: store.read_field(name, nearest) for name in predictor.config.inputs}
    predicted = predictor(fields, redshift=nearest, box_length_cmpc=store.mesh.box_length_cmpc)
    return round(r_squared(store.read_field("xhii", nearest), predicted), 4)


if __name__ == "__main__":
    main()
