"""Run independent tasks on dask's threads, and count their progress."""

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

    Results are in the order of the items. The first exception of the function is raised; by then,
    calls under way have returned, and no others begin.
    """
    from dask.system import CPU_COUNT
    from dask.threaded import get  # `dask.compute` would import distributed, for 0.4 s

    # A partial is opaque to dask, which would otherwise look for its own graphs in every item.
    # Of tasks that are all ready, dask takes the one with the last key; keys count down, so that
    # items begin in their order.
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
    """Add up the progress of several threads, and report the sum and the total."""

    def __init__(self, total: int, report: Callable[[int, int], None] | None) -> None:
        self._total = total
        self._report = report
        self._done = 0
        self._lock = threading.Lock()

    def expect(self, amount: int) -> None:
        """Add to the total."""
        with self._lock:
            self._total += amount

    def add(self, amount: int) -> None:
        """Add to the progress, and report it."""
        # Reports under the lock, so that they come one at a time and never go back.
        with self._lock:
            self._done += amount
            if self._report is not None:
                self._report(self._done, self._total)
