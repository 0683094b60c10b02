"""`Reporter`: how long work tells what it does."""


class Reporter:
    """Told by long work what it does; this one stays silent.

    Subclass it and override what is to be shown. Work on several threads calls one method at a
    time.
    """

    def note(self, sentence: str) -> None:
        """Take a sentence that the user should read."""

    def stage(self, name: str) -> None:
        """Take the name of what begins now; progress counts anew."""

    def progress(self, done: int, total: int) -> None:
        """Take how much of the present stage is done; the total may grow."""


SILENT = Reporter()
