"""A reporter that keeps what long work tells, for tests."""

from collections.abc import Callable

from ionstore.reporter import Reporter


class Told(Reporter):
    """Calls functions with notes and progress, which may stop the work."""

    def __init__(
        self,
        *,
        on_note: Callable[[str], object] = lambda sentence: None,
        on_progress: Callable[[int, int], object] = lambda done, total: None,
    ) -> None:
        self._on_note, self._on_progress = on_note, on_progress

    def note(self, sentence: str) -> None:
        self._on_note(sentence)

    def progress(self, done: int, total: int) -> None:
        self._on_progress(done, total)
