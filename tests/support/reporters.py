"""Reporters for tests."""

from collections.abc import Callable

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
