"""A ring of batches: every batch stays as it is for as long as it is held."""

import pickle
import random
import threading
from collections.abc import Callable

import numpy as np
import pytest

from ionstore.cube.mesh import Array
from ionstore.loading.ring import BatchPart, BatchRing, BatchSlots, slot_bytes

PARTS = (
    BatchPart((2, 3, 3, 3), np.dtype("f4")),
    BatchPart((), np.dtype("f4")),
    BatchPart((3,), np.dtype("i8")),
)
BATCH_SIZE = 5


def make_ring(n_slots: int, n_lent: int) -> BatchRing:
    return BatchRing(BatchSlots(PARTS, BATCH_SIZE, n_slots, shared=True), n_lent)


def take(ring: BatchRing, within_s: float = 30.0) -> int | None:
    """Take a slot; None if there is none in time."""
    timer = threading.Timer(within_s, ring.stop)
    timer.start()
    slot = ring.take()
    timer.cancel()
    timer.join()
    ring.start()
    return slot


def take_one(ring: BatchRing) -> int:
    slot = take(ring)
    assert slot is not None, "no slot came back"
    return slot


def none_is_free(ring: BatchRing) -> bool:
    return take(ring, within_s=0.2) is None


def fill(ring: BatchRing, slot: int, value: int) -> None:
    for array in ring.slots.arrays(ring.slots.memory(slot), BATCH_SIZE):
        array[...] = value


@pytest.mark.parametrize(
    ("shape", "dtype", "n_samples", "n_bytes"),
    [((), "f4", 1, 64), ((), "f4", 16, 64), ((), "f4", 17, 128), ((2, 3), "f8", 4, 192)],
)
def test_a_part_takes_whole_cache_lines(
    shape: tuple[int, ...], dtype: str, n_samples: int, n_bytes: int
) -> None:
    assert BatchPart(shape, np.dtype(dtype)).n_bytes(n_samples) == n_bytes


def test_a_slot_holds_all_parts() -> None:
    assert slot_bytes(PARTS, BATCH_SIZE) == 5 * 54 * 4 + 8 + 64 + 5 * 24 + 8
    slots = BatchSlots(PARTS, BATCH_SIZE, 3, shared=True)
    assert [slots.memory(slot).nbytes for slot in range(3)] == 3 * [slot_bytes(PARTS, BATCH_SIZE)]


@pytest.mark.parametrize("n_samples", [0, 1, BATCH_SIZE])
def test_arrays_have_the_shape_and_dtype_of_their_part(n_samples: int) -> None:
    slots = BatchSlots(PARTS, BATCH_SIZE, 1, shared=True)
    arrays = slots.arrays(slots.memory(0), n_samples)
    assert [array.shape for array in arrays] == [(n_samples, *part.shape) for part in PARTS]
    assert [array.dtype for array in arrays] == [part.dtype for part in PARTS]


def test_arrays_start_at_cache_lines() -> None:
    slots = BatchSlots(PARTS, BATCH_SIZE, 3, shared=True)
    for slot in range(3):
        for array in slots.arrays(slots.memory(slot), BATCH_SIZE):
            assert array.ctypes.data % 64 == 0


def test_arrays_do_not_overlap_within_or_between_slots() -> None:
    slots = BatchSlots(PARTS, BATCH_SIZE, 3, shared=True)
    arrays = [a for slot in range(3) for a in slots.arrays(slots.memory(slot), BATCH_SIZE)]
    for value, array in enumerate(arrays):
        array[...] = value
    for value, array in enumerate(arrays):
        assert (array == value).all()


def test_fewer_samples_are_the_first_of_the_slot() -> None:
    slots = BatchSlots(PARTS, BATCH_SIZE, 2, shared=True)
    whole = slots.arrays(slots.memory(1), BATCH_SIZE)
    for array in whole:
        array[...] = np.arange(array.size).reshape(array.shape)
    for few, all_of_them in zip(slots.arrays(slots.memory(1), 3), whole, strict=True):
        np.testing.assert_array_equal(few, all_of_them[:3])


def test_every_slot_is_handed_out_once() -> None:
    ring = make_ring(n_slots=3, n_lent=2)
    assert {take_one(ring) for _ in range(3)} == {0, 1, 2}
    assert none_is_free(ring)


