"""What stands in a filled batch, and how the thread that fills them ends."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from ionstore.cube.mesh import Region
from ionstore.loading.cubes import CubeToDecode, FieldToDecode
from ionstore.loading.fill import BatchFiller, Request, batch_parts, fill_in_thread
from ionstore.loading.gather import Run
from ionstore.loading.resident import ResidentFields
from ionstore.loading.ring import BatchRing, BatchSlots
from ionstore.sampling.batches import BatchPlan, Picked, RankShare
from ionstore.sampling.order import Order
from ionstore.sampling.regions import Reach, SampleRegions
from ionstore.sampling.samples import CubeSamples, Samples
from ionstore.sampling.symmetry import Symmetries, transformed
from ionstore.store.cube_store import CubeStore

REDSHIFTS = (9.0, 7.5)
N_SLOTS = 3


def filler_of(
    store: CubeStore,
    reach: Reach,
    *,
    symmetries: Symmetries = "none",
    n_slots: int = N_SLOTS,
    shared: bool = False,
) -> BatchFiller:
    everything = Region((0, 0, 0), store.mesh.shape)
    samples = Samples([CubeSamples(4, z, store.mesh.cells_per_side, everything) for z in REDSHIFTS])
    regions = SampleRegions(samples, None, chunk_cells=5)
    order = Order(regions.sizes, seed=3, shuffle=True)
    plan = BatchPlan(regions, order, RankShare(50), symmetries)
    inputs = ("n_igm", "n_src")
    cubes = [
        CubeToDecode(
            tuple(FieldToDecode(store, name, z) for name in inputs),
            FieldToDecode(store, "xhii", z),
        )
        for z in REDSHIFTS
    ]
    slots = BatchSlots(batch_parts(2, reach), 50, n_slots, shared=shared)
    return BatchFiller(ResidentFields(cubes, shared=shared), plan, slots, reach)


@pytest.mark.parametrize("reach", [Reach(0), Reach(2), Reach(1, 3)])
@pytest.mark.parametrize("symmetries", ["none", "permutations", "all"])
def test_every_row_holds_its_sample(
    small_store: CubeStore, reach: Reach, symmetries: Symmetries
) -> None:
    filler = filler_of(small_store, reach, symmetries=symmetries)
    filler.fill(Request(slot=1, epoch=2, batch=5, n_samples=50))
    inputs, target, redshift, cells, store_index = filler.slots.arrays(filler.slots.memory(1), 50)
    picked = filler.plan.pick(2, 5)
    boxes = {
        z: [small_store.read_field(name, z).astype("f4") for name in ("n_igm", "n_src", "xhii")]
        for z in REDSHIFTS
    }
    for place, row in enumerate(picked.row):
        cell, z = picked.cells[place], REDSHIFTS[picked.cube[place]]
        assert (redshift[row], store_index[row]) == (z, 4)
        np.testing.assert_array_equal(cells[row], cell)
        axis = np.arange(-reach.radius, reach.tile + reach.radius)
        around = np.ix_(*((cell[a] + axis) % 12 for a in range(3)))
        within = np.ix_(*((cell[a] + np.arange(reach.tile)) % 12 for a in range(3)))
        turn = int(picked.symmetry[place])
        for channel in range(2):
            expected = transformed(boxes[z][channel][around], turn)
            np.testing.assert_array_equal(inputs[row, channel], expected)
        expected = transformed(boxes[z][2][within], turn)
        np.testing.assert_array_equal(target[row].reshape(expected.shape), expected)


def requests_of(ring: BatchRing, n_batches: int) -> Iterator[Request]:
    for batch in range(n_batches):
        slot = ring.take()
        if slot is None:
            return
        yield Request(slot, 0, batch, 50)


def running() -> int:
    return sum(thread.name == "ionstore-fill" for thread in threading.enumerate())


def test_a_thread_fills_ahead_in_order_and_ends_with_the_last(small_store: CubeStore) -> None:
    filler = filler_of(small_store, Reach(1))
    ring = BatchRing(filler.slots, 1)
    filled = []
    for request in fill_in_thread(filler, ring, requests_of(ring, 10)):
        filled.append(request.batch)
        ring.give_back(request.slot)
    assert filled == list(range(10))
    assert running() == 0


def test_leaving_early_ends_the_thread_and_frees_its_slots(small_store: CubeStore) -> None:
    filler = filler_of(small_store, Reach(1))
    ring = BatchRing(filler.slots, 1)
    filled = fill_in_thread(filler, ring, requests_of(ring, 10))
    ring.give_back(next(filled).slot)
    filled.close()
    assert running() == 0
    ring.start()
    assert {ring.take() for _ in range(N_SLOTS)} == set(range(N_SLOTS))


def test_what_fails_while_filling_is_raised_and_its_slot_is_free(small_store: CubeStore) -> None:
    class Gone(ResidentFields):
        def __init__(self) -> None:
            pass

        def runs(self, batch: int, picked: Picked) -> Iterator[Run]:
            raise OSError("gone")

    filler = replace(filler_of(small_store, Reach(1)), fields=Gone())
    ring = BatchRing(filler.slots, 1)
    with pytest.raises(OSError, match="gone"):
        next(fill_in_thread(filler, ring, requests_of(ring, 10)))
    assert running() == 0
    ring.start()
    assert {ring.take() for _ in range(N_SLOTS)} == set(range(N_SLOTS))
