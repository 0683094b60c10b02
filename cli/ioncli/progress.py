"""Show the progress that the libraries report as bars or lines."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from ioncli import options
from ionstore.reporter import Reporter

Report = Callable[[int, int], None]


class BarReporter(Reporter):
    """Shows progress as one bar for each stage, or as lines where there is no terminal."""

    def __init__(self, new_bar: Callable[[str], Report], title: str) -> None:
        self._new_bar = new_bar
        self._bars: dict[str, Report] = {}
        self.stage(title)

    def note(self, sentence: str) -> None:
        """Print a sentence above the bars."""
        options.echo_note(sentence)

    def stage(self, name: str) -> None:
        """Begin a bar, shown once there is progress, or continue the one of that name."""
        if name not in self._bars:
            self._bars[name] = self._new_bar(name)
        self._bar = self._bars[name]

    def progress(self, done: int, total: int) -> None:
        """Move the bar."""
        self._bar(done, total)


@contextmanager
def progress_bar(title: str, *, quiet: bool = False) -> Iterator[BarReporter]:
    """Show a bar on standard error while the block runs; lines, a tenth each, if it is a file."""
    # Of several processes that work together, all but one are quiet.
    # Titles hold names of files, where brackets and colons are not markup. Standard error, because
    # a program may read standard output.
    console = Console(stderr=True, markup=False, emoji=False, quiet=quiet)
    if not console.is_terminal:
        yield BarReporter(lambda name: _tenths(console, name), title)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:

        def new_bar(name: str) -> Report:
            # The first bar shows that something began; later ones wait until there is progress.
            return _bar(bars, bars.add_task(name, total=None, visible=name == title))

        yield BarReporter(new_bar, title)


def _bar(bars: Progress, task: TaskID) -> Report:
    def report(done: int, total: int) -> None:
        bars.update(task, completed=done, total=total, visible=True)

    return report


def _tenths(console: Console, title: str) -> Report:
    shown = -1

    def report(done: int, total: int) -> None:
        nonlocal shown
        tenth = 10 * done // max(total, 1)  # a total of 0: there is nothing to do
        if tenth > shown:
            shown = tenth
            # Not wrapped, so that a report stays one line of a log.
            console.print(f"{title}: {10 * tenth} %", soft_wrap=True)

    return report
