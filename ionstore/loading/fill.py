"""Fill batches ahead of a consumer, from a background thread."""

import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

from ionstore.loading.gather import cut
from ionstore.loading.open_regions import RegionFields
from ionstore.loading.resident import ResidentFields
from ionstore.loading.ring import BatchPart, BatchRing, BatchSlots
from ionstore.sampling.batches import BatchPlan
from ionstore.sampling.regions import Reach


@dataclass(frozen=True, slots=True)
class Request:
    """One batch of an epoch, and the slot to put it in."""

    slot: int
    epoch: int
    batch: int
    n_samples: int


@dataclass(frozen=True, slots=True)
class BatchFiller:
    """Fills slots with the samples of a plan; can be sent to a worker."""

    fields: ResidentFields | RegionFields
    plan: BatchPlan
    slots: BatchSlots  # with the arrays of `batch_parts`
    reach: Reach

    def fill(self, request: Request) -> None:
        """Write one batch into its slot."""
        memory = self.slots.memory(request.slot)
        inputs, target, redshift, cells, store_index = self.slots.arrays(memory, request.n_samples)
        picked = self.plan.pick(request.epoch, request.batch)
        samples = self.plan.regions.samples
        mesh_cells = samples.mesh_cells[picked.cube][:, None]
        # A tile of one cell has no axes of its own in the batch, but the cut needs them.
        target = target.reshape(request.n_samples, 1, *(self.reach.tile,) * 3)
        for run in self.fields.runs(request.batch, picked):
            here = run.samples
            rows, symmetry = picked.row[here], picked.symmetry[here]
            at, mesh = picked.cells[here], mesh_cells[here]
            for blocks, halo, out in (
                (run.inputs, self.reach.radius, inputs),
                (run.targets, 0, target),
            ):
                within = (at - halo - blocks.start[run.block]) % mesh
                cut(blocks, run.block, within, symmetry, rows, out)
        redshift[picked.row] = samples.redshift[picked.cube]
        cells[picked.row] = picked.cells
        store_index[picked.row] = samples.store_index[picked.cube]


def batch_parts(n_channels: int, reach: Reach) -> tuple[BatchPart, ...]:
    """Return the arrays of a batch: inputs, target, redshift, cells, store index."""
    tile = () if reach.tile == 1 else (reach.tile,) * 3
    return (
        BatchPart((n_channels, *(reach.width,) * 3), np.dtype(np.float32)),
        BatchPart(tile, np.dtype(np.float32)),
        BatchPart((), np.dtype(np.float64)),
        BatchPart((3,), np.dtype(np.int64)),
        BatchPart((), np.dtype(np.int64)),
    )


def fill_in_thread(
    filler: BatchFiller, ring: BatchRing, requests: Iterator[Request]
) -> Generator[Request]:
    """Yield requests in their order as a background thread fills their slots.

    Only the thread advances ``requests``, which bound how far it runs ahead and must end soon after
    `BatchRing.stop`.
    """
    filled: SimpleQueue[Request | BaseException | None] = SimpleQueue()

    def fill() -> None:
        try:
            for request in requests:
                try:
                    filler.fill(request)
                except BaseException:  # the slot must come back, or the ring would run dry
                    ring.give_back(request.slot)
                    raise
                filled.put(request)
            filled.put(None)
        except BaseException as error:  # whatever it is, the consumer must see it
            filled.put(error)

    # A daemon: a loop that is left half-way must not keep its script from ending.
    thread = threading.Thread(target=fill, name="ionstore-fill", daemon=True)
    thread.start()
    try:
        while (item := filled.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        # First: the thread may wait for a slot. Once it has ended, nobody else gives back the slots
        # of batches that it filled in vain.
        ring.stop()
        thread.join()
        while not filled.empty():
            if isinstance(left := filled.get(), Request):
                ring.give_back(left.slot)
