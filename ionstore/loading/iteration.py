"""Iterations over loaders: one at a time where they share memory, and told what ended them."""

import atexit
import inspect
import weakref
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any, TypeVar

BatchType = TypeVar("BatchType")


class Iteration(Iterator[BatchType]):
    """The batches of one run through what is left of an epoch.

    Parameters
    ----------
    batches : generator
        Closing it ends whatever fills them.
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
        """End it, as if there were no more batches.

        Raises
        ------
        RuntimeError
            If another thread waits for its next batch.
        """
        try:
            self._batches.close()
        except ValueError as error:
            raise _explained(error) from None

    def end(self, reason: str) -> None:
        """End it unless it is at its end: whoever asks for more gets the reason as an error.

        Raises
        ------
        RuntimeError
            If another thread waits for its next batch.
        """
        if inspect.getgeneratorstate(self._batches) != inspect.GEN_CLOSED:
            self.close()
            self._ended = reason


_not_collected: weakref.WeakSet[Iteration[Any]] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """End the threads of what a script left half-way, while there is an interpreter to end them in.

    A thread that wants it back later is torn down within compiled code, which can abort the
    process.
    """
    for iteration in list(_not_collected):
        with suppress(RuntimeError):  # another thread waits for its next batch
            iteration.close()


class Turn:
    """Whose iteration it is: one loader's, or that of several that decode into the same memory."""

    def __init__(self) -> None:
        self._current: weakref.ref[Iteration[Any]] | None = None
        self._loader: weakref.ref[object] | None = None

    def take(self, iteration: Iteration[Any], loader: object) -> None:
        """Begin an iteration of a loader; the one before ends.

        If it was one of another loader, that one's loop must not take it for the end of its epoch.
        """
        current = self._current() if self._current is not None else None
        if current is not None:
            if self._loader is not None and self._loader() is loader:
                current.close()
            else:
                current.end(
                    "iterating a sibling ended this iteration, as both decode regions into the "
                    "same memory; finish one loop before the other, raise memory_budget until all "
                    "fields fit, or make a loader of its own instead of the sibling"
                )
        self._current, self._loader = weakref.ref(iteration), weakref.ref(loader)


def _explained(error: ValueError) -> Exception:
    """Return what to raise for an error of a generator."""
    if error.args == ("generator already executing",):
        return RuntimeError(
            "another thread is waiting for a batch of this loader; let one thread iterate it, or "
            "give each a loader of its own"
        )
    return error
