"""Plan memory and order for samples of stores, and iterate over their batches."""

import copy
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Literal, Self

import torch

from ionstore.cube.mesh import Mesh
from ionstore.errors import MemoryBudgetError, bytes_in_words
from ionstore.loading.cubes import select_cubes
from ionstore.loading.device import DeviceFields, available_device
from ionstore.loading.fill import batch_parts
from ionstore.loading.iteration import BatchType, CurrentIteration, Iteration
from ionstore.loading.open_regions import RegionFields
from ionstore.loading.resident import ResidentFields, resident_bytes
from ionstore.loading.ring import slot_bytes
from ionstore.loading.shared_memory import Buffer
from ionstore.loading.sources import DeviceSource, RingSource
from ionstore.sampling.batches import BatchPlan
from ionstore.sampling.memory import MemoryPlan, RegionSizes, batches_do_not_fit, plan_memory
from ionstore.sampling.order import Order
from ionstore.sampling.regions import Reach
from ionstore.sampling.samples import Centers, CubeSamples, Samples
from ionstore.sampling.settings import (
    LoaderSettings,
    SettingsOptions,
    check_option_names,
    whole_number,
)
from ionstore.store.cube_store import StoreLike, open_stores
from ionstore.store.normalization import Normalization

CellsOfStores = Callable[[Sequence[Mesh]], Sequence[Centers]]  # cells of samples, by store
Mode = Literal["resident", "regions", "device"]


@dataclass(frozen=True, slots=True)
class LoaderStats:
    """Memory and time that a loader spends.

    Parameters
    ----------
    mode : {"resident", "regions", "device"}
        Where samples are cut from: whole cubes, a few regions of them, or whole cubes on a device.
    core : int, optional
        Most cells along a side of the cores of regions, whole chunks where they hold one; None
        for uniformly random order.
    n_regions : int
        Regions.
    samples_per_opening : float
        Mean samples taken from a region before the next one takes its place.
    decoded_bytes, batch_bytes : int
        Memory of decoded fields, and of the batches prepared ahead, in this rank.
    predicted_amplification : float
        Cells decoded an epoch over cells of all cores: below 1 where an epoch leaves most regions
        out; 1 for whole cubes that stay.
    measured_amplification : float
        The same, from what was decoded since the loader was made: nan before its first batch, and
        far too large until the regions that are opened first have been left.
    openings : int
        Regions opened so far.
    decode_s : float
        Seconds spent on decoding regions so far, summed over background threads.
    """

    mode: Mode
    core: int | None
    n_regions: int
    samples_per_opening: float
    decoded_bytes: int
    batch_bytes: int
    predicted_amplification: float
    measured_amplification: float
    openings: int
    decode_s: float


DEFAULT_MEMORY_BUDGET_BYTES = 2 * 2**30  # a box of 300³ cells at six redshifts


@dataclass(frozen=True, slots=True)
class _Slots:
    """Memory for blocks of regions, shared by loaders that take turns."""

    n_slots: int
    block_bytes: int
    memory: Buffer | None = None


@dataclass(slots=True)
class _Remainder:
    """Bytes that the decoded fields leave of a budget, for batches of a loader and its siblings."""

    n_bytes: int

    def lend(self, n_bytes: int, loader: "BatchLoader[Any]") -> None:
        """Take some for a loader's batches, until the loader is gone, and they with it."""
        self.n_bytes -= n_bytes
        # Not when it is closed: batches that are still held keep their memory until then. At the
        # end of the interpreter there is nothing to count any more.
        weakref.finalize(loader, self._take_back, n_bytes).atexit = False

    def _take_back(self, n_bytes: int) -> None:
        self.n_bytes += n_bytes


