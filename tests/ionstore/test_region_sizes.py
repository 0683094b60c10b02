"""What regions cost by the side of their cores, and which one is taken."""

import numpy as np
import pytest

from ionstore.loader_settings import LoaderSettings
from ionstore.partition import Reach
from ionstore.region_sizes import RegionSizes
from ionstore.samples import CubeSamples, Samples
from ionstore.split import Region

MESH, CHUNK = 22, 4


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
    regions = sizes(core=core, samples_per_opening=per_opening)
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
    assert regions.decoded_cells(core) == expected
    assert regions.core_cells(core) == 2 * MESH**3


def test_an_epoch_of_fewer_samples_decodes_less() -> None:
    assert sizes(samples_per_epoch=MESH**3, samples_per_opening=50).decoded_cells(8) == (
        sizes(samples_per_opening=50).decoded_cells(8) / 2
    )


def test_a_dense_epoch_takes_the_largest_core_that_fits() -> None:
    regions = sizes()
    for core, same in ((4, 4), (8, 8), (12, 20)):  # cores of up to 20 cells have 12 and 10
        assert regions.choose(regions.block_bytes(core)) == same
    assert regions.choose(regions.block_bytes(4) - 1) == 2
    assert regions.choose(0) is None


def test_few_samples_an_opening_take_the_core_that_decodes_least() -> None:
    regions = sizes(samples_per_opening=16)
    assert regions.choose(10**9) == 4
    assert regions.decoded_cells(4) == min(map(regions.decoded_cells, (4, 8, 12, 16, 20, 24)))


def test_a_core_that_is_asked_for_is_the_only_candidate() -> None:
    assert sizes(core=8).choose(10**9) == 8
    assert sizes(core=8).choose(10) is None


def test_the_block_of_a_region_holds_inputs_and_target() -> None:
    assert sizes(tile=3).block_bytes(8) == 4 * (2 * (8 + 2 + 4) ** 3 + (8 + 2) ** 3)
    assert sizes(radius=10).block_bytes(24) == 4 * 3 * MESH**3
