"""Batches: the same for any number of ranks."""

import numpy as np
import pytest

from ionstore.cube.mesh import Region
from ionstore.sampling.batches import BatchPlan, Picked, RankShare
from ionstore.sampling.order import Order
from ionstore.sampling.regions import SampleRegions
from ionstore.sampling.samples import CubeSamples, Samples
from ionstore.sampling.symmetry import Symmetries


def plan_of(
    rank: int, world: int, *, batch_size: int = 30, symmetries: Symmetries = "all"
) -> BatchPlan:
    region = Region((0, 0, 0), (5, 9, 9))
    samples = Samples([CubeSamples(0, z, 9, region) for z in (8.0, 7.0)])
    regions = SampleRegions(samples, 4, chunk_cells=2)
    order = Order(regions.sizes, seed=1, shuffle=True, visits=3, n_lanes=8)
    return BatchPlan(regions, order, RankShare(batch_size, rank, world), symmetries)


def described(picked: Picked) -> set[tuple[int, ...]]:
    rows = zip(picked.cube, picked.cells, picked.symmetry, strict=True)
    return {(int(cube), *cell.tolist(), int(symmetry)) for cube, cell, symmetry in rows}


@pytest.mark.parametrize("batch_size", [1, 8, 30])
@pytest.mark.parametrize("world", [2, 4, 8])
def test_the_parts_of_all_ranks_make_up_the_batch(world: int, batch_size: int) -> None:
    whole = plan_of(0, 1, batch_size=batch_size)
    for batch in {0, 1, whole.n_batches - 1}:
        parts = [plan_of(rank, world, batch_size=batch_size) for rank in range(world)]
        picked = [plan.pick(2, batch) for plan in parts]
        assert set.union(*map(described, picked)) == described(whole.pick(2, batch))
        sizes = [len(part.row) for part in picked]
        assert sizes == [plan.n_samples(batch) for plan in parts]
        assert sum(sizes) == whole.n_samples(batch)
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= parts[0].share.most_samples


def test_a_batch_takes_equally_from_all_lanes() -> None:
    picked = plan_of(0, 1).pick(0, 3)
    counts = np.bincount(picked.at.lane, minlength=8)
    assert set(counts.tolist()) == {3, 4}


def test_rows_are_a_permutation_and_lanes_come_one_by_one() -> None:
    picked = plan_of(1, 2).pick(0, 3)
    assert sorted(picked.row.tolist()) == list(range(15))
    assert (np.diff(picked.at.lane) >= 0).all()
    for lane in set(picked.at.lane.tolist()):
        assert (np.diff(picked.at.place[picked.at.lane == lane]) == 1).all()


def test_symmetries_belong_to_the_sample_whatever_the_regions() -> None:
    of_cell = {}
    for core in (None, 2, 9):
        plan = plan_of(0, 1)
        regions = SampleRegions(plan.regions.samples, core, chunk_cells=2)
        order = Order(regions.sizes, seed=1, shuffle=True)
        plan = BatchPlan(regions, order, RankShare(1000), symmetries="all")
        of_cell[core] = described(plan.pick(4, 0))
    assert of_cell[None] == of_cell[2] == of_cell[9]
    assert len({row[-1] for row in of_cell[None]}) == 48


def test_without_symmetries_nothing_is_turned() -> None:
    assert not plan_of(0, 1, symmetries="none").pick(0, 0).symmetry.any()
