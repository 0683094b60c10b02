"""Measure the accuracy of presets in equal time: R² of held-out cells, and the time to reach it.

All presets train on the same split. The last one, the reference, trains first, for the given
minutes. The others train for the epochs of their preset, or for as many as fit into the time that
the reference took. The preset ``small``, the default reference, becomes the network of 2021: r = 4,
blocks of 16 and 32 channels, kernels of 5 cells and the same weights for both fields. Time is
processor time of all cores, so that other work on the machine matters little.

The checkpoint that is best in validation is scored over the same cells of the test block, which
played no part in training. The others are compared with the reference by unexplained variance
(1 - R²), and by the time, reading and smoothing included, that they need to reach the final score
of the reference. ``--other`` names boxes of other seeds, scored over as many cells of the whole
box. ``--presets`` with a single name measures that one, for at most the given minutes.

Options of a configuration: ``--both`` for all presets, ``--option`` for the first,
``--reference-option`` for the reference, in place of those that make it the network of 2021.

    python benchmarks/accuracy.py cube200.zarr --minutes 10
    python benchmarks/accuracy.py seed1.zarr --other seed2.zarr --both symmetries=all
    python benchmarks/accuracy.py cube200.zarr --reference-option kernel=3
    python benchmarks/accuracy.py cube200.zarr --presets dense -o epochs=50
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from result import print_result

from ionmodel.config.keys import over_preset, parse_options, read_preset
from ionmodel.config.training_config import TrainingConfig, make_config
from ionmodel.errors import Interrupted
from ionmodel.prediction.predictor import load
from ionmodel.runs.folder import RunFolder
from ionmodel.runs.splits import fit_to_mesh
from ionmodel.training.data import open_training_data
from ionmodel.training.evaluation import predict_cells
from ionmodel.training.events import Plan, TrainingReporter
from ionmodel.training.training import train_run
from ionstore.cube.mesh import Region
from ionstore.sampling.split import block_split
from ionstore.store.cube_store import CubeStore

NETWORK_OF_2021 = {"kernel": 5, "shared_branches": True}
"""Keys in which it differs from the preset ``small``."""
N_CELLS = 20_000
N_LOOKS = 20
"""Epochs of a compared preset after which its best checkpoint is scored, outside the time."""
MANY = 10_000
"""Epochs of the reference, more than it can reach."""
SAFELY = 0.93
"""Share of the reference's time that is planned for the others, because timings vary."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--redshift", type=float)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--presets", nargs="+", default=["dense", "small"])
    parser.add_argument("--both", action="append", default=[], help="option of all presets")
    parser.add_argument("-o", "--option", action="append", default=[], help="of the first preset")
    parser.add_argument("--reference-option", action="append", help="of the last preset")
    parser.add_argument("--other", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    store = CubeStore.open(arguments.store)
    redshift = arguments.redshift or store.redshifts[0]
    others = [CubeStore.open(other) for other in arguments.other]
    *compared, reference = arguments.presets
    both = parse_options(arguments.both)
    of_first = parse_options(arguments.option)
    of_reference: dict[str, Any] = NETWORK_OF_2021 if reference == "small" else {}
    if arguments.reference_option is not None:
        of_reference = parse_options(arguments.reference_option)
    seconds = 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as folder:

        def measure(
            place: int, preset: str, own: Mapping[str, Any], **ended: Any
        ) -> dict[str, Any]:
            options = {**both, **own}
            changes = {**options, "redshifts": [redshift], **ended}
            config = make_config(over_preset(read_preset(preset), changes))
            run = RunFolder(Path(folder) / f"{place}-{preset}")
            n_looks = N_LOOKS if place < len(compared) else 0
            config = fit_to_mesh(config, [store])
            numbers = trained(config, store, run, seconds=seconds, n_looks=n_looks)
            for other in others:
                box = Region((0, 0, 0), other.mesh.shape)
                numbers[f"r2_of_{other.path.stem}"] = round(scored(run, other, box), 4)
            print_result(
                f"{store.path.stem} {preset}", options=options, redshift=redshift, **numbers
            )
            return numbers

        if not compared:
            measure(0, reference, of_first)
            return
        theirs = measure(len(compared), reference, of_reference, epochs=MANY)
        seconds = SAFELY * theirs["seconds"]
        for place, preset in enumerate(compared):
            own = of_first if place == 0 else {}
            numbers = measure(place, preset, own)
            reached = next((at for at, r2 in numbers["r2_by_time"] if r2 >= theirs["r2"]), None)
            print_result(
                f"{store.path.stem} {preset} against {reference}",
                options={**both, **own},
                their_options={**both, **of_reference},
                unexplained_ratio=round((1 - numbers["r2"]) / (1 - theirs["r2"]), 3),
                seconds_to_their_r2=reached,
                of_their_seconds=reached and round(reached / theirs["seconds"], 3),
            )


class Timed(TrainingReporter):
    """Starts a clock when training begins, and stops training when the time is up."""

    def __init__(
        self,
        clock: "Clock",
        look: Callable[[dict[str, Any]], None] = lambda entry: None,
        seconds: float = math.inf,
    ) -> None:
        self._clock, self._look, self._seconds = clock, look, seconds

    def plan(self, plan: Plan) -> None:
        """Start the clock."""
        self._clock.plan(plan)

    def epoch(self, entry: dict[str, Any]) -> None:
        """Look at the network."""
        self._look(entry)

    def should_stop(self) -> bool:
        """Tell whether the time is up."""
        return self._clock.elapsed() > self._seconds


def trained(
    config: TrainingConfig, store: CubeStore, run: RunFolder, *, seconds: float, n_looks: int
) -> dict[str, Any]:
    """Train for all epochs or about that time of all cores; return what came of it.

    A schedule that ends with the run needs to know the number of epochs: two tell how many fit.
    Any other run is stopped when the time is up.
    """
    test = block_split(store.mesh.cells_per_side, config.radius).test
    assert isinstance(test, Region)
    if config.scheduler == "one_cycle":
        n_epochs = min(config.epochs, epochs_within(config, store, seconds))
        config = config.model_copy(update={"epochs": n_epochs})
        seconds = math.inf
    curve: list[tuple[float, float]] = []
    epochs: list[dict[str, Any]] = []
    clock = Clock()

    def look(entry: dict[str, Any]) -> None:
        epochs.append(entry)
        if len(curve) < n_looks:
            at = clock.elapsed()
            with clock.paused():
                curve.append((round(at, 1), round(scored(run, store, test), 4)))

    with suppress(Interrupted):
        train_run(
            config,
            [store],
            run,
            reporter=Timed(clock, look, seconds),
        )
    took, wall = clock.elapsed(), clock.wall()
    if not epochs:
        raise SystemExit(f"no epoch ended within {seconds:.0f} s; give more --minutes")
    best = min(epochs, key=lambda entry: entry["validation_loss"])  # of the checkpoint
    return {
        "seconds": round(took, 1),
        "seconds_on_the_wall": round(wall, 1),
        "r2": round(scored(run, store, test), 4),
        "validation_r2": round(best["validation_r2"], 4),
        "epochs": len(epochs),
        "best_epoch": best["epoch"],
        "cells_in_millions": round(epochs[-1]["cells"] / 1e6, 2),
        "r2_by_time": curve,
    }


def epochs_within(config: TrainingConfig, store: CubeStore, seconds: float) -> int:
    """Return how many epochs, and what comes before the first, fit into a time."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder) / "probe")
        train_run(config.model_copy(update={"epochs": 2}), [store], run, reporter=Timed(clock))
    per_epoch = (clock.elapsed() - clock.preparing) / 2
    return max(1, math.floor((seconds - clock.preparing) / per_epoch))


class Clock:
    """Seconds of all cores since it was made, without pauses.

    They are those that the process had on a core, divided by the number of cores: what a clock on
    the wall shows where nobody else uses them. `preparing` are those before the first step.
    """

    def __init__(self) -> None:
        self._began = self._now()
        self._wall = time.perf_counter()
        self.preparing = 0.0

    @staticmethod
    def _now() -> float:
        return time.process_time() / torch.get_num_threads()

    def elapsed(self) -> float:
        """Return the seconds so far."""
        return self._now() - self._began

    def wall(self) -> float:
        """Return the seconds on the wall so far."""
        return time.perf_counter() - self._wall

    def plan(self, _: Plan) -> None:
        """Take note that the first step is next."""
        self.preparing = self.elapsed()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop while the block runs."""
        began, wall = self._now(), time.perf_counter()
        yield
        self._began += self._now() - began
        self._wall += time.perf_counter() - wall


def scored(run: RunFolder, store: CubeStore, region: Region) -> float:
    """Return R² of the best checkpoint over some cells of a region, whatever was trained on."""
    predictor = load(run.path)
    config = predictor.config
    nearest = min(store.redshifts, key=lambda redshift: abs(redshift - config.redshifts[0]))
    update = {"tile": None, "batch_size": 256, "redshifts": (nearest,), "num_workers": 0}
    with open_training_data(
        config.model_copy(update=update),
        [store],
        normalization=predictor.normalization,
        channels_folder=run.channels,
    ) as data:
        drawn = np.random.default_rng(1).choice(region.n_cells, N_CELLS, replace=False)
        cells = data.train.sibling(
            region.cells(np.sort(drawn)), shuffle=False, samples_per_epoch=None, symmetries="none"
        )
        predictions = predict_cells(
            predictor.network, cells, predictor.device, redshift_input=config.redshift_input
        )
    return predictions.r_squared


if __name__ == "__main__":
    main()
