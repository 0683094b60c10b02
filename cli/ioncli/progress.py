"""Progress bars: the libraries report (done, total), this shows them."""

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

Report = Callable[[int, int], None]


@contextmanager
def progress_bar(title: str) -> Iterator[Report]:
    """Show a bar on standard error while the block runs; yields ``report(done, total)``.

    Where standard error is no terminal, a line is printed at every tenth of the way instead.
    """
    with progress_bars(title) as (report,):
        yield report


@contextmanager
def progress_bars(*titles: str, quiet: bool = False) -> Iterator[list[Report]]:
    """Show several bars as `progress_bar` does, the later ones once they are reported to.

    Where quiet, nothing is shown: for all processes but one of those that work together.
    """
    console = Console(stderr=True, markup=False, emoji=False, quiet=quiet)
    if not console.is_terminal:
        yield [_tenths(console, title) for title in titles]
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield [
            _bar(bars, bars.add_task(title, total=None, visible=place == 0))
            for place, title in enumerate(titles)
        ]


def _bar(bars: Progress, task: TaskID) -> Report:
    def report(done: int, total: int) -> None:
        bars.update(task, completed=done, total=total, visible=True)

    return report


def _tenths(console: Console, title: str) -> Report:
    shown = -1

    def report(done: int, total: int) -> None:
        nonlocal shown
        tenth = 10 * done // max(total, 1)
        if tenth > shown:
            shown = tenth
            console.print(f"{title}: {10 * tenth} %", soft_wrap=True)

    return report
