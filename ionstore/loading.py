"""Batches of neighborhoods for torch, cut on demand from fields in shared memory.

`NeighborhoodLoader` decodes every field that it needs once, into memory that all workers share,
and cuts neighborhoods into a small ring of preallocated batches. Two ways to run it:

- ``num_workers=0``: a background thread cuts, without holding the interpreter lock. As fast as
  one worker process and simpler; the default.
- ``num_workers >= 1``: torch DataLoader workers cut. Worth it when one core cannot cut as fast as
  the network trains, on a GPU for instance. Workers import the main module, so a script needs its
  ``if __name__ == "__main__":``.

Memory is that of the fields (4 bytes a cell, field and redshift) and of the ring (4 batches, or 3
and 2 a worker); ``memory_budget`` bounds their sum.
"""

import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from os import PathLike
from typing import Any, Self

import torch

from ionstore.errors import MemoryBudgetError
from ionstore.filling import Filler, Request, batch_parts, fill_by_thread
from ionstore.normalize import Normalization
from ionstore.order import Centers, CubeSamples, SamplePlan, centers_of_boxes
from ionstore.resident import Cube, ResidentFields
from ionstore.ring import BatchSlots, Ring, slot_bytes
from ionstore.store import CubeStore
from ionstore.workers import AHEAD, Workers

DEFAULT_MEMORY_BUDGET_BYTES = 2 * 2**30

_LENT = 2  # a loop holds one batch while it asks for the next


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A batch of neighborhoods, valid as long as it or any of its tensors is held.

    Parameters
    ----------
    inputs : tensor of float32, shape (B, C, width, width, width)
        Neighborhoods of the input fields, in their own units unless the loader normalizes them.
    target : tensor of float32, shape (B,)
        Target field at the centers.
    redshift : tensor of float64, shape (B,)
        Redshift of each sample's cube.
    centers : tensor of int64, shape (B, 3)
        Center cells (i, j, k).
    store_index : tensor of int64, shape (B,)
        Place of each sample's store among the loader's stores.
    """

    inputs: torch.Tensor
    target: torch.Tensor
    redshift: torch.Tensor
    centers: torch.Tensor
    store_index: torch.Tensor

    def __len__(self) -> int:
        return len(self.target)

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on a device."""
        return Batch(*(getattr(self, part.name).to(device) for part in fields(self)))


Store = str | PathLike[str] | CubeStore


