"""``ionmodel train``: a store in, a run folder out."""

import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ioncli import options

if TYPE_CHECKING:
    from ionmodel.config import TrainingConfig
    from ionmodel.events import Plan, Result
    from ionmodel.run_folder import RunFolder
    from ionstore.store import CubeStore


@click.command()
@click.option(
    "--store", "stores", multiple=True, type=click.Path(path_type=Path),
    default=("cubes.zarr",), help="Store to train on; may be repeated.",
)  # fmt: skip
@click.option(
    "--run", "run_path", type=click.Path(path_type=Path),
    help="Folder of the run  [default: a new runs/<date>-<preset>]",
)  # fmt: skip
@click.option("--preset", help="Where the configuration starts from: small (default) or week3.")
@click.option(
    "--config", "config_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file of keys that replace the preset's.",
)  # fmt: skip
@click.option(
    "-o", "--option", "settings", multiple=True, metavar="KEY=VALUE",
    help="One key that replaces both, such as epochs=3 or channels='[16, 32]'; may be repeated.",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on where the run folder stopped.")
def train(
    stores: tuple[Path, ...],
    run_path: Path | None,
    preset: str | None,
    config_file: Path | None,
    settings: tuple[str, ...],
    resume: bool,
) -> None:
    """Train a network that predicts xHII of a cell from the fields around it.

    The run folder holds the configuration, log.jsonl, the checkpoints last.pt and best.pt, and
    figures. Ctrl-C stops after the batch in progress; --resume goes on from there.

    \b
    Keys of the configuration (see the presets for values):
      inputs redshifts transforms network radius channels kernel shared_branches conv_bias
      final_activation feature_dropout head_dropout head_dropout_widths head_widths recompute
      loss learning_rate scheduler scheduler_factor scheduler_patience batch_size
      samples_per_epoch epochs validation_samples split random_cells seed device num_workers
      memory_budget

    \b
    Examples:
      ionmodel train --store cubes.zarr
      ionmodel train --store cubes.zarr --run runs/wide -o radius=6 -o epochs=30
      ionmodel train --store cubes.zarr --run runs/wide --resume
    """
    # Waiting threads that spin take the cores from whoever shares them, and everything gets slower
    # (benchmarks/thread_waiting.py). Read when torch is imported, so set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with options.errors_as_messages():
        from ionmodel.config import DEFAULT_PRESET
        from ionmodel.run_folder import RunFolder, check_new, default_run_folder
        from ionstore.store import CubeStore

        if resume and run_path is None:
            raise click.UsageError("--resume needs --run, the folder to go on in")
        if run_path is not None and not resume:
            check_new(run_path)
        opened = [CubeStore.open(path) for path in stores]
        given = _given_keys(preset, config_file, settings)
        run = RunFolder(run_path or default_run_folder(given.get("preset", DEFAULT_PRESET)))
        _train(_resolve(run, opened, given), opened, run)


def _given_keys(
    preset: str | None, config_file: Path | None, settings: tuple[str, ...]
) -> dict[str, Any]:
    """Return the keys that the user gives, the preset among them when one is named."""
    from ionmodel.config import parse_options, read_toml
    from ionmodel.errors import ConfigError

    given = {**(read_toml(config_file) if config_file else {}), **parse_options(settings)}
    if preset is not None and given.setdefault("preset", preset) != preset:
        raise ConfigError(f"--preset {preset} contradicts the key preset = {given['preset']!r}")
    return given


def _resolve(
    run: "RunFolder", stores: "list[CubeStore]", given: dict[str, Any]
) -> "TrainingConfig":
    """Return the configuration: the checkpoint's own when there is one, else a new one."""
    from ionmodel.checkpoint import load_checkpoint
    from ionmodel.config import DEFAULT_PRESET, make_config, read_preset
    from ionmodel.datasets import fit_radius
    from ionmodel.run_folder import resumed_config

    if run.last.exists():
        return resumed_config(run, make_config(load_checkpoint(run.last)["config"]), given)
    config = make_config({**read_preset(given.get("preset", DEFAULT_PRESET)), **given})
    if "radius" in given:
        return config
    fitted = fit_radius(config, stores)
    if fitted.radius < config.radius:
        click.echo(
            f"Radius lowered from {config.radius} to {fitted.radius}, the largest that fits the "
            f"mesh of {min(s.mesh.cells_per_side for s in stores)} cells a side."
        )
    return fitted


def _train(config: "TrainingConfig", stores: "list[CubeStore]", run: "RunFolder") -> None:
    from ioncli.epochs import EpochDisplay
    from ionmodel import training
    from ionmodel.errors import Interrupted
    from ionstore.process_memory import PeakMemory

    with PeakMemory() as memory, _stop_on_signals() as should_stop, EpochDisplay() as display:
        try:
            result = training.train(
                config,
                stores,
                run,
                on_stage=display.stage,
                on_plan=lambda plan: _announce(plan, run, display.say),
                on_progress=display.batch,
                on_epoch=display.epoch,
                should_stop=should_stop,
            )
        except Interrupted as interrupted:
            named = " ".join(f"--store {store.path}" for store in stores)
            raise click.ClickException(
                f"{interrupted}; go on with: ionmodel train {named} --run {run.path} --resume"
            ) from None
    _summarize(result, run, memory.peak_bytes)


def _announce(plan: "Plan", run: "RunFolder", say: Callable[[str], None]) -> None:
    say(
        f"Run {run.path}: {plan.n_parameters:,} weights, {plan.epochs_left:.3g} epochs of "
        f"{plan.n_training_samples:,} training samples, {plan.n_validation_samples:,} validation "
        f"samples, on {plan.device}."
    )
    say(f"Estimated time: {options.seconds_in_words(plan.seconds)}.")
    if plan.leaks:
        say("Split random: validation neighborhoods overlap training ones; R² leaks.")


def _summarize(result: "Result", run: "RunFolder", peak_bytes: int) -> None:
    if math.isnan(result.best_r2):
        click.echo("Validation R² is undefined: xHII is the same in all validation cells")
    else:
        click.echo(
            f"Validation R² {result.best_r2:.4f} over {result.n_validation_samples:,} cells "
            f"(epoch {result.best_epoch} of {len(result.history)})"
        )
    click.echo(f"Peak memory  {options.bytes_in_words(peak_bytes)} (PSS of all processes)")
    click.echo(f"Checkpoint   {run.best}")
    click.echo(f"Figures      {run.loss_figure}")
    click.echo(f"             {run.prediction_figure}")


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and SIGTERM ask for a stop; a second one stops at once."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        # Not through a buffered stream: the signal may have interrupted a write to it.
        os.write(2, b"\nStopping after this batch (again: at once) ...\n")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
