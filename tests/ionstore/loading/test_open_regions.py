"""Regions open in time, hold what belongs to them, and end with whoever ends them."""

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ionstore.cube.mesh import Region
from ionstore.errors import StoreDamageError
from ionstore.loading.cubes import CubeToDecode, FieldToDecode
from ionstore.loading.gather import Blocks
from ionstore.loading.open_regions import Decoding, RegionDecoder, RegionFields, RegionsClosedError
from ionstore.sampling.batches import BatchPlan, RankShare
from ionstore.sampling.order import Order
from ionstore.sampling.regions import Reach, SampleRegions
from ionstore.sampling.samples import CubeSamples, Samples
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Layout
from tests.support.stores import cubes_at, write_store

MESH, LANES, RADIUS = 11, 4, 2
REDSHIFTS = (9.0, 7.5)


@pytest.fixture(scope="module")
def box11(tmp_path_factory: pytest.TempPathFactory) -> CubeStore:
    path = tmp_path_factory.mktemp("stores") / "cubes.zarr"
    return write_store(path, cubes_at(MESH, REDSHIFTS), REDSHIFTS, layout=Layout(MESH, 4, 8))


def plan_of(*, batch_size: int = 30, rank: int = 0, world: int = 1, visits: int = 3) -> BatchPlan:
    everything = Region((0, 0, 0), (MESH,) * 3)
    samples = Samples([CubeSamples(0, z, MESH, everything) for z in REDSHIFTS])
    regions = SampleRegions(samples, 4, chunk_cells=4)
    order = Order(regions.sizes, seed=1, shuffle=True, visits=visits, n_lanes=LANES)
    return BatchPlan(regions, order, RankShare(batch_size, rank, world), symmetries="none")


def cubes_of(store: CubeStore) -> list[CubeToDecode]:
    return [
        CubeToDecode((FieldToDecode(store, "n_igm", z),), FieldToDecode(store, "xhii", z))
        for z in REDSHIFTS
    ]


def opened(plan: BatchPlan, store: CubeStore, n_slots: int) -> tuple[RegionFields, RegionDecoder]:
    regions = RegionFields(
        plan, Reach(RADIUS), n_channels=1, n_slots=n_slots, n_batches=3, shared=False
    )
    return regions, RegionDecoder(regions, cubes_of(store), Decoding())


@cache
def boxes_of(store: CubeStore) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """Gas and target by redshift; the gas goes on beyond the faces as far as neighborhoods do."""
    return {
        z: (np.pad(store.read_field("n_igm", z), RADIUS, mode="wrap"), store.read_field("xhii", z))
        for z in REDSHIFTS
    }


def around(blocks: Blocks, block: int, cell: np.ndarray, reach: int) -> np.ndarray:
    """The periodic neighborhood of a cell out of a block, value by value."""
    nx, ny, nz = blocks.shapes[block]
    offset = blocks.offsets[block]
    values = blocks.memory[offset : offset + nx * ny * nz].reshape(nx, ny, nz)
    axes = [
        (cell[axis] + np.arange(-reach, reach + 1) - blocks.start[block][axis]) % MESH
        for axis in range(3)
    ]
    return values[np.ix_(*axes)]


def check_batch(regions: RegionFields, store: CubeStore, epoch: int, batch: int) -> int:
    picked = regions.plan.pick(epoch, batch)
    boxes = boxes_of(store)
    seen = 0
    for run in regions.runs(batch, picked):
        for block, cell, cube in zip(
            run.block, picked.cells[run.samples], picked.cube[run.samples], strict=True
        ):
            gas, xhii = boxes[REDSHIFTS[cube]]
            box = tuple(slice(i, i + 2 * RADIUS + 1) for i in cell)
            assert np.array_equal(around(run.inputs, block, cell, RADIUS), gas[box])
            assert around(run.targets, block, cell, 0) == xhii[tuple(cell)]
            seen += 1
    return seen


@pytest.mark.parametrize("n_slots", [LANES, LANES + 1, LANES + 2, 2 * LANES, 40])
@pytest.mark.parametrize("n_fillers", [1, 3])
@pytest.mark.parametrize("batch_size", [3, 30, 900])
def test_any_number_of_slots_from_one_a_lane_serves_any_number_of_fillers(
    box11: CubeStore, n_slots: int, n_fillers: int, batch_size: int
) -> None:
    plan = plan_of(batch_size=batch_size)
    regions, decoder = opened(plan, box11, n_slots)
    batches = range(min(plan.n_batches, 40))
    counts: list[int] = []
    pending: deque[Future[int]] = deque()
    decoder.start(0, 0)
    try:
        with ThreadPoolExecutor(n_fillers) as fillers:
            for batch in batches:  # as with slots of a ring: none begins while an older one lags
                if len(pending) == n_fillers:
                    counts.append(pending.popleft().result())
                pending.append(fillers.submit(check_batch, regions, box11, 0, batch))
            counts += [future.result() for future in pending]
    finally:
        decoder.stop()
    assert counts == [plan.n_samples(batch) for batch in batches]


@pytest.mark.parametrize("world", [2, 4])
def test_a_rank_opens_the_regions_of_its_own_lanes(box11: CubeStore, world: int) -> None:
    plan = plan_of(rank=1, world=world)
    regions, decoder = opened(plan, box11, LANES // world)
    decoder.start(1, 5)  # in the midst of an epoch
    try:
        for batch in range(5, 20):
            assert check_batch(regions, box11, 1, batch) == plan.n_samples(batch)
    finally:
        decoder.stop()


def test_a_visit_that_two_lanes_share_is_open_in_both(box11: CubeStore) -> None:
    plan = plan_of(visits=1)  # 54 regions in four lanes: some are cut by the end of a lane
    lanes_of_visit: dict[int, set[int]] = {}
    for lane in range(LANES):
        for opening in plan.order.openings(0, lane, 0):
            lanes_of_visit.setdefault(opening.visit, set()).add(lane)
    assert max(map(len, lanes_of_visit.values())) == 2
    regions, decoder = opened(plan, box11, LANES)
    decoder.start(0, 0)
    try:
        assert sum(check_batch(regions, box11, 0, b) for b in range(plan.n_batches)) == 2 * MESH**3
    finally:
        decoder.stop()


def test_closing_lets_whoever_waits_give_up(box11: CubeStore) -> None:
    regions, _ = opened(plan_of(), box11, LANES)
    regions.clear(closed=False)
    threading.Timer(0.05, regions.close).start()
    with pytest.raises(RegionsClosedError):
        list(regions.runs(0, regions.plan.pick(0, 0)))


def test_what_ends_decoding_is_told_once(tmp_path: Path) -> None:
    store = write_store(tmp_path / "cubes.zarr", cubes_at(MESH, REDSHIFTS), REDSHIFTS)
    for shard in shards_of(tmp_path / "cubes.zarr" / "xhii"):
        shard.write_bytes(shard.read_bytes()[:-1])
    regions, decoder = opened(plan_of(), store, LANES)
    decoder.start(0, 0)
    with pytest.raises(RegionsClosedError):
        list(regions.runs(0, regions.plan.pick(0, 0)))
    decoder.stop()
    assert isinstance(decoder.take_error(), StoreDamageError)
    assert decoder.take_error() is None


def shards_of(field: Path) -> Iterator[Path]:
    return (path for path in (field / "c").rglob("*") if path.is_file())
