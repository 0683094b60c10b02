"""Allocate memory for fields and batches, of one process or of several.

Nobody has to clean it up.
"""

import errno
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import reduction
from typing import Any

import numpy as np
import psutil

from ionstore.cube.mesh import Array
from ionstore.errors import MemoryBudgetError, bytes_in_words


class Buffer:
    """Bytes that arrays are views of."""

    n_bytes: int
    _memory: mmap.mmap

    def array(self, shape: tuple[int, ...], dtype: Any, offset: int = 0) -> Array:
        """Return a view of the memory as an array; it keeps the memory alive."""
        return np.ndarray(shape, dtype, buffer=self._memory, offset=offset)


class SharedBuffer(Buffer):
    """Bytes shared with the worker processes that an instance is sent to."""

    # The memory belongs to a file without a name, so that it vanishes with the last process that
    # holds it, however that process ends. The size of /dev/shm, small in containers, does not
    # bound it.
    def __init__(self, n_bytes: int) -> None:
        descriptor = _open_nameless()
        try:
            _check_available(n_bytes)
            if hasattr(os, "posix_fallocate"):
                # Without it, a shortage would kill the process at the first touch of a page.
                os.posix_fallocate(descriptor, 0, n_bytes)
            else:
                os.ftruncate(descriptor, n_bytes)
        except OSError as error:
            os.close(descriptor)
            raise _refused(n_bytes, error) from error
        self._attach(descriptor, n_bytes)

    def _attach(self, descriptor: int, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self._descriptor = descriptor
        self._memory = mmap.mmap(descriptor, n_bytes)
        weakref.finalize(self, os.close, descriptor)  # the mapping stays as long as arrays of it

    def __reduce__(self) -> tuple[Callable[[Any, int], "SharedBuffer"], tuple[Any, int]]:
        return _attach_shared, (reduction.DupFd(self._descriptor), self.n_bytes)


class PrivateBuffer(Buffer):
    """Bytes of this process alone."""

    def __init__(self, n_bytes: int) -> None:
        try:
            _check_available(n_bytes)
            self._memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise _refused(n_bytes, error) from error
        # Neighborhoods are rows far apart: with small pages, looking up where a page lies takes
        # longer than copying the row. Shared memory has small pages on most systems.
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without large pages
                self._memory.madvise(mmap.MADV_HUGEPAGE)
        self.n_bytes = n_bytes

    def __getstate__(self) -> Any:
        raise TypeError("private memory does not travel to other processes; share it instead")


def allocate(n_bytes: int, *, shared: bool) -> Buffer:
    """Return new memory of zeros, shared with worker processes or not."""
    return SharedBuffer(n_bytes) if shared else PrivateBuffer(n_bytes)


def _check_available(n_bytes: int) -> None:
    if n_bytes > psutil.virtual_memory().available:
        # Linux would end processes to find the memory before it refuses.
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def _refused(n_bytes: int, error: OSError) -> MemoryBudgetError:
    return MemoryBudgetError(
        f"{bytes_in_words(n_bytes)} of memory were required, the system refused "
        f"({error.strerror}); lower memory_budget or the batch size"
    )


def _attach_shared(descriptor: Any, n_bytes: int) -> SharedBuffer:
    shared = SharedBuffer.__new__(SharedBuffer)
    shared._attach(descriptor.detach(), n_bytes)
    return shared


def _open_nameless() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("ionstore")
    # Systems other than Linux have no memfd: a file that is deleted while it is open serves there.
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
