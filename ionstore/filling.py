"""Filling batches ahead of a consumer, from a background thread."""

import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

from ionstore.order import SamplePlan
from ionstore.resident import ResidentFields
from ionstore.ring import BatchPart, BatchSlots, Ring


@dataclass(frozen=True, slots=True)
class Request:
    """One batch: positions ``start`` to ``stop`` of an epoch, and the slot to put it in."""

    slot: int
    epoch: int
    start: int
    stop: int

    @property
    def n_samples(self) -> int:
        """Samples in the batch."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Filler:
    """Fills slots with the neighborhoods that a plan asks for; can be sent to a worker.

    Parameters
    ----------
    resident : ResidentFields
        Decoded fields of the plan's cubes, in its order.
    plan : SamplePlan
        Which samples stand where in an epoch.
    slots : BatchSlots
        Arrays as `batch_parts` names them.
    radius : int
        Neighborhood radius in cells.
    """

    resident: ResidentFields
    plan: SamplePlan
    slots: BatchSlots
    radius: int

    def fill(self, request: Request) -> None:
        """Write one batch into its slot."""
        memory = self.slots.memory(request.slot)
        inputs, target, redshift, centers, store_index = self.slots.arrays(
            memory, request.n_samples
        )
        start = 0
        for cube_index, cells in self.plan.batch(request.epoch, request.start, request.stop):
            cube = self.plan.cubes[cube_index]
            here = slice(start, start + len(cells))
            self.resident.gather(cube_index, cells, self.radius, inputs[here])
            target[here] = self.resident.targets(cube_index, cells)
            redshift[here] = cube.redshift
            centers[here] = cells
            store_index[here] = cube.store_index
            start = here.stop


def batch_parts(n_channels: int, radius: int) -> tuple[BatchPart, ...]:
    """Return the arrays of a batch: inputs, target, redshift, centers, store index."""
    width = 2 * radius + 1
    return (
        BatchPart((n_channels, width, width, width), np.dtype(np.float32)),
        BatchPart((), np.dtype(np.float32)),
        BatchPart((), np.dtype(np.float64)),
        BatchPart((3,), np.dtype(np.int64)),
        BatchPart((), np.dtype(np.int64)),
    )


def fill_by_thread(filler: Filler, ring: Ring, requests: Iterator[Request]) -> Generator[Request]:
    """Yield requests in their order as a background thread fills their slots.

    Whatever stops the consumer ends the thread; what stops the thread is raised here.

    Parameters
    ----------
    filler : Filler
        Fills one slot.
    ring : Ring
        Bounds how far the thread runs ahead: ``requests`` blocks while no slot is free.
    requests : iterator of Request
        Advanced in the thread only. Must end soon after `Ring.stop`.
    """
    filled: SimpleQueue[Request | BaseException | None] = SimpleQueue()

    def fill() -> None:
        try:
            for request in requests:
                try:
                    filler.fill(request)
                except BaseException:
                    ring.give_back(request.slot)
                    raise
                filled.put(request)
            filled.put(None)
        except BaseException as error:  # whatever it is, the consumer must see it
            filled.put(error)

    thread = threading.Thread(target=fill, name="ionstore-fill", daemon=True)
    thread.start()
    try:
        while (item := filled.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        ring.stop()
        thread.join()
        while not filled.empty():
            if isinstance(left := filled.get(), Request):
                ring.give_back(left.slot)