def test_a_slot_given_back_is_handed_out_again() -> None:
    ring = make_ring(n_slots=2, n_lent=1)
    slot, _ = take_one(ring), take_one(ring)
    ring.give_back(slot)
    assert take_one(ring) == slot


@pytest.mark.parametrize(
    "keep",
    [
        lambda arrays: arrays[1],
        lambda arrays: arrays[0][2:][:, 1].transpose(0, 2, 1, 3)[::2],
        lambda arrays: arrays[2].view("u1").T,
        lambda arrays: memoryview(arrays[0]),
    ],
    ids=["one array", "view of views", "other dtype", "buffer"],
)
def test_a_lent_slot_returns_with_the_last_view_of_it(
    keep: Callable[[list[Array]], object],
) -> None:
    ring = make_ring(n_slots=2, n_lent=1)
    slot, _ = take_one(ring), take_one(ring)
    arrays = ring.lend(slot, BATCH_SIZE)
    kept = keep(arrays)
    del arrays
    assert none_is_free(ring)
    del kept
    assert take_one(ring) == slot


def test_batches_beyond_the_number_lent_are_copies() -> None:
    ring = make_ring(n_slots=3, n_lent=2)
    batches = []
    for value in range(5):
        slot = take_one(ring)
        fill(ring, slot, value)
        batches.append(ring.lend(slot, BATCH_SIZE))
    memory = [ring.slots.memory(slot) for slot in range(3)]
    in_place = [any(np.shares_memory(batch[0], m) for m in memory) for batch in batches]
    assert in_place == [True, True, False, False, False]
    for value, batch in enumerate(batches):
        assert all((array == value).all() for array in batch)


def test_batches_are_lent_again_once_one_is_dropped() -> None:
    ring = make_ring(n_slots=2, n_lent=1)
    first = ring.lend(take_one(ring), BATCH_SIZE)
    del first
    slot = take_one(ring)
    again = ring.lend(slot, BATCH_SIZE)
    assert np.shares_memory(again[0], ring.slots.memory(slot))


def test_a_batch_still_held_is_never_overwritten() -> None:
    ring = make_ring(n_slots=4, n_lent=3)
    choose = random.Random(0)
    held: list[tuple[int, list[Array]]] = []
    for value in range(400):
        slot = ring.take()  # one of the four is never lent
        assert slot is not None
        fill(ring, slot, value)
        if choose.random() < 0.1:
            ring.give_back(slot)
        else:
            held.append((value, ring.lend(slot, choose.randint(1, BATCH_SIZE))))
        while held and choose.random() < 0.45:
            held.pop(choose.randrange(len(held)))
        for expected, batch in held:
            assert all((array == expected).all() for array in batch)


def test_a_batch_outlives_its_ring() -> None:
    ring = make_ring(n_slots=2, n_lent=1)
    slot = take_one(ring)
    fill(ring, slot, 6)
    batch = ring.lend(slot, BATCH_SIZE)
    del ring
    assert all((array == 6).all() for array in batch)


def test_nothing_is_taken_after_stop_until_start() -> None:
    ring = make_ring(n_slots=2, n_lent=1)
    ring.stop()
    assert ring.take() is None
    assert ring.take() is None
    ring.start()
    assert {ring.take(), ring.take()} == {0, 1}


def test_stop_ends_a_take_that_waits() -> None:
    ring = make_ring(n_slots=1, n_lent=0)
    ring.take()
    taken: list[int | None] = []
    waiting = threading.Thread(target=lambda: taken.append(ring.take()), daemon=True)
    waiting.start()
    waiting.join(0.15)
    assert waiting.is_alive()
    ring.stop()
    waiting.join(30)
    assert taken == [None]


def test_a_waiting_take_gets_the_slot_that_returns() -> None:
    ring = make_ring(n_slots=2, n_lent=1)
    slot, _ = take_one(ring), take_one(ring)
    batch = [ring.lend(slot, BATCH_SIZE)]
    timer = threading.Timer(0.15, batch.clear)
    timer.start()
    assert take_one(ring) == slot
    timer.join()


def test_a_ring_does_not_travel() -> None:
    with pytest.raises(TypeError, match="send its slots to the workers instead"):
        pickle.dumps(make_ring(n_slots=2, n_lent=1))
