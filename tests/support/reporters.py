"""Reporters for tests."""

from collections.abc import Callable
from typing import Any

from ionmodel.training.events import TrainingReporter
from ionstore.reporter import Reporter


class ProgressTo(Reporter):
    """Hands all progress to a function."""

    def __init__(self, report: Callable[[int, int], object]) -> None:
        self._report = report

    def progress(self, done: int, total: int) -> None:
        self._report(done, total)


class ProgressList(ProgressTo):
    """Keeps all progress in `shown`."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, int]] = []
        super().__init__(lambda done, total: self.shown.append((done, total)))


def telling(**methods: Any) -> TrainingReporter:
    """Return a reporter that calls these functions in place of its methods."""
    reporter = TrainingReporter()
    for name, method in methods.items():
        if not hasattr(reporter, name):
            raise TypeError(f"TrainingReporter has no method {name}")
        setattr(reporter, name, method)
    return reporter
