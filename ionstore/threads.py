"""Independent tasks on dask's threads."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar, cast

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_THREADS = 8  # more would only hold more blocks in memory


def run_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Call a function on every item, on one thread more than there are processors, 8 at most.

    Parameters
    ----------
    function : callable
        Called once per item, on any thread.
    items : iterable
        What it is called with.

    Returns
    -------
    list
        Results in the order of the items.

    Raises
    ------
    Exception
        What the function raised first. What has not begun then does not begin any more, and the
        calls under way have returned.
    """
    from dask.system import CPU_COUNT
    from dask.threaded import get  # `dask.compute` would import distributed, for 0.4 s

    # A partial is opaque to dask, which would otherwise look for its own graphs in every item.
    # Among tasks that could all go first dask takes the one with the last key: the first item.
    todo = list(items)
    tasks = {
        f"task-{len(todo) - index:012}": (partial(function, item),)
        for index, item in enumerate(todo)
    }
    # One more than processors: while it waits for the disk, the others work.
    # Leaving the pool waits: nothing may still write when an interrupt or an error goes on.
    with ThreadPoolExecutor(min(MAX_THREADS, CPU_COUNT + 1)) as pool:
        results = get(tasks, list(tasks), pool=pool)
    return cast(list[Result], list(results))


class ProgressCounter:
    """Adds up what several threads have done.

    Parameters
    ----------
    total : int
        All there is to do.
    report : callable, optional
        Called with the sum so far and the total, by one thread at a time.
    """

    def __init__(self, total: int, report: Callable[[int, int], None] | None) -> None:
        self._total = total
        self._report = report
        self._done = 0
        self._lock = threading.Lock()

    def expect(self, amount: int) -> None:
        """Let there be more to do than was known."""
        with self._lock:
            self._total += amount

    def add(self, amount: int) -> None:
        """Report that more has been done."""
        with self._lock:
            self._done += amount
            if self._report is not None:
                self._report(self._done, self._total)