class NeighborhoodLoader:
    """Iterate over batches of periodic neighborhoods and the target at their centers.

    Iterating runs through what is left of the current epoch; iterating again starts the next one.
    There is one iteration at a time: a new one ends the one before.
    An epoch visits every sample once, in an order that depends on the seed and the epoch only.

    Parameters
    ----------
    store : path, CubeStore or sequence of them
        Stores to cut from.
    inputs : sequence of str
        Names of the input fields, the channels in this order.
    target : str
        Name of the target field.
    redshifts : sequence of float, optional
        Redshifts to use; all of every store by default.
    centers : Region or ndarray of int64, shape (n, 3), or one of them for each store, optional
        Center cells, the same at every redshift; every cell by default. Cells off the mesh wrap.
    radius : int
        Neighborhood radius in cells; the width is ``2 * radius + 1``.
    batch_size : int
        Samples a batch; the last batch of an epoch can be smaller.
    seed : int
        Seed of the order.
    memory_budget : int
        Bound on decoded fields and batches, bytes, over all processes.
    num_workers : int
        Worker processes; 0 cuts in a background thread.
    normalization : Normalization, optional
        Applied to the inputs once, when they are decoded.
    shuffle : bool
        Random order; otherwise cube after cube, center after center.
    samples_per_epoch : int, optional
        Visit only so many samples an epoch, others in each epoch when shuffled.

    Raises
    ------
    ValueError
        If an argument is out of range, a store lacks a field or is too small for the radius, or
        workers cannot import the main module.
    NotInStoreError
        If a store does not hold a redshift.
    StoreFormatError
        If a path is not a complete store.
    MemoryBudgetError
        If fields and batches do not fit the budget.

    Examples
    --------
    Training in four lines::

        with NeighborhoodLoader("cubes.zarr", radius=4, batch_size=256) as loader:
            for epoch in range(3):
                for batch in loader:
                    loss = criterion(network(batch.inputs), batch.target)
    """

    def __init__(
        self,
        store: Store | Sequence[Store],
        *,
        inputs: Sequence[str] = ("n_igm", "n_src"),
        target: str = "xhii",
        redshifts: Sequence[float] | None = None,
        centers: Centers | Sequence[Centers] | None = None,
        radius: int,
        batch_size: int,
        seed: int = 2021,
        memory_budget: int = DEFAULT_MEMORY_BUDGET_BYTES,
        num_workers: int = 0,
        normalization: Normalization | None = None,
        shuffle: bool = True,
        samples_per_epoch: int | None = None,
    ) -> None:
        stores = _opened(store)
        _check_numbers(radius, batch_size, seed, num_workers, samples_per_epoch)
        _check_stores(stores, inputs, target, radius, redshifts)
        cubes = [
            Cube(index, opened.redshifts[opened.redshift_index(redshift)])
            for index, opened in enumerate(stores)
            for redshift in (opened.redshifts if redshifts is None else redshifts)
        ]
        self._settings: dict[str, Any] = {
            "radius": radius,
            "batch_size": batch_size,
            "seed": seed,
            "num_workers": num_workers,
            "shuffle": shuffle,
            "samples_per_epoch": samples_per_epoch,
        }
        one_batch = slot_bytes(batch_parts(len(inputs), radius), batch_size)
        batches = one_batch * _n_slots(num_workers)
        if batches >= memory_budget:
            raise MemoryBudgetError(_batches_do_not_fit(batches, memory_budget))
        self._stores = stores
        self._cubes = cubes
        self._resident = ResidentFields(
            stores,
            cubes,
            inputs=inputs,
            target=target,
            normalization=normalization,
            memory_budget_bytes=memory_budget - batches,
        )
        self._budget_left = memory_budget - batches - self._resident.n_bytes
        self._start(centers, **self._settings)

    def sibling(self, centers: Centers | Sequence[Centers] | None, **changes: Any) -> Self:
        """Return a loader over other centers that shares this one's decoded fields and budget.

        Parameters
        ----------
        centers : Region, ndarray of int64, shape (n, 3), or one of them for each store
            Its center cells.
        **changes
            Of ``batch_size``, ``seed``, ``num_workers``, ``shuffle``, ``samples_per_epoch``.

        Raises
        ------
        ValueError
            If an argument is out of range.
        MemoryBudgetError
            If its batches do not fit what this loader leaves of the budget.
        """
        other = type(self).__new__(type(self))
        other._settings = {**self._settings, **changes}
        numbers = ("radius", "batch_size", "seed", "num_workers", "samples_per_epoch")
        _check_numbers(*(other._settings[name] for name in numbers))
        parts = batch_parts(self._resident.n_channels, other._settings["radius"])
        batches = slot_bytes(parts, other._settings["batch_size"])
        batches *= _n_slots(other._settings["num_workers"])
        if batches > self._budget_left:
            raise MemoryBudgetError(_batches_do_not_fit(batches, self._budget_left))
        self._budget_left -= batches
        other._budget_left = 0
        other._stores, other._cubes, other._resident = self._stores, self._cubes, self._resident
        other._start(centers, **other._settings)
        return other

    def _start(
        self,
        centers: Centers | Sequence[Centers] | None,
        *,
        radius: int,
        batch_size: int,
        seed: int,
        num_workers: int,
        shuffle: bool,
        samples_per_epoch: int | None,
    ) -> None:
        regions = centers_of_boxes([store.mesh for store in self._stores], centers)
        cubes = [
            CubeSamples(cube.store_index, cube.redshift, regions[cube.store_index])
            for cube in self._cubes
        ]
        plan = SamplePlan(cubes, seed=seed, shuffle=shuffle)
        self._position = 0
        self.batch_size = batch_size
        self.n_samples = plan.n_samples
        if samples_per_epoch is not None:
            self.n_samples = min(samples_per_epoch, plan.n_samples)
        parts = batch_parts(self._resident.n_channels, radius)
        slots = BatchSlots(parts, batch_size, _n_slots(num_workers))
        self._ring = Ring(slots, _LENT)
        self._filler = Filler(self._resident, plan, slots, radius)
        self._workers = Workers(self._filler, num_workers) if num_workers else None
        self._iteration: weakref.ref[Generator[Batch]] | None = None

    def __len__(self) -> int:
        """Batches an epoch."""
        return (self.n_samples + self.batch_size - 1) // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        self._stop_iteration()  # two at once would wait for each other's slots
        iteration = self._batches()
        self._iteration = weakref.ref(iteration)
        return iteration

    def _batches(self) -> Generator[Batch]:
        self._ring.start()
        requests = self._requests()
        if self._workers is None:
            filled = fill_by_thread(self._filler, self._ring, requests)
        else:
            filled = self._workers.fill(self._ring, requests)
        with closing(filled):
            for request in filled:
                arrays = self._ring.lend(request.slot, request.n_samples)
                self._position += 1
                yield Batch(*map(torch.from_numpy, arrays))

    @property
    def position(self) -> int:
        """Batches handed out since the first epoch began; set it to go on from there.

        Raises
        ------
        ValueError
            If it is set to less than 0.
        """
        return self._position

    @position.setter
    def position(self, position: int) -> None:
        if position < 0:
            raise ValueError(f"position must be at least 0, got {position}")
        self._position = position

    def close(self) -> None:
        """End thread and workers; memory goes when the last batch and the loader do."""
        self._stop_iteration()
        if self._workers is not None:
            self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _stop_iteration(self) -> None:
        iteration = self._iteration() if self._iteration is not None else None
        if iteration is not None:
            iteration.close()

    def _requests(self) -> Generator[Request]:
        epoch, first = divmod(self._position, len(self))
        for batch in range(first, len(self)):
            slot = self._ring.take()
            if slot is None:
                return
            start = batch * self.batch_size
            yield Request(slot, epoch, start, min(start + self.batch_size, self.n_samples))


