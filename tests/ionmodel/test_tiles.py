"""Tiles of a periodic box."""

import numpy as np

from ionmodel.tiles import slices_of, tiles_of, wrapped


def test_tiles_cover_a_block_once() -> None:
    for shape in ((5, 4, 9), (1, 1, 1), (8, 8, 8)):
        count = np.zeros(shape, int)
        for start, cells in tiles_of(shape, 4):
            count[slices_of(start, cells)] += 1
        assert (count == 1).all()


def test_blocks_wrap_at_the_faces() -> None:
    fields = np.arange(2 * 5**3, dtype="f4").reshape(2, 5, 5, 5)
    block = wrapped(fields, (4, 0, 2), (1, 2, 3), 2)
    expected = np.pad(fields, [(0, 0), *[(2, 2)] * 3], mode="wrap")[:, 4:9, 0:6, 2:9]
    np.testing.assert_array_equal(block, expected)
