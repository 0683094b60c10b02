"""Allocate a few batches once, and lend them in turn.

New shared memory for every batch would cost several times the cut.
"""

import math
import queue
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from ionstore.cube.mesh import Array
from ionstore.loading.shared_memory import allocate

_ALIGNMENT = 64  # bytes: a cache line, and enough for any vector instruction
_LOOK_AGAIN_S = 0.01  # for batches that the loop let go, which nobody announces


@dataclass(frozen=True, slots=True)
class BatchPart:
    """One array of a batch: shape and dtype of a sample's entry."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def n_bytes(self, n_samples: int) -> int:
        """Size of the array for so many samples, rounded up to the alignment."""
        size = n_samples * math.prod(self.shape) * self.dtype.itemsize
        return -(-size // _ALIGNMENT) * _ALIGNMENT


def slot_bytes(parts: Sequence[BatchPart], batch_size: int) -> int:
    """Return the size of one batch in bytes."""
    return sum(part.n_bytes(batch_size) for part in parts)


class BatchSlots:
    """Batches side by side in memory; all that a worker needs to fill one."""

    def __init__(
        self, parts: Sequence[BatchPart], batch_size: int, n_slots: int, *, shared: bool
    ) -> None:
        self.parts = tuple(parts)
        self.batch_size = batch_size
        self.slot_bytes = slot_bytes(parts, batch_size)
        self.n_slots = n_slots
        self._buffer = allocate(n_slots * self.slot_bytes, shared=shared)

    def memory(self, slot: int) -> Array:
        """Return the bytes of a slot: the owner that `arrays` keep alive."""
        return self._buffer.array((self.slot_bytes,), np.uint8, slot * self.slot_bytes)

    def arrays(self, memory: Array, n_samples: int) -> list[Array]:
        """Return a slot's arrays for its first ``n_samples`` samples, as views of its bytes."""
        views: list[Array] = []
        start = 0
        for part in self.parts:
            stop = start + n_samples * math.prod(part.shape) * part.dtype.itemsize
            views.append(memory[start:stop].view(part.dtype).reshape(n_samples, *part.shape))
            start += part.n_bytes(self.batch_size)
        return views


class BatchRing:
    """Hands out slots to fill, and filled ones to a consumer who may keep them.

    A slot lent to the consumer returns when the last array over it is gone. It needs at least
    ``n_lent + 1`` slots.
    """

    def __init__(self, slots: BatchSlots, n_lent: int) -> None:
        self.slots = slots
        self._n_lent = n_lent
        # By id: a weak reference to an array has no hash, as the array has none.
        self._lent: dict[int, tuple[weakref.ref[Array], int]] = {}
        self._gone: deque[weakref.ref[Array]] = deque()
        self._stopped = threading.Event()
        # The slot that was free last is taken first: the rest stays out of the cache's way.
        self._free: queue.LifoQueue[int] = queue.LifoQueue()
        for slot in range(slots.n_slots):
            self._free.put(slot)

    def start(self) -> None:
        """Let `take` wait for slots (again)."""
        self._stopped.clear()

    def stop(self) -> None:
        """Let a `take` that waits, and any later one, return None."""
        self._stopped.set()

    def take(self) -> int | None:
        """Return a slot to fill, once one is free; None after `stop`."""
        while not self._stopped.is_set():
            self._reclaim()
            try:
                return self._free.get(timeout=_LOOK_AGAIN_S)
            except queue.Empty:
                continue
        return None

    def give_back(self, slot: int) -> None:
        """Return a slot that was taken and not lent."""
        self._free.put(slot)

    def lend(self, slot: int, n_samples: int) -> list[Array]:
        """Return the arrays of a filled slot; they stay valid as long as they are held."""
        self._reclaim()
        memory = self.slots.memory(slot)
        # A consumer who keeps more gets copies, so that the ring never runs dry.
        if len(self._lent) >= self._n_lent:
            try:
                return [array.copy() for array in self.slots.arrays(memory, n_samples)]
            finally:
                self.give_back(slot)
        # No Python code runs when the last array goes: a Ctrl-C that it met there would be lost.
        lent = weakref.ref(memory, self._gone.append)
        self._lent[id(lent)] = lent, slot
        return self.slots.arrays(memory, n_samples)

    def _reclaim(self) -> None:
        """Free the slots of batches that are gone."""
        with suppress(IndexError):
            while True:
                _, slot = self._lent.pop(id(self._gone.popleft()))
                self._free.put(slot)

    def __getstate__(self) -> Any:
        raise TypeError("a ring belongs to one process; send its slots to the workers instead")