def _n_slots(num_workers: int) -> int:
    # With workers, a new batch is asked for before the last one that came is lent.
    return _LENT + (1 + AHEAD * num_workers if num_workers else 2)


def _opened(store: Store | Sequence[Store]) -> list[CubeStore]:
    stores = [store] if isinstance(store, str | PathLike | CubeStore) else list(store)
    if not stores:
        raise ValueError("store must name at least one store, got none")
    return [one if isinstance(one, CubeStore) else CubeStore.open(one) for one in stores]


def _check_numbers(
    radius: int, batch_size: int, seed: int, num_workers: int, samples_per_epoch: int | None
) -> None:
    samples = 1 if samples_per_epoch is None else samples_per_epoch
    if min(radius, num_workers, seed) < 0 or batch_size < 1 or samples < 1:
        raise ValueError(
            "radius, num_workers and seed must be at least 0, batch_size and samples_per_epoch at "
            f"least 1, got radius {radius}, num_workers {num_workers}, seed {seed}, batch_size "
            f"{batch_size}, samples_per_epoch {samples_per_epoch}"
        )


def _batches_do_not_fit(batches: int, memory_budget: int) -> str:
    return (
        f"the batches prepared ahead take {batches / 1e6:.0f} MB of memory, memory_budget leaves "
        f"{memory_budget / 1e6:.0f} MB for them; raise memory_budget or lower batch_size"
    )


def _check_stores(
    stores: Sequence[CubeStore],
    inputs: Sequence[str],
    target: str,
    radius: int,
    redshifts: Sequence[float] | None,
) -> None:
    if not inputs or (redshifts is not None and not len(redshifts)):
        raise ValueError(
            f"inputs and redshifts must name at least one each, got inputs {list(inputs)}, "
            f"redshifts {redshifts}"
        )
    for store in stores:
        missing = [name for name in (*inputs, target) if name not in store.field_names]
        if missing:
            raise ValueError(
                f"{store.path} must hold {', '.join(missing)}, it holds "
                f"{', '.join(store.field_names)}"
            )
        if 2 * radius + 1 > store.mesh.cells_per_side:
            raise ValueError(
                f"radius {radius} needs a mesh of {2 * radius + 1} cells a side, {store.path} has "
                f"{store.mesh.cells_per_side}"
            )
