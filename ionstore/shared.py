"""Memory that several processes see and nobody has to clean up."""

import errno
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable
from multiprocessing import reduction
from typing import Any

import numpy as np
import psutil

from ionstore.cube import Array
from ionstore.errors import MemoryBudgetError


class SharedBuffer:
    """Bytes shared with the worker processes that an instance is sent to.

    The memory belongs to a file without a name, so that it vanishes with the last process that
    holds it, however that process ends. It is not bounded by the size of ``/dev/shm``.

    Parameters
    ----------
    n_bytes : int
        Size in bytes, at least 1.

    Raises
    ------
    MemoryBudgetError
        If the system cannot give that much memory.
    """

    def __init__(self, n_bytes: int) -> None:
        descriptor = _open_nameless()
        try:
            if n_bytes > psutil.virtual_memory().available:
                # Linux would end processes to find the memory before it refuses.
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            if hasattr(os, "posix_fallocate"):
                # Without it, a shortage would kill the process at the first touch of a page.
                os.posix_fallocate(descriptor, 0, n_bytes)
            else:
                os.ftruncate(descriptor, n_bytes)
        except OSError as error:
            os.close(descriptor)
            raise MemoryBudgetError(
                f"{n_bytes / 1e6:.0f} MB of shared memory were required, the system refused "
                f"({error.strerror}); lower memory_budget or the batch size"
            ) from error
        self._attach(descriptor, n_bytes)

    def _attach(self, descriptor: int, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self._descriptor = descriptor
        self._memory = mmap.mmap(descriptor, n_bytes)
        weakref.finalize(self, os.close, descriptor)

    def __reduce__(self) -> tuple[Callable[[Any, int], "SharedBuffer"], tuple[Any, int]]:
        return _attach_shared, (reduction.DupFd(self._descriptor), self.n_bytes)

    def array(self, shape: tuple[int, ...], dtype: Any, offset: int = 0) -> Array:
        """Return a view of the memory as an array; it keeps the memory alive."""
        return np.ndarray(shape, dtype, buffer=self._memory, offset=offset)


def _attach_shared(descriptor: Any, n_bytes: int) -> SharedBuffer:
    shared = SharedBuffer.__new__(SharedBuffer)
    shared._attach(descriptor.detach(), n_bytes)
    return shared


def _open_nameless() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("ionstore")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
