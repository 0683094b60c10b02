"""Iterate over loaders: one iteration at a time where they share memory."""

import atexit
import inspect
import weakref
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any, TypeVar

BatchType = TypeVar("BatchType")


class Iteration(Iterator[BatchType]):
    """The batches of one run through what is left of an epoch.

    Closing the generator ends the threads or workers that fill them.
    """

    def __init__(self, batches: Generator[BatchType]) -> None:
        self._batches = batches
        self._ended: str | None = None
        _not_collected.add(self)

    def __next__(self) -> BatchType:
        if self._ended is not None:
            raise RuntimeError(self._ended)
        try:
            return next(self._batches)
        except ValueError as error:
            raise _explained(error) from None

    def close(self) -> None:
        """End it, as if there were no more batches."""
        try:
            self._batches.close()
        except ValueError as error:
            raise _explained(error) from None

    def end(self, reason: str) -> None:
        """End it unless it is at its end; asking for more raises the reason as an error."""
        # A generator that was closed just stops, which a loop takes for the end of its epoch.
        if inspect.getgeneratorstate(self._batches) != inspect.GEN_CLOSED:
            self.close()
            self._ended = reason


_not_collected: weakref.WeakSet[Iteration[Any]] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """End the threads of iterations that a script left half-way."""
    # While there is an interpreter to end them in: a thread that wants it back later is torn down
    # within compiled code, which can abort the process.
    for iteration in list(_not_collected):
        with suppress(RuntimeError):  # another thread waits for its next batch
            iteration.close()


class CurrentIteration:
    """The one that goes on, of a loader or of several that decode into the same memory."""

    def __init__(self) -> None:
        # Weak: a loop that is left ends its iteration, and a loader that is let go its workers.
        self._current: weakref.ref[Iteration[Any]] | None = None
        self._loader: weakref.ref[object] | None = None

    def replace(self, iteration: Iteration[Any], loader: object) -> None:
        """Let an iteration of a loader take the place of the one before, which ends."""
        current = self._current() if self._current is not None else None
        if current is not None:
            if self._loader is not None and self._loader() is loader:
                current.close()
            else:  # that loader's loop must not take this for the end of its epoch
                current.end(
                    "iterating a sibling ended this iteration, as both decode regions into the "
                    "same memory; finish one loop before the other, raise memory_budget until all "
                    "fields fit, or make a loader of its own instead of the sibling"
                )
        self._current, self._loader = weakref.ref(iteration), weakref.ref(loader)


def _explained(error: ValueError) -> Exception:
    """Return the error to raise for one that came out of a generator."""
    # Python's way to say that another thread is in the generator.
    if error.args == ("generator already executing",):
        return RuntimeError(
            "another thread is waiting for a batch of this loader; let one thread iterate it, or "
            "give each a loader of its own"
        )
    return error
