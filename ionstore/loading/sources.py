"""Batches as tensors: filled ahead into a ring, or cut on a device when they are asked for."""

from collections.abc import Generator, Sequence

import numpy as np
import torch

from ionstore.loading.cubes import CubeToDecode
from ionstore.loading.device import DeviceFields
from ionstore.loading.fill import BatchFiller, Request, batch_parts, fill_in_thread
from ionstore.loading.open_regions import (
    Decoding,
    RegionDecoder,
    RegionFields,
    RegionsClosedError,
)
from ionstore.loading.resident import ResidentFields
from ionstore.loading.ring import BatchRing, BatchSlots
from ionstore.loading.workers import Workers
from ionstore.sampling.batches import BatchPlan
from ionstore.sampling.regions import Reach
from ionstore.sampling.settings import LENT, LoaderSettings


class RingSource:
    """Batches filled ahead into a ring, by a background thread or by worker processes."""

    def __init__(
        self,
        fields: ResidentFields | RegionFields,
        plan: BatchPlan,
        reach: Reach,
        cubes: Sequence[CubeToDecode],
        settings: LoaderSettings,
    ) -> None:
        self._plan, self._pin_memory = plan, settings.pin_memory
        self.decoding = Decoding()
        self._decoder: RegionDecoder | None = None
        if isinstance(fields, RegionFields):
            self._decoder = RegionDecoder(fields, cubes, self.decoding)
        parts = batch_parts(len(cubes[0].inputs), reach)
        most = settings.share.most_samples
        slots = BatchSlots(parts, most, settings.n_slots, shared=settings.num_workers > 0)
        self._ring = BatchRing(slots, LENT)
        self._filler = BatchFiller(fields, plan, slots, reach)
        self._workers: Workers | None = None
        if settings.num_workers:
            self._workers = Workers(self._filler, settings.num_workers)

    def batches(self, epoch: int, first: int) -> Generator[list[torch.Tensor]]:
        """Yield the tensors of an epoch's batches from ``first`` on, as in `batch_parts`."""
        self._ring.start()
        if self._decoder is not None:
            self._decoder.start(epoch, first)
        requests = self._requests(epoch, first)
        if self._workers is None:
            filled = fill_in_thread(self._filler, self._ring, requests)
        else:
            filled = self._workers.fill(self._ring, requests)
        try:
            for request in filled:
                arrays = self._ring.lend(request.slot, request.n_samples)
                tensors = list(map(torch.from_numpy, arrays))
                del arrays  # the slot comes back when the last tensor over it goes
                if self._pin_memory:
                    # Copies: torch page-locks no memory but its own.
                    tensors = [tensor.pin_memory() for tensor in tensors]
                yield tensors
        except RegionsClosedError:
            error = self._decoder.take_error() if self._decoder is not None else None
            if error is None:
                raise
            raise error from None
        finally:
            if self._decoder is not None:
                self._decoder.stop()  # first: the filler may wait for a region
            filled.close()

    def _requests(self, epoch: int, first: int) -> Generator[Request]:
        for batch in range(first, self._plan.n_batches):
            slot = self._ring.take()
            if slot is None:
                return
            yield Request(slot, epoch, batch, self._plan.n_samples(batch))

    def close(self) -> None:
        """End the workers; the next batches start new ones."""
        if self._workers is not None:
            self._workers.close()


class DeviceSource:
    """Batches cut on a device when they are asked for: there, cutting ahead gains nothing."""

    def __init__(self, fields: DeviceFields, plan: BatchPlan, reach: Reach) -> None:
        self._fields, self._plan, self._reach = fields, plan, reach
        self.decoding = Decoding()  # of regions: none

    def batches(self, epoch: int, first: int) -> Generator[list[torch.Tensor]]:
        """Yield the tensors of an epoch's batches from ``first`` on, on the device."""
        samples = self._plan.regions.samples
        for number in range(first, self._plan.n_batches):
            picked = self._plan.pick(epoch, number)
            inputs, target = self._fields.cut(picked, samples.mesh_cells, self._reach)
            in_order = np.argsort(picked.row)
            cube, cells = picked.cube[in_order], picked.cells[in_order]
            described = (samples.redshift[cube], cells, samples.store_index[cube])
            on_device = [torch.from_numpy(values).to(inputs.device) for values in described]
            target = target.flatten() if self._reach.tile == 1 else target.squeeze(1)
            yield [inputs, target, *on_device]

    def close(self) -> None:
        """Do nothing: the fields stay."""
