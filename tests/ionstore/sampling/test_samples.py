"""Samples by number, and tiles that cover a region."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ionstore.cube.mesh import Mesh, Region
from ionstore.sampling.samples import CubeSamples, Samples, centers_of_boxes, tile_starts

LIST = np.array([[9, 9, 9], [1, 2, 3]])


def test_samples_are_numbered_cube_after_cube() -> None:
    samples = Samples(
        [
            CubeSamples(0, 8.0, 12, Region((1, 0, 0), (1, 2, 2))),
            CubeSamples(0, 7.0, 12, LIST),
            CubeSamples(1, 7.0, 16, LIST),
        ]
    )
    assert samples.n_samples == 8
    cube, cells = samples.find(np.array([7, 0, 3, 5, 4]))
    assert cube.tolist() == [2, 0, 0, 1, 1]
    assert cells.tolist() == [[1, 2, 3], [1, 0, 0], [1, 1, 1], [1, 2, 3], [9, 9, 9]]
    assert samples.redshift[cube].tolist() == [7.0, 8.0, 8.0, 7.0, 7.0]
    assert samples.store_index[cube].tolist() == [1, 0, 0, 0, 0]
    assert samples.mesh_cells[cube].tolist() == [16, 12, 12, 12, 12]


def test_every_cell_is_a_center_by_default() -> None:
    assert centers_of_boxes([Mesh(4), Mesh(5)], None) == [
        Region((0, 0, 0), (4, 4, 4)),
        Region((0, 0, 0), (5, 5, 5)),
    ]


@given(
    start=st.tuples(*3 * [st.integers(0, 5)]),
    shape=st.tuples(*3 * [st.integers(1, 9)]),
    data=st.data(),
)
def test_tiles_cover_their_region_and_nothing_else(
    start: tuple[int, int, int], shape: tuple[int, int, int], data: st.DataObject
) -> None:
    tile = data.draw(st.integers(1, min(shape)))
    covered = np.zeros((14, 14, 14), int)
    starts = tile_starts(Region(start, shape), tile)
    for x, y, z in starts.tolist():
        covered[x : x + tile, y : y + tile, z : z + tile] += 1
    inside = np.zeros_like(covered, bool)
    inside[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))] = True
    assert (covered[inside] >= 1).all()
    assert not covered[~inside].any()
    assert len(starts) == np.prod([-(-n // tile) for n in shape])


def test_a_tile_larger_than_its_region_is_refused() -> None:
    with pytest.raises(ValueError, match="tile must be 1 to 2"):
        tile_starts(Region((0, 0, 0), (4, 2, 4)), 3)
