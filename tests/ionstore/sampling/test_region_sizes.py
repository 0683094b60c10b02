"""Costs of regions by the side of their cores, and the core that is taken."""

import numpy as np
import pytest

from ionstore.cube.mesh import Region
from ionstore.sampling.memory import RegionSizes
from ionstore.sampling.order import Order
from ionstore.sampling.regions import Reach, SampleRegions, chunks_touched
from ionstore.sampling.samples import CubeSamples, Samples
from ionstore.sampling.settings import LoaderSettings

MESH, CHUNK = 22, 4
CORNER = Region((2, 0, 1), (9, 13, 5))


def sizes(*, radius: int = 2, tile: int = 1, **settings: object) -> RegionSizes:
    everything = Region((0, 0, 0), (MESH,) * 3)
    cubes = [CubeSamples(0, redshift, MESH, everything) for redshift in (9.0, 8.0)]
    return RegionSizes(
        Samples(cubes),
        Reach(radius, tile),
        LoaderSettings(batch_size=10, **settings),  # type: ignore[arg-type]
        n_channels=2,
        chunk_cells=CHUNK,
    )


def cells_of_chunks(first: int, stop: int) -> int:
    """Cells of the chunks that a stretch of a periodic axis touches, at its faces twice."""
    touched = {(cell // MESH, cell % MESH // CHUNK) for cell in range(first, stop)}
    return CHUNK * len(touched)


@pytest.mark.parametrize("core", [4, 8, 12])
@pytest.mark.parametrize("per_opening", [30, 700, None])
def test_cells_decoded_are_those_of_the_chunks_around_each_core_at_each_visit(
    core: int, per_opening: int | None
) -> None:
    costs = sizes(core=core, samples_per_opening=per_opening, n_lanes=1)
    n = -(-MESH // core)  # cores are as even as whole chunks allow
    edges = [min(k * -(-MESH // CHUNK) // n * CHUNK, MESH) for k in range(n)] + [MESH]
    expected = 0
    for x in range(n):
        for y in range(n):
            for z in range(n):
                sides = [(edges[k], edges[k + 1]) for k in (x, y, z)]
                size = int(np.prod([stop - first for first, stop in sides]))
                visits = -(-size // per_opening) if per_opening else 1
                block = np.prod([cells_of_chunks(a - 2, b + 2) for a, b in sides])
                expected += 2 * visits * int(block)
    assert costs.decoded_cells(core) == expected
    assert costs.core_cells(core) == 2 * MESH**3


def test_an_epoch_of_fewer_samples_decodes_less() -> None:
    half, whole = (
        sizes(samples_per_epoch=n, samples_per_opening=50, n_lanes=1).decoded_cells(8)
        for n in (MESH**3, None)
    )
    assert half == whole / 2


@pytest.mark.parametrize("per_opening", [1, 40, None])
@pytest.mark.parametrize("n_samples", [3, 150, 2000, None])
@pytest.mark.parametrize("n_lanes", [1, 8])
def test_what_is_decoded_counts_what_lanes_open_once_more(
    per_opening: int | None, n_samples: int | None, n_lanes: int
) -> None:
    costs = sizes(
        core=8, samples_per_opening=per_opening, samples_per_epoch=n_samples, n_lanes=n_lanes
    )
    regions = costs.regions(8)
    start, shape, _, _ = regions.blocks(Reach(2))
    cells = CHUNK**3 * chunks_touched(start, shape, MESH, CHUNK)
    decoded = []
    few = n_samples is not None and n_samples < 5000  # the fewer, the more it depends on chance
    for epoch in range(20 if few else 1):
        order = Order(
            regions.sizes,
            seed=1,
            shuffle=True,
            visits=costs.visits(8),
            n_samples=n_samples,
            n_lanes=n_lanes,
        )
        lanes = (order.openings(epoch, lane, 0) for lane in range(n_lanes))
        decoded.append(sum(int(cells[opening.region]) for lane in lanes for opening in lane))
    assert costs.decoded_cells(8) == pytest.approx(np.mean(decoded), rel=0.12)


def test_a_dense_epoch_takes_the_largest_core_that_fits() -> None:
    costs = sizes()
    for core, same in ((4, 4), (8, 8), (12, 20)):  # cores of up to 20 cells have 12 and 10
        assert costs.choose(costs.block_bytes(core)) == same
    assert costs.choose(costs.block_bytes(4) - 1) == 2
    assert costs.choose(0) is None


def test_few_samples_an_opening_take_the_core_that_decodes_least() -> None:
    costs = sizes(samples_per_opening=16)
    assert costs.choose(10**9) == 4
    assert costs.decoded_cells(4) == min(map(costs.decoded_cells, (4, 8, 12, 16, 20, 24)))


def test_a_core_that_is_asked_for_is_the_only_candidate() -> None:
    assert sizes(core=8).choose(10**9) == 8
    assert sizes(core=8).choose(10) is None


def test_a_smaller_core_takes_the_place_of_one_that_does_not_fit_where_it_may() -> None:
    asked = sizes(core=12)
    available = asked.block_bytes(12)
    assert asked.choose(available, or_smaller=True) == 12
    assert asked.choose(available - 1, or_smaller=True) == 8
    assert asked.choose(sizes().block_bytes(1), or_smaller=True) == 1
    assert asked.choose(0, or_smaller=True) is None


@pytest.mark.parametrize("is_list", [False, True])
def test_regions_of_lists_by_chunk_are_those_of_the_cells(is_list: bool) -> None:
    cells = np.random.default_rng(3).integers(-20, 60, (300, 3)) if is_list else CORNER
    cubes = [CubeSamples(0, redshift, MESH, cells) for redshift in (9.0, 8.0)]
    cubes.append(CubeSamples(1, 8.0, 13, cells))
    samples = Samples(cubes)
    costs = RegionSizes(samples, Reach(1), LoaderSettings(5), n_channels=1, chunk_cells=CHUNK)
    for core in (1, 2, 3, 4, 7, 8, 12, 40):
        by_chunk, anew = costs.regions(core), SampleRegions(samples, core, chunk_cells=CHUNK)
        for name in ("sizes", "cube", "start", "shape"):
            np.testing.assert_array_equal(getattr(by_chunk, name), getattr(anew, name))


def test_the_block_of_a_region_holds_inputs_and_target() -> None:
    assert sizes(tile=3).block_bytes(8) == 4 * (2 * (8 + 2 + 4) ** 3 + (8 + 2) ** 3)
    assert sizes(radius=10).block_bytes(24) == 4 * 3 * MESH**3
