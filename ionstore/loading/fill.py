"""Filling batches ahead of a consumer, from a background thread."""

import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from ionstore.cube.mesh import Array, Cells
from ionstore.loading.decoded import Blocks
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
    """Fills slots with the samples that a plan asks for; can be sent to a worker.

    Parameters
    ----------
    fields : ResidentFields or RegionFields
        Decoded fields of the plan's cubes, in its order.
    plan : BatchPlan
        Which samples make up a batch.
    slots : BatchSlots
        Arrays as `batch_parts` names them.
    reach : Reach
        Inputs and targets of a sample.
    """

    fields: ResidentFields | RegionFields
    plan: BatchPlan
    slots: BatchSlots
    reach: Reach

    def fill(self, request: Request) -> None:
        """Write one batch into its slot.

        Raises
        ------
        _RegionsClosedError
            If it needs a region that will not be opened any more.
        """
        memory = self.slots.memory(request.slot)
        inputs, target, redshift, cells, store_index = self.slots.arrays(memory, request.n_samples)
        picked = self.plan.pick(request.epoch, request.batch)
        samples = self.plan.partition.samples
        mesh_cells = samples.mesh_cells[picked.cube][:, None]
        target = target.reshape(request.n_samples, 1, *(self.reach.tile,) * 3)
        for run in self.fields.runs(request.batch, picked):
            here = run.samples
            rows, symmetry = picked.row[here], picked.symmetry[here]
            at, mesh = picked.cells[here], mesh_cells[here]
            _cut(run.inputs, run.block, at - self.reach.radius, mesh, symmetry, rows, inputs)
            _cut(run.targets, run.block, at, mesh, symmetry, rows, target)
        redshift[picked.row] = samples.redshift[picked.cube]
        cells[picked.row] = picked.cells
        store_index[picked.row] = samples.store_index[picked.cube]


def _cut(  # noqa: PLR0917
    blocks: Blocks,
    block: NDArray[np.int64],
    first: Cells,
    mesh_cells: NDArray[np.int64],
    symmetry: NDArray[np.int64],
    rows: NDArray[np.int64],
    out: Array,
) -> None:
    within = (first - blocks.start[block]) % mesh_cells
    cut(blocks.memory, blocks.offsets, blocks.shapes, block, within, symmetry, rows, out)


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

    Whatever stops the consumer ends the thread; what stops the thread is raised here.

    Parameters
    ----------
    filler : BatchFiller
        Fills one slot.
    ring : BatchRing
        Bounds how far the thread runs ahead: ``requests`` blocks while no slot is free.
    requests : iterator of Request
        Advanced in the thread only. Must end soon after `BatchRing.stop`.
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
