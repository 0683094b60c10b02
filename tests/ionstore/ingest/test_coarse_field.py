"""Means over blocks, of arrays and of what passes by piece by piece."""

from itertools import product
from typing import Literal

import numpy as np
import pytest

from ionstore.ingest.coarse_field import BlockMeans, block_means


@pytest.mark.parametrize(("mesh", "blocks"), [(12, 4), (13, 4), (7, 7), (7, 6), (5, 9), (1, 1)])
def test_block_means_are_means_over_blocks(mesh: int, blocks: int) -> None:
    field = np.random.default_rng(1).lognormal(size=(mesh, mesh, mesh)).astype("f4")
    means = block_means(field, blocks)
    count = min(mesh, blocks)
    assert means.shape == (count, count, count)
    assert means.dtype == np.float64
    parts = [[i for i in range(mesh) if i * count // mesh == block] for block in range(count)]
    for i, j, k in product(range(count), repeat=3):
        expected = field[np.ix_(parts[i], parts[j], parts[k])].mean(dtype="f8")
        assert means[i, j, k] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("mesh", [1, 10, 33, 70])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "uint8", ">i2"])
def test_pieces_of_any_size_in_either_order_have_the_means_of_the_whole(
    order: Literal["C", "F"], mesh: int, dtype: str
) -> None:
    rng = np.random.default_rng(1)
    field = (100 * rng.random((mesh,) * 3)).astype(dtype)
    flat = field.ravel(order=order)
    cuts = np.sort(rng.integers(0, flat.size, 5))
    for max_cells in (8, 64):
        expected = block_means(field.astype("f8"), max_cells)
        for pieces in ([flat], np.split(flat, cuts)):
            means = BlockMeans(mesh, max_cells, fortran_order=order == "F")
            for piece in pieces:
                means.add(piece)
            np.testing.assert_allclose(means.of_blocks(), expected, rtol=1e-12)