class BatchLoader(ABC, Generic[BatchType]):
    """Iterate over batches of samples cut from stores.

    `NeighborhoodLoader` describes it and its options; ``reach`` is what belongs to a sample.
    """

    _HALO_NAME = "radius"

    def __init__(
        self,
        store: StoreLike | Sequence[StoreLike],
        centers: CellsOfStores,
        reach: Reach,
        batch_size: int,
        *,
        inputs: Sequence[str] = ("n_igm", "n_src"),
        target: str = "xhii",
        redshifts: Sequence[float] | None = None,
        normalization: Normalization | None = None,
        memory_budget: int = DEFAULT_MEMORY_BUDGET_BYTES,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> None:
        check_option_names(options, {option.name for option in fields(LoaderSettings)})
        settings = LoaderSettings(batch_size, **options)
        if settings.pin_memory and not torch.cuda.is_available():
            raise ValueError("pin_memory needs a CUDA device, there is none; leave it out")
        memory_budget = whole_number("memory_budget", memory_budget, 1, "of bytes")
        stores = open_stores(store)
        self._reach = reach
        self._device = None if device is None else available_device(device)
        self._store_of_cube, self._cubes = select_cubes(
            stores,
            inputs,
            target,
            redshifts=redshifts,
            reach=reach,
            normalization=normalization,
            halo_name=self._HALO_NAME,
        )
        self._meshes = [store.mesh for store in stores]
        self._chunk_cells = max(store.layout.chunk_cells for store in stores)
        self._current = CurrentIteration()
        sizes = self._region_sizes(centers, settings)
        memory = self._plan_memory(sizes, settings, memory_budget)
        self._fields: ResidentFields | DeviceFields | None = None
        self._slots: _Slots | None = None
        if self._device is not None:
            self._fields = DeviceFields(self._cubes, self._device)
        elif memory.mode == "resident":
            self._fields = ResidentFields(self._cubes, shared=settings.num_workers > 0)
        else:
            assert memory.core is not None
            self._slots = _Slots(memory.n_slots, sizes.block_bytes(memory.core))
        ranks = settings.ranks_here or settings.world
        self._remainder = _Remainder(memory_budget // ranks)
        self._start(sizes, settings, memory.core)
        self._remainder.n_bytes -= self._decoded_bytes

    def _sibling(self, centers: CellsOfStores, changes: Mapping[str, Any]) -> Self:
        """Return a loader over other samples that shares this one's decoded fields and budget."""
        other = copy.copy(self)  # shares all that `_start` does not make anew
        check_option_names(changes, set(SettingsOptions.__annotations__))
        settings = replace(self._settings, **changes)
        # The fields lie in memory of this process alone then.
        if settings.num_workers and not self._settings.num_workers:
            raise ValueError("num_workers of a sibling must be 0 where that of its loader is")
        sizes = self._region_sizes(centers, settings)
        core = self._plan.regions.core
        if self._slots is None:
            other._current = CurrentIteration()  # whole cubes serve many iterations at a time
        else:
            core = sizes.choose(self._slots.block_bytes, or_smaller=True)
            if core is None:
                raise MemoryBudgetError(
                    "even the smallest regions of these centers do not fit "
                    f"{bytes_in_words(self._slots.block_bytes)} each, what their loader decodes "
                    "into; raise memory_budget"
                )
        ring = self._bytes_of_ring(settings)
        if ring > self._remainder.n_bytes:
            raise batches_do_not_fit(ring, self._remainder.n_bytes, settings.num_workers)
        other._start(sizes, settings, core)
        return other

    def _region_sizes(self, centers: CellsOfStores, settings: LoaderSettings) -> RegionSizes:
        cells = centers(self._meshes)
        samples = Samples(
            [
                CubeSamples(index, cube.target.redshift, cube.mesh_cells, cells[index])
                for index, cube in zip(self._store_of_cube, self._cubes, strict=True)
            ]
        )
        return RegionSizes(
            samples,
            self._reach,
            settings,
            n_channels=len(self._cubes[0].inputs),
            chunk_cells=self._chunk_cells,
        )

    def _plan_memory(
        self, sizes: RegionSizes, settings: LoaderSettings, memory_budget: int
    ) -> MemoryPlan:
        resident = resident_bytes(self._cubes)
        if self._device is not None:
            if settings.num_workers or settings.pin_memory:
                raise ValueError(
                    "fields on a device are cut there: num_workers must be 0 and pin_memory off"
                )
            if resident > memory_budget:
                raise MemoryBudgetError(
                    f"all fields take {bytes_in_words(resident)} of memory, memory_budget is "
                    f"{bytes_in_words(memory_budget)}; raise memory_budget to keep them on "
                    f"{self._device}"
                )
            return MemoryPlan("resident", settings.core)
        batch_bytes = self._batch_bytes(settings.batch_size)
        return plan_memory(
            memory_budget,
            sizes,
            settings,
            resident_bytes=resident,
            batch_bytes=batch_bytes,
            ring_bytes=settings.n_slots * batch_bytes,
        )

    def _start(self, sizes: RegionSizes, settings: LoaderSettings, core: int | None) -> None:
        self._settings, self._sizes = settings, sizes
        regions = sizes.regions(core)
        order = Order(
            regions.sizes,
            seed=settings.seed,
            shuffle=settings.shuffle,
            visits=sizes.visits(core),
            n_samples=settings.samples_per_epoch,
            n_lanes=settings.lanes,
        )
        self._plan = BatchPlan(regions, order, settings.share, settings.symmetries)
        self._position, self._places_visited = 0, 0
        self._iteration: weakref.ref[Iteration[BatchType]] | None = None
        self._source: DeviceSource | RingSource
        if isinstance(self._fields, DeviceFields):
            self._source = DeviceSource(self._fields, self._plan, self._reach)
            return
        fields = self._regions(settings) if self._fields is None else self._fields
        self._source = RingSource(fields, self._plan, self._reach, self._cubes, settings)
        self._remainder.lend(self._bytes_of_ring(settings), self)

    def _regions(self, settings: LoaderSettings) -> RegionFields:
        assert self._slots is not None
        # The memory of the first loader serves all of its siblings, which take turns.
        fields = RegionFields(
            self._plan,
            self._reach,
            n_channels=len(self._cubes[0].inputs),
            n_slots=self._slots.n_slots,
            n_batches=settings.n_slots,
            shared=settings.num_workers > 0,
            memory=self._slots.memory,
        )
        self._slots = replace(self._slots, memory=fields.memory)
        return fields

    @abstractmethod
    def _batch(self, tensors: list[torch.Tensor]) -> BatchType:
        """Return a batch of inputs, target, redshift, cells and store index."""

    @property
    def _decoded_bytes(self) -> int:
        if self._slots is None:
            return resident_bytes(self._cubes)
        assert self._slots.memory is not None
        return self._slots.memory.n_bytes

    @property
    def _mode(self) -> Mode:
        if isinstance(self._fields, DeviceFields):
            return "device"
        return "regions" if self._fields is None else "resident"

    @property
    def batch_size(self) -> int:
        """Samples a batch, over all ranks."""
        return self._settings.batch_size

    @property
    def n_samples(self) -> int:
        """Samples an epoch, over all ranks."""
        return self._plan.order.n_samples

    def __len__(self) -> int:
        """Batches an epoch."""
        return self._plan.n_batches

    def __iter__(self) -> Iterator[BatchType]:
        iteration = Iteration(self._batches())
        self._current.replace(iteration, self)  # two at once would wait for each other's slots
        self._iteration = weakref.ref(iteration)
        return iteration

    @property
    def position(self) -> int:
        """Batches handed out since the first epoch began; set it to go on from there.

        The same on every rank: with the same seed, core and lanes, any number of ranks or workers
        goes on with the very same batches. Setting it ends an iteration that is not at its end:
        asking that one for more raises a RuntimeError.

        Raises
        ------
        ValueError
            If it is set to less than 0, or not to a whole number.
        """
        return self._position

    @position.setter
    def position(self, position: int) -> None:
        position = whole_number("position", position, 0)
        iteration = self._iteration() if self._iteration is not None else None
        if iteration is not None:
            iteration.end(
                "setting position ended this iteration; iterate the loader anew to go on from there"
            )
        self._position = position

    @property
    def stats(self) -> LoaderStats:
        """Mode, memory, and how much is decoded."""
        regions, order = self._plan.regions, self._plan.order
        decoding = self._source.decoding
        predicted, measured = 1.0, 1.0
        if self._slots is not None:
            assert regions.core is not None
            core_cells = self._sizes.core_cells(regions.core)
            predicted = self._sizes.decoded_cells(regions.core) / core_cells
            epochs = self._places_visited / order.n_samples
            here = decoding.cells * self._settings.world
            measured = here / core_cells / epochs if epochs else float("nan")
        return LoaderStats(
            mode=self._mode,
            core=regions.core,
            n_regions=regions.n_regions,
            samples_per_opening=regions.samples.n_samples / int(order.visits.sum()),
            decoded_bytes=self._decoded_bytes,
            batch_bytes=self._bytes_of_ring(self._settings),
            predicted_amplification=predicted,
            measured_amplification=measured,
            openings=decoding.openings,
            decode_s=decoding.seconds,
        )

    def close(self) -> None:
        """End threads and workers; memory goes when the last batch and the loader do.

        Iterating it again starts them anew.
        """
        iteration = self._iteration() if self._iteration is not None else None
        if iteration is not None:
            iteration.close()
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _batches(self) -> Generator[BatchType]:
        # Closed with this generator, whatever ends it: the threads end before the loop does.
        with closing(self._source.batches(*divmod(self._position, len(self)))) as batches:
            for tensors in batches:
                # Before the batch is handed out: a loop that is left has seen it.
                start, stop = self._plan.places(self._position % len(self))
                self._places_visited += stop - start
                self._position += 1
                yield self._batch(tensors)

    def _bytes_of_ring(self, settings: LoaderSettings) -> int:
        """Return what batches that are prepared ahead take; on a device, none are."""
        if self._device is not None:
            return 0
        return settings.n_slots * self._batch_bytes(settings.share.most_samples)

    def _batch_bytes(self, n_samples: int) -> int:
        return slot_bytes(batch_parts(len(self._cubes[0].inputs), self._reach), n_samples)
