"""Peak memory of a process and its children, with shared pages counted once."""

import threading
from typing import Self

import psutil


def tree_memory_bytes(pid: int | None = None) -> int:
    """Return the bytes of a process and all its descendants, by default of this process."""
    try:
        main = psutil.Process(pid)
        processes = [main, *main.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    # Proportional set size: a page that n processes share counts 1/n in each, so the sum counts it
    # once. macOS has none; its unique set size leaves shared pages out.
    total = 0
    for process in processes:
        try:
            memory = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # a child ended since it was listed, or belongs to another user
        total += getattr(memory, "pss", memory.uss)
    return total


class PeakMemory:
    """Measure the peak of `tree_memory_bytes` from a background thread while a block runs."""

    def __init__(self, pid: int | None = None, *, interval_s: float = 1.0) -> None:
        self.peak_bytes = 0  # so far; peaks shorter than the interval can be missed
        self._pid = pid
        self._interval_s = interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        self.peak_bytes = tree_memory_bytes(self._pid)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        self._thread.join()
        # The last interval may hold the peak.
        self.peak_bytes = max(self.peak_bytes, tree_memory_bytes(self._pid))

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval_s):
            self.peak_bytes = max(self.peak_bytes, tree_memory_bytes(self._pid))
