"""``ionmodel predict``."""

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ioncli import options
from ioncli.progress import BarReporter, progress_bar
from ionmodel.prediction.reporter import PREDICTING_STAGE, PredictionReporter
from ionstore.errors import bytes_in_words

if TYPE_CHECKING:
    from ionmodel.prediction.plan import PredictionPlan


class Size(click.ParamType[int]):
    """A number of bytes, also in words such as 2GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        from ionmodel.config.keys import parse_size

        try:
            size = int(parse_size(value))
        except ValueError:
            size = 0
        if size <= 0:
            self.fail(f"expected a size such as 800MB or 2GiB, got {value!r}", param, ctx)
        return size


@click.command()
@click.option(
    "--run",
    "run_path",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the run; its best network predicts.",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=Path("cubes.zarr"),
    help="Store with the fields to predict from.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("predicted.zarr"),
    help="Store to write, with the field xhii_predicted.",
)
@click.option(
    "--redshift",
    "redshifts",
    type=float,
    multiple=True,
    help="Redshift to predict; may be repeated.  [default: all]",
)
@click.option(
    "--memory", type=Size(), default="2GiB",
    help="Memory limit of each process, on top of Python and torch.",
)  # fmt: skip
@click.option(
    "--device", type=click.Choice(("auto", "cpu", "cuda", "mps")), default="auto",
    help="Device to compute on; auto uses an accelerator if there is one.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace a store at OUT.")
def predict(
    run_path: Path,
    store: Path,
    out: Path,
    redshifts: tuple[float, ...],
    memory: int,
    device: str,
    overwrite: bool,
) -> None:
    """Predict the ionized fraction of whole boxes.

    Boxes may be of any size: they are read, predicted and written in blocks. To resume a
    prediction that was stopped, run the same command again.

    \b
    Examples:
      ionmodel predict --run runs/first --store cubes.zarr
      ionmodel predict --run runs/first --store other.zarr --out other_predicted.zarr --redshift 8
      torchrun --nproc-per-node 4 -- $(which ionmodel) predict --run runs/first --store cubes.zarr
    """
    with options.errors_as_messages():
        # Late, so that --help need not wait for torch.
        from ioncli.process_memory import PeakMemory
        from ionmodel.prediction.predictor import load
        from ionmodel.prediction.store import predict_store
        from ionmodel.ranks import is_first_process
        from ionstore.store.cube_store import CubeStore

        cubes, predictor = CubeStore.open(store), load(run_path, device=device)
        began = time.monotonic()
        try:
            bars = progress_bar(PREDICTING_STAGE, quiet=not is_first_process())
            with PeakMemory() as peak, bars as bar:
                display = _Display(bar, device=predictor.device.type)
                inventory = predict_store(
                    predictor,
                    cubes,
                    out,
                    redshifts=redshifts,
                    memory_bytes=memory,
                    overwrite=overwrite,
                    command_line=shlex.join(["ionmodel", *sys.argv[1:]]),
                    reporter=display,
                )
        except KeyboardInterrupt:
            click.echo("Stopped; run the same command again to resume.", err=True)
            raise click.exceptions.Exit(130) from None  # 128 + SIGINT, as shells expect
    if inventory is None:  # another process of torchrun; the first one reports
        return
    seconds = time.monotonic() - began
    statistics = inventory.fields["xhii_predicted"].statistics
    for redshift, found in zip(inventory.redshifts, statistics, strict=True):
        click.echo(f"redshift {redshift:g}: mean predicted xHII by volume {found.mean:.4f}")
    plan = display.plans[0]
    click.echo(
        f"{_cells_in_words(plan)} in {options.seconds_in_words(seconds)}"
        f"{_pace_in_words(seconds, plan.n_cells_left)}; peak memory "
        f"{bytes_in_words(peak.peak_bytes)} (PSS), Python and torch included"
    )
    if display.sentences:
        click.echo("Outside the training range:")
        for sentence in display.sentences:
            click.echo(f"  {sentence}")
    click.echo(f"Wrote {out}")
    # `ionstore view` needs a redshift where there are several.
    one = f" --redshift {inventory.redshifts[0]:g}" if len(inventory.redshifts) > 1 else ""
    click.echo(f"Next: ionstore view {out} --field xhii_predicted{one}")


class _Display(PredictionReporter):
    """Shows a prediction while it runs, and keeps plans and notes for the summary."""

    def __init__(self, bar: BarReporter, *, device: str) -> None:
        self._bar, self._device = bar, device
        self.plans: list[PredictionPlan] = []
        self.sentences: list[str] = []

    def note(self, sentence: str) -> None:
        """Print a sentence above the bars."""
        self._bar.note(sentence)

    def stage(self, name: str) -> None:
        """Move the bar of another stage from now on."""
        self._bar.stage(name)

    def progress(self, done: int, total: int) -> None:
        """Move the bar."""
        self._bar.progress(done, total)

    def unlike(self, sentence: str) -> None:
        """Print a sentence before the work begins, so that a user may stop it."""
        options.echo_note(sentence)
        self.sentences.append(sentence)

    def plan(self, plan: "PredictionPlan") -> None:
        """Announce the size and the duration of the work."""
        self.plans.append(plan)
        _announce(plan, device=self._device)


def _cells_in_words(plan: "PredictionPlan") -> str:
    left = f"{plan.n_cells_left:,} of " if plan.left != plan.parts else ""
    return f"{left}{plan.n_cells:,} cells"


def _pace_in_words(seconds: float, n_cells: int) -> str:
    if not n_cells:
        return ""
    per_cell = 1e6 * seconds / n_cells
    return f", {f'{per_cell:,.0f}' if per_cell >= 10 else f'{per_cell:.2g}'} µs a cell"


def _announce(plan: "PredictionPlan", *, device: str) -> None:
    cells = _cells_in_words(plan) + " left" * (plan.left != plan.parts)
    how = (
        "cell by cell, because the network pads its neighborhoods"
        if plan.by_patches
        else f"in tiles of {plan.tile}³ cells"
    )
    shared = f", in each of {plan.n_processes} processes" if plan.n_processes > 1 else ""
    click.echo(
        f"{cells} at {options.counted(len(plan.redshifts), 'redshift')} {how}, on "
        f"{device}: about {options.seconds_in_words(plan.seconds)} (decoding, encoding and derived "
        f"channels come on top) and {bytes_in_words(plan.memory_bytes)} on top of "
        f"Python and torch{shared}.",
        file=sys.stderr,
    )
