"""Regions: every sample in one of them, every block large enough, not larger than needed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ionstore.cube.mesh import Region
from ionstore.sampling.regions import (
    Reach,
    SampleRegions,
    chunks_touched,
    core_candidates,
    core_edges,
    pieces_on_mesh,
)
from ionstore.sampling.samples import CubeSamples, Samples

RNG = np.random.default_rng(0)
CENTERS = {
    "whole": Region((0, 0, 0), (23, 23, 23)),
    "slab": Region((4, 0, 2), (7, 23, 1)),
    "list": RNG.integers(-30, 50, size=(200, 3)),
    "one cell": np.array([[22, 0, 5]]),
}


def two_redshifts(name: str) -> Samples:
    return Samples([CubeSamples(0, z, 23, CENTERS[name]) for z in (8.0, 7.0)])


@pytest.mark.parametrize("core", [1, 4, 5, 10, 23, 40])
@pytest.mark.parametrize("name", CENTERS)
def test_every_sample_is_in_one_region(name: str, core: int) -> None:
    samples = two_redshifts(name)
    regions = SampleRegions(samples, core, chunk_cells=5)
    region = np.repeat(np.arange(regions.n_regions), regions.sizes)
    member = np.concatenate([np.arange(size) for size in regions.sizes])
    numbers = regions.numbers(region, member)
    assert sorted(numbers.tolist()) == list(range(samples.n_samples))
    cube, cells = samples.find(numbers)
    np.testing.assert_array_equal(cube, regions.cube[region])
    within = cells % 23 - regions.start[region]
    assert (within >= 0).all()
    assert (within < regions.shape[region]).all()
    assert (regions.shape <= core).all()
    assert (regions.sizes > 0).all()


@pytest.mark.parametrize(("asked", "core"), [(3, 3), (5, 5), (9, 5), (10, 10), (24, 20)])
def test_cores_are_whole_chunks_where_they_hold_one(asked: int, core: int) -> None:
    regions = SampleRegions(two_redshifts("whole"), asked, chunk_cells=5)
    assert regions.core == core
    assert regions.shape.max() <= core


def test_one_region_of_everything_leaves_numbers_alone() -> None:
    regions = SampleRegions(two_redshifts("list"), None, chunk_cells=5)
    assert regions.sizes.tolist() == [400]
    assert regions.numbers(np.zeros(3, int), np.array([7, 399, 0])).tolist() == [7, 399, 0]


def test_lists_and_regions_can_stand_side_by_side() -> None:
    samples = Samples(
        [
            CubeSamples(0, 8.0, 23, CENTERS["list"]),
            CubeSamples(1, 8.0, 23, CENTERS["slab"]),
            CubeSamples(2, 8.0, 30, CENTERS["list"]),
        ]
    )
    regions = SampleRegions(samples, 6, chunk_cells=3)
    region = np.repeat(np.arange(regions.n_regions), regions.sizes)
    member = np.concatenate([np.arange(size) for size in regions.sizes])
    numbers = regions.numbers(region, member)
    assert sorted(numbers.tolist()) == list(range(samples.n_samples))
    np.testing.assert_array_equal(samples.find(numbers)[0], regions.cube[region])


@pytest.mark.parametrize("reach", [Reach(0), Reach(3), Reach(11), Reach(2, 4), Reach(3, 19)])
@pytest.mark.parametrize("name", CENTERS)
def test_blocks_hold_what_samples_reach_and_no_more(name: str, reach: Reach) -> None:
    samples = two_redshifts(name)
    regions = SampleRegions(samples, 6, chunk_cells=5)
    blocks = regions.blocks(reach)
    for halo, start, shape in ((reach.radius, *blocks[:2]), (0, *blocks[2:])):
        for region in range(regions.n_regions):
            n = int(regions.sizes[region])
            numbers = regions.numbers(np.full(n, region), np.arange(n))
            _, cells = samples.find(numbers)
            for axis in range(3):
                needed = {
                    (c + step) % 23
                    for c in cells[:, axis].tolist()
                    for step in range(-halo, reach.tile + halo)
                }
                first, length = start[region, axis], shape[region, axis]
                held = {(first + step) % 23 for step in range(length)}
                assert needed <= held
                assert len(held) == length <= 23
                if isinstance(CENTERS[name], Region):
                    assert needed == held


@pytest.mark.parametrize(
    ("mesh", "core", "chunk", "edges"),
    [
        (300, 160, 32, [0, 160, 300]),
        (300, 300, 32, [0, 300]),
        (300, 1000, 32, [0, 300]),
        (200, 64, 32, [0, 32, 96, 160, 200]),
        (64, 16, 32, [0, 16, 32, 48, 64]),
        (10, 3, 32, [0, 3, 6, 9, 10]),
        (1, 1, 1, [0, 1]),
    ],
)
def test_cores_end_at_chunks(mesh: int, core: int, chunk: int, edges: list[int]) -> None:
    assert core_edges(mesh, core, chunk).tolist() == edges


@given(st.integers(1, 200), st.integers(1, 250), st.integers(1, 40))
def test_cores_cover_the_mesh_and_are_never_larger_than_asked(
    mesh: int, core: int, chunk: int
) -> None:
    edges = core_edges(mesh, core, chunk)
    assert edges[0] == 0
    assert edges[-1] == mesh
    assert 1 <= np.diff(edges).min() <= np.diff(edges).max() <= core


def test_candidates_ascend_from_one_cell_to_the_mesh() -> None:
    assert core_candidates(100, 32) == [1, 2, 4, 8, 16, 32, 64, 96, 128]
    assert core_candidates(5, 5) == [1, 2, 5]


@given(
    start=st.tuples(*3 * [st.integers(-20, 20)]),
    shape=st.tuples(*3 * [st.integers(1, 11)]),
    chunk=st.integers(1, 6),
)
def test_pieces_put_a_periodic_block_together(
    start: tuple[int, int, int], shape: tuple[int, int, int], chunk: int
) -> None:
    mesh = 11
    box = np.arange(mesh**3).reshape(3 * (mesh,))
    block = np.full(shape, -1)
    touched = 0
    for place, first in pieces_on_mesh(np.array(start), np.array(shape), mesh):
        sides = [part.stop - part.start for part in place]
        last = [a + n for a, n in zip(first, sides, strict=True)]
        assert max(last) <= mesh
        block[place] = box[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
        touched += np.prod(
            [len({cell // chunk for cell in range(a, b)}) for a, b in zip(first, last, strict=True)]
        )
    rolled = np.roll(box, [-cell for cell in start], axis=(0, 1, 2))
    np.testing.assert_array_equal(block, rolled[tuple(map(slice, shape))])
    assert chunks_touched(np.array(start), np.array(shape), mesh, chunk) == touched


@pytest.mark.parametrize(("radius", "tile"), [(-1, 1), (0, 0)])
def test_a_reach_that_is_none_is_refused(radius: int, tile: int) -> None:
    with pytest.raises(ValueError, match="radius must be at least 0 and tile at least 1"):
        Reach(radius, tile)


def test_a_core_without_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="core must be at least 1"):
        SampleRegions(two_redshifts("slab"), 0, chunk_cells=5)
