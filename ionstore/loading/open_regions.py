"""Decode a few regions at a time of boxes larger than memory, the next ones in the background.

A few slots of memory hold blocks: one for every lane of the order, which samples are cut from,
and some more, into which the next ones are decoded. A filler waits for the block of the visit that
it needs, and then records how far it has come; the decoder waits for a slot whose block nobody
needs any more. Both look at a few words of memory that all processes see: a lock could be lost
with a killed process. Between processes, this relies on a processor whose writes become visible to
others in their order, as those of the x86 family do: on others a worker process could see a block
before all of it is there. The threads of one process all take the interpreter lock in between.
"""

import heapq
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ionstore.cube.mesh import Array, Fields
from ionstore.loading.cubes import CubeToDecode, FieldToDecode
from ionstore.loading.gather import Blocks, Run
from ionstore.loading.shared_memory import Buffer, allocate
from ionstore.sampling.batches import BatchPlan, Picked
from ionstore.sampling.order import Opening
from ionstore.sampling.regions import Reach, pieces_on_mesh, region_bytes

# Pauses between looks at the shared words: from the first up to the second while one waits.
_LOOK_AGAIN_S = 2e-4
_LONGEST_PAUSE_S = 5e-3
_HELP_OUT_AFTER_S = 5e-3
_MOST_DECODERS = 4
_STORES_IN_ORDER = {"x86_64", "amd64", "x86", "i386", "i486", "i586", "i686"}


class RegionsClosedError(Exception):
    """Nothing is decoded any more: the iteration has ended, or decoding has failed."""


