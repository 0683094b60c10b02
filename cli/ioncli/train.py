"""``ionmodel train``: a store in, a run folder out."""

import math
import os
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ioncli import options
from ionmodel.config.keys import DEFAULT_PRESET, preset_names
from ionstore.errors import bytes_in_words

if TYPE_CHECKING:
    from ionmodel.config.training_config import TrainingConfig
    from ionmodel.runs.begin import BegunRun
    from ionmodel.runs.folder import RunFolder
    from ionmodel.training.events import Plan, Result, TrainingProgress

_LONG_BATCH_S = 5.0


@click.command()
@click.option(
    "--store", "stores", multiple=True, type=click.Path(path_type=Path),
    help="Store to train on; may be repeated.  [default: cubes.zarr, or those of a resumed run]",
)  # fmt: skip
@click.option(
    "--run", "run_path", type=click.Path(path_type=Path),
    help="Folder of the run.  [default: a new runs/<date>-<preset>]",
)  # fmt: skip
@click.option(
    "--preset",
    help=f"Start from its keys: {' or '.join(preset_names())}.  [default: {DEFAULT_PRESET}]",
)
@click.option(
    "--config", "config_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file with keys that replace those of the preset.",
)  # fmt: skip
@click.option(
    "-o", "--option", "settings", multiple=True, metavar="KEY=VALUE",
    help="Key that replaces both, such as epochs=3 or channels='[16, 32]'; may be repeated.",
)  # fmt: skip
@click.option(
    "--resume", is_flag=True,
    help="Continue the run in the folder. -o may give another number of epochs, over which "
    "scheduler one_cycle then extends, and another device or num_workers.",
)  # fmt: skip
def train(
    stores: tuple[Path, ...],
    run_path: Path | None,
    preset: str | None,
    config_file: Path | None,
    settings: tuple[str, ...],
    resume: bool,
) -> None:
    """Train a network that predicts the ionized fraction.

    The run folder holds the configuration, log.jsonl, the checkpoints last.pt and best.pt, and
    figures. Ctrl-C stops after the present batch; --resume continues from there, with the
    configuration in the run folder.

    \b
    Keys of the configuration (see the presets for values):
      inputs scales mean_free_path mean_free_path_cmpc redshift_input redshifts transforms
      network radius tile final_activation channels kernel padding shared_branches conv_bias
      width dilations feature_dropout head_dropout head_dropout_widths head_widths recompute
      loss learning_rate scheduler scheduler_factor scheduler_patience batch_size
      samples_per_epoch epochs validation_samples split random_cells seed device num_workers
      memory_budget symmetries core samples_per_opening

    \b
    Examples:
      ionmodel train --store cubes.zarr
      ionmodel train --store cubes.zarr --run runs/wide -o radius=6 -o epochs=30
      ionmodel train --store cubes.zarr --run runs/wide --resume
    """
    # Threads that spin while they wait take the cores from other work, and everything gets slower
    # (benchmarks/thread_waiting.py). OpenMP reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with options.errors_as_messages():
        from ionmodel.config.keys import given_keys
        from ionmodel.runs.begin import begin_run

        if resume and run_path is None:
            raise click.UsageError("--resume needs --run, the folder of the run to continue")
        given = given_keys(preset, config_file, settings)
        begun = begin_run(stores, run_path, given, resume=resume)
        for sentence in begun.notes:
            click.echo(f"{sentence}.")
        _train(begun)


def _train(begun: "BegunRun") -> None:
    from ioncli.process_memory import PeakMemory
    from ioncli.training_display import TrainingDisplay
    from ionmodel.errors import Interrupted
    from ionmodel.training.training import train_run

    config, run, stop = begun.config, begun.run, _Stop()

    class Display(TrainingDisplay):
        def plan(self, plan: "Plan") -> None:
            stop.batch_seconds = plan.batch_seconds
            _announce(plan, config, run, self.say)

        def batch(self, progress: "TrainingProgress") -> None:
            if progress.cells_per_s > 0:
                cells = config.batch_size * (config.tile or 1) ** 3
                stop.batch_seconds = cells / progress.cells_per_s
            super().batch(progress)

        def should_stop(self) -> bool:
            return stop.asked

    named = [word for store in begun.stores for word in ("--store", str(store.path))]
    again = shlex.join(["ionmodel", "train", *named, "--run", str(run.path), "--resume"])
    try:
        with PeakMemory() as memory, stop.on_signals(), Display() as display:
            result = train_run(config, begun.stores, run, reporter=display)
    except Interrupted as interrupted:
        _leave(str(interrupted), f"continue with: {again}")
    except KeyboardInterrupt:
        if run.config.exists():
            _leave("stopped at once", f"continue from the last checkpoint with: {again}")
        _leave("stopped before training began", "nothing was written")
    _summarize(result, run, memory.peak_bytes)


