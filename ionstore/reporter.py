"""`Reporter`: receives notes and progress of long work."""


class Reporter:
    """Receive what long work reports; this one ignores it.

    Subclass it and override what you want to show. Work on several threads calls one method at a
    time.
    """

    def note(self, sentence: str) -> None:
        """Receive a sentence that the user should read."""

    def stage(self, name: str) -> None:
        """Receive the name of the stage that begins; its progress starts at zero."""

    def progress(self, done: int, total: int) -> None:
        """Receive the progress of the present stage; the total may grow."""


SILENT = Reporter()
