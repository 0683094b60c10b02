"""Peak memory of a process and its children, shared pages counted once."""

import threading
from typing import Self

import psutil


def tree_memory_bytes(pid: int | None = None) -> int:
    """Return the proportional set size (PSS) of a process and all its descendants, in bytes.

    Parameters
    ----------
    pid : int, optional
        The process; this one by default. 0 bytes once it has ended.

    Notes
    -----
    A page shared by n processes counts 1/n in each, so the sum counts it once. Where the system
    has no PSS (macOS), the unique set size stands in, which leaves shared pages out.
    """
    try:
        main = psutil.Process(pid)
        processes = [main, *main.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for process in processes:
        try:
            memory = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        total += getattr(memory, "pss", memory.uss)
    return total


class PeakMemory:
    """Watch `tree_memory_bytes` from a background thread while a block runs.

    Parameters
    ----------
    pid : int, optional
        Root of the tree; this process by default.
    interval_s : float
        Seconds between two looks; a peak shorter than that can be missed.

    Attributes
    ----------
    peak_bytes : int
        Largest value seen so far, bytes.
    """

    def __init__(self, pid: int | None = None, *, interval_s: float = 1.0) -> None:
        self.peak_bytes = 0
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
        self.peak_bytes = max(self.peak_bytes, tree_memory_bytes(self._pid))

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval_s):
            self.peak_bytes = max(self.peak_bytes, tree_memory_bytes(self._pid))