def _leave(what: str, way_on: str) -> NoReturn:
    """End with the exit status of a command that Ctrl-C ended."""
    click.echo(f"{what[0].upper()}{what[1:]}; {way_on}", err=True)
    raise click.exceptions.Exit(130) from None


def _announce(
    plan: "Plan", config: "TrainingConfig", run: "RunFolder", say: Callable[[str], None]
) -> None:
    from ionmodel.training.learning_rate import one_cycle

    epochs = told = options.counted(config.epochs, "epoch")
    if plan.epochs_left != config.epochs:
        left = f"{plan.epochs_left:,.1f}".removesuffix(".0")
        told = f"{left} of {epochs} left"
    say(
        f"Run {run.path}: {plan.n_parameters:,} weights, {told}, "
        f"{plan.n_training_cells:,} training and {plan.n_validation_cells:,} validation "
        f"cells per epoch, on {plan.device}."
    )
    if plan.epochs_left != config.epochs and config.scheduler == "one_cycle":
        rate = config.learning_rate * one_cycle(1 - plan.epochs_left / config.epochs)
        say(f"The learning rate cycles once over all {epochs}; it continues at {rate:.1e}.")
    say(f"Estimated time: {options.seconds_in_words(plan.seconds)}.")
    if plan.core is not None:
        say(
            "The fields do not fit memory_budget: they are decoded while training, in regions of "
            f"{options.counted(plan.core, 'cell')} a side with a halo around them."
        )
    elif config.core is not None:
        say(
            f"All fields fit memory_budget, but with core = {config.core} samples come region by "
            "region; without core they come in uniformly random order."
        )
    elif config.samples_per_opening is not None:
        say("samples_per_opening has no effect: all fields fit memory_budget.")
    if config.leaks == "large scales":
        say(
            "Smoothed inputs reach beyond the guard cells, so validation scores are slightly "
            "optimistic."
        )
    elif config.leaks == "neighborhoods":
        say("Random split: validation neighborhoods overlap training ones, so R² is optimistic.")


def _summarize(result: "Result", run: "RunFolder", peak_bytes: int) -> None:
    if math.isnan(result.best_r2):
        click.echo("Validation R² is undefined: xHII is the same in all validation cells")
    else:
        leaks = {
            "neighborhoods": "; optimistic: random split",
            "large scales": "; slightly optimistic: smoothed inputs",
            None: "",
        }[result.leaks]
        click.echo(
            f"Validation R² {result.best_r2:.4f} over "
            f"{options.counted(result.n_validation_cells, 'cell')} "
            f"(epoch {result.best_epoch} of {len(result.history)}){leaks}"
        )
    click.echo(f"Peak memory  {bytes_in_words(peak_bytes)} (PSS of all processes)")
    click.echo(f"Checkpoint   {run.best}")
    click.echo(f"Figures      {run.loss_figure}")
    click.echo(f"             {run.prediction_figure}")
    if result.was_finished:
        done = options.counted(len(result.history), "epoch")
        click.echo(f"The run was already finished, with {done}; give more with -o epochs=N.")


@dataclass
class _Stop:
    """A request to stop, and about how long the present batch may delay it."""

    asked: bool = False
    batch_seconds: float = 0.0

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM ask for a stop; a second one stops at once."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._ask) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        wait = ""
        if self.batch_seconds > _LONG_BATCH_S:
            wait = f", within about {options.seconds_in_words(self.batch_seconds)}"
        # Not through a buffered stream: the signal may have interrupted a write to it.
        os.write(2, f"\nStopping after this batch{wait} (again: at once) ...\n".encode())
