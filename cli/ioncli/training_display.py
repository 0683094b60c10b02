"""Display of a training while it runs: a bar of batches, a line per epoch."""

import math
import time
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from ionmodel.training.events import TrainingProgress, TrainingReporter

if TYPE_CHECKING:
    from ionmodel.config.training_config import Leak

_LINE_INTERVAL_S = 30.0  # logs of trainings that take hours stay readable


def _rate(per_s: float) -> str:
    if math.isnan(per_s):
        return "-"
    return f"{per_s:,.0f}" if per_s >= 10 else f"{per_s:.2g}"


# A score of validation cells whose neighborhoods hold training cells says so beside each number.
def _score(r2: float, *, digits: int, leaks: "Leak | None") -> str:
    return "-" if math.isnan(r2) else f"{r2:.{digits}f}{', leaks' * (leaks == 'neighborhoods')}"


class TrainingDisplay(TrainingReporter):
    """Show a training on standard error; a line every half minute if that is no terminal."""

    def __init__(self) -> None:
        # Names of runs and stores may hold brackets and colons, which are not markup.
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._channels: TaskID | None = None
        self._said = time.monotonic()  # time of the last line, where there is no bar

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """Show a line above the bar."""
        # Not wrapped, so that it stays one line of a log.
        self._console.print(text, soft_wrap=True)

    def note(self, sentence: str) -> None:
        """Show a sentence that the user should read."""
        self.say(f"Note: {sentence}.")

    def stage(self, text: str) -> None:
        """Show a stage of the preparations."""
        self.say(f"{text[0].upper()}{text[1:]} ...")

    def progress(self, done: int, total: int) -> None:
        """Show how many derived channels are computed, on terminals."""
        if not total:  # none are configured, or all are there
            return
        if self._channels is None:
            self._channels = self._bars.add_task("derived channels", numbers="", visible=False)
        self._bars.update(self._channels, completed=done, total=total, visible=done < total)

    def batch(self, progress: TrainingProgress) -> None:
        """Show the progress after a batch."""
        epoch = f"{progress.epoch}/{progress.epochs}"
        r2 = _score(progress.validation_r2, digits=3, leaks=progress.leaks)
        numbers = f"loss {progress.loss:.4f}  R² {r2}  {_rate(progress.cells_per_s)} cells/s"
        share = progress.batch / progress.batches
        if self._console.is_terminal:
            # The bar counts training: it stands still during validation, which the text counts.
            if progress.stage == "validation":
                numbers, share = f"loss {progress.loss:.4f}  R² {r2}  validating {share:.0%}", 1.0
            at = f"epoch {epoch}"
            if self._task is None:
                self._task = self._bars.add_task(at, total=progress.epochs, numbers=numbers)
            done = progress.epoch - 1 + share
            self._bars.update(self._task, completed=done, description=at, numbers=numbers)
        elif time.monotonic() - self._said > _LINE_INTERVAL_S:
            self._said = time.monotonic()
            batch = f"{progress.stage} batch {progress.batch}/{progress.batches}"
            self.say(f"epoch {epoch}  {batch}  {numbers}")

    def epoch(self, entry: dict[str, Any]) -> None:
        """Show one line of the log."""
        self._said = time.monotonic()
        self.say(
            f"epoch {entry['epoch']:3d}  training loss {entry['train_loss']:.4f}  "
            f"validation loss {entry['validation_loss']:.4f}  "
            f"R² {_score(entry['validation_r2'], digits=4, leaks=entry['leaks'])}  "
            f"learning rate {entry['learning_rate']:.1e}  {entry['seconds']:.0f} s"
        )