class RegionFields:
    """Slots for the blocks of open regions, and which visit each of them holds.

    Sent to a worker process, an instance refers to the same memory there. Regions that are never
    open at the same time can share ``memory``; at most ``n_batches`` are filled at a time.
    """

    def __init__(
        self,
        plan: BatchPlan,
        reach: Reach,
        *,
        n_channels: int,
        n_slots: int,
        n_batches: int,
        shared: bool,
        memory: Buffer | None = None,
    ) -> None:
        if shared and (processor := platform.machine()).lower() not in _STORES_IN_ORDER:
            raise ValueError(
                "num_workers must be 0 on this processor where the fields do not fit "
                f"memory_budget, as worker processes need one of the x86 family, got {processor}; "
                "set num_workers to 0 or raise memory_budget"
            )
        self.plan = plan
        regions = plan.regions
        self._input_start, self._input_shape, self._target_start, self._target_shape = (
            regions.blocks(reach)
        )
        self.n_channels, self.n_batches = n_channels, n_batches
        n_lanes = plan.order.n_lanes
        # As regions are opened in the order in which they are needed, a slot is then free in time.
        assert n_slots >= n_lanes // plan.share.world
        self._holds_shape = (n_slots,)
        self._reached_shape = (n_batches, n_lanes)
        self._slot_bytes = region_bytes(regions, reach, n_channels=n_channels)
        n_bytes = n_slots * self._slot_bytes
        self.memory = allocate(n_bytes, shared=shared) if memory is None else memory
        assert self.memory.n_bytes >= n_bytes
        self._state = allocate(8 * (2 + n_slots + n_batches * n_lanes), shared=shared)

    def runs(self, batch: int, picked: Picked) -> Iterator[Run]:
        """Yield the samples of a batch region by region, each once its region is open."""
        holds, reached, at = self.holds, self.reached, picked.at
        edges = np.flatnonzero((np.diff(at.lane) != 0) | (np.diff(at.visit) != 0)) + 1
        firsts = np.concatenate([[0], edges])[: len(at.lane)]
        stops = np.append(firsts[1:], len(at.lane))
        wanted = self._label(at.lane[firsts], at.visit[firsts])[:, None]
        row = batch % self.n_batches
        done, pause = 0, _LOOK_AGAIN_S
        while done < len(firsts):
            # All that are open already are cut in one go: a run costs more than a few samples.
            found = holds == wanted[done:]
            is_open, slots = found.any(axis=1), found.argmax(axis=1)
            n = len(is_open) if is_open.all() else int(is_open.argmin())
            if n == 0:
                self.check_open()
                self.waited_for[:] = True
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                continue
            now = slice(done, done + n)
            first, last = int(firsts[done]), int(stops[done + n - 1])
            block = np.repeat(slots[:n], stops[now] - firsts[now])
            blocks = self.blocks(slots[:n], at.region[firsts[now]])
            yield Run(slice(first, last), block, *blocks)
            # After the cut, never before: the decoder then overwrites the block.
            places = at.place[stops[now] - 1] + 1
            reached[row, at.lane[firsts[now]]] = places
            done, pause = done + n, _LOOK_AGAIN_S

    def _label(self, lane: NDArray[np.int64], visit: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the entries of `holds` for visits of lanes."""
        # Two lanes can share a visit, each with a block of its own. 0 is an empty slot.
        return visit * self.plan.order.n_lanes + lane + 1

    def say_held(self, slot: int, opening: Opening) -> None:
        """Record that a slot holds the region of an opening, for all processes to see."""
        self.holds[slot] = self._label(np.array(opening.lane), np.array(opening.visit))

    def blocks(self, slots: NDArray[np.int64], regions: NDArray[np.int64]) -> tuple[Blocks, Blocks]:
        """Return the blocks of inputs and of targets of regions in their slots.

        Both by slot; the entries of other slots have no meaning.
        """
        memory = self.memory.array((self.memory.n_bytes // 4,), np.float32)
        offsets = np.arange(len(self.holds)) * (self._slot_bytes // 4)
        shapes = np.zeros((2, len(offsets), 3), dtype=np.int64)
        starts = np.zeros_like(shapes)
        shapes[:, slots] = self._input_shape[regions], self._target_shape[regions]
        starts[:, slots] = self._input_start[regions], self._target_start[regions]
        inputs = Blocks(memory, offsets, shapes[0], starts[0])
        target_offsets = offsets + self.n_channels * shapes[0].prod(axis=1)
        return inputs, Blocks(memory, target_offsets, shapes[1], starts[1])

    @property
    def holds(self) -> NDArray[np.int64]:
        """The visit in each slot as its `_label`; 0 while it is empty or being filled."""
        return self._state.array(self._holds_shape, np.int64, 16)

    @property
    def reached(self) -> NDArray[np.int64]:
        """Place up to which a batch, by its number modulo `n_batches`, has been cut, by lane."""
        return self._state.array(self._reached_shape, np.int64, 16 + 8 * self._holds_shape[0])

    @property
    def waited_for(self) -> Array:
        """Set when a filler has to wait for a region, cleared when one is opened."""
        return self._state.array((1,), np.int64, 8)

    def clear(self, *, closed: bool) -> None:
        """Empty all slots; while closed, fillers that wait for a region give up."""
        self._closed[:] = closed
        self.waited_for[:] = False
        self.holds[:] = 0
        self.reached[:] = 0

    def close(self) -> None:
        """Let fillers that wait for a region give up."""
        self._closed[:] = True

    def check_open(self) -> None:
        """Check that regions are being decoded."""
        if self._closed[0]:
            raise RegionsClosedError

    @property
    def _closed(self) -> Array:
        return self._state.array((1,), np.int64)


@dataclass(slots=True)
class Decoding:
    """Count of what has been decoded."""

    openings: int = 0
    cells: int = 0  # of all chunks of one input field
    seconds: float = 0.0  # summed over threads


class RegionDecoder:
    """Threads that open the regions of one iteration in the order in which they are needed.

    They add to ``done``.
    """

    def __init__(
        self, regions: RegionFields, cubes: Sequence[CubeToDecode], done: Decoding
    ) -> None:
        self._regions, self._cubes, self._done = regions, cubes, done
        self._threads: list[threading.Thread] = []
        # Held while a thread waits for a slot and takes the next region; and while it counts.
        self._choosing, self._counting = threading.Lock(), threading.Lock()
        self._error: BaseException | None = None

    def start(self, epoch: int, batch: int) -> None:
        """Open the regions that an epoch needs from a batch on, until `stop`."""
        self._regions.clear(closed=False)
        self._stopped = threading.Event()
        self._error = None
        self._first_batch = batch
        order, share = self._regions.plan.order, self._regions.plan.share
        begin = batch * share.batch_size
        self._lanes = {
            lane: order.openings(epoch, lane, -((lane - begin) // order.n_lanes))
            for lane in range(share.rank, order.n_lanes, share.world)
        }
        self._next: list[tuple[int, int, Opening]] = []
        self._in_slot: list[Opening | None] = [None] * len(self._regions.holds)
        for lane in self._lanes:
            self._plan(lane)
        from dask.system import CPU_COUNT  # those that a container may use, not all of the machine

        n_threads = min(_MOST_DECODERS, CPU_COUNT)
        self._threads = [
            threading.Thread(
                target=self._run, args=(index > 0,), name="ionstore-decode", daemon=True
            )
            for index in range(n_threads)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads; fillers that wait for them give up."""
        if self._threads:
            self._stopped.set()
            self._regions.close()
            for thread in self._threads:
                thread.join()
            self._threads = []

    def take_error(self) -> BaseException | None:
        """Return the error that ended the threads, if one did, and forget it."""
        error, self._error = self._error, None
        return error

    def _plan(self, lane: int) -> None:
        opening = next(self._lanes[lane], None)
        if opening is not None:
            plan = self._regions.plan
            first_place = opening.start * plan.order.n_lanes + lane
            # As batches are filled: lane by lane. In any other order, filler and decoder could
            # wait for each other.
            needed = (first_place // plan.share.batch_size, lane)
            heapq.heappush(self._next, (*needed, opening))

    def _run(self, helps_out: bool) -> None:
        """Open region after region; one that helps out does so only if a filler has to wait."""
        # One thread is mostly enough, and others would take processors from the training.
        try:
            while not self._stopped.is_set():
                if helps_out and self._next and not self._regions.waited_for[0]:
                    self._stopped.wait(_HELP_OUT_AFTER_S)
                    continue
                # Slots are taken in the order of need: who comes first may need the only free one.
                with self._choosing:
                    if not self._next:
                        return
                    slot = self._free_slot()
                    if slot is None:
                        return
                    _, _, opening = heapq.heappop(self._next)
                    self._plan(opening.lane)
                    self._in_slot[slot] = opening
                self._open(slot, opening)
        except BaseException as error:  # fillers must not wait for ever
            self._error = error
            self._regions.close()

    def _free_slot(self) -> int | None:
        """Wait for a slot whose block nobody needs any more; None after `stop`."""
        pause = _LOOK_AGAIN_S
        while True:
            for slot, before in enumerate(self._in_slot):
                if before is None or self._is_cut(before):
                    return slot
            if self._stopped.wait(pause):
                return None
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _is_cut(self, opening: Opening) -> bool:
        """Return whether every batch that takes samples of an opening has cut them."""
        # At most `n_batches` are filled at a time, so one that is further back is done.
        regions, n_lanes = self._regions, self._regions.plan.order.n_lanes
        batch_size = regions.plan.share.batch_size
        first = (opening.start * n_lanes + opening.lane) // batch_size
        last = ((opening.stop - 1) * n_lanes + opening.lane) // batch_size
        batches = np.arange(max(first, last - regions.n_batches + 1, self._first_batch), last + 1)
        begins, ends = (
            -((opening.lane - edges * batch_size) // n_lanes) for edges in (batches, batches + 1)
        )
        reached = regions.reached[batches % regions.n_batches, opening.lane]
        # A batch with fewer samples than lanes leaves some lanes out.
        return bool(((reached >= np.minimum(ends, opening.stop)) | (ends <= begins)).all())

    def _open(self, slot: int, opening: Opening) -> None:
        regions = self._regions
        regions.holds[slot] = 0  # before the first value changes
        began = time.perf_counter()
        inputs, targets = regions.blocks(np.array([slot]), np.array([opening.region]))
        cube = self._cubes[int(regions.plan.regions.cube[opening.region])]
        cells = sum(
            _decode(field, inputs, slot, channel) for channel, field in enumerate(cube.inputs)
        )
        _decode(cube.target, targets, slot, 0)
        regions.say_held(slot, opening)  # after the last one has
        regions.waited_for[:] = False
        with self._counting:
            self._done.openings += 1
            self._done.cells += cells // len(cube.inputs)
            self._done.seconds += time.perf_counter() - began


def _decode(field: FieldToDecode, blocks: Blocks, slot: int, channel: int) -> int:
    """Decode a field into one channel of a block; return the cells of its chunks."""
    start, shape = blocks.start[slot], blocks.shapes[slot]
    n_values = int(shape.prod())
    first = int(blocks.offsets[slot]) + channel * n_values
    out: Fields = blocks.memory[first : first + n_values].reshape(shape)
    return sum(
        field.store.read_into(
            field.name, field.redshift, corner, out[place], conversion=field.conversion
        )
        for place, corner in pieces_on_mesh(start, shape, field.store.mesh.cells_per_side)
    )
