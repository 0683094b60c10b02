"""Means over blocks, of arrays and of files slab by slab."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from ionstore.coarse_field import block_means, coarsen
from ionstore.cube import Array
from ionstore.layout import Corner
from ionstore.readers.base import FieldSource
from ionstore.readers.flat_array import FlatArray


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


@dataclass
class Noted(FieldSource):
    """A source that notes what is read of it."""

    source: FieldSource
    blocks: list[tuple[Corner, Corner]]

    def __post_init__(self) -> None:
        self.path, self.shape, self.dtype = self.source.path, self.source.shape, self.source.dtype
        self.fortran_order = self.source.fortran_order

    def stream(self, on_bytes: Callable[[bytes], object]) -> Iterator[Array]:
        yield from self.source.stream(on_bytes)

    def read_block(self, start: Corner, shape: Corner) -> Array:
        self.blocks.append((start, shape))
        return self.source.read_block(start, shape)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("mesh", [1, 10, 33, 70])
def test_a_file_is_coarsened_slab_by_slab_in_its_own_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, mesh: int
) -> None:
    monkeypatch.setattr("ionstore.coarse_field._SLAB_BYTES", 8 * 3 * mesh**2)
    field = np.random.default_rng(1).lognormal(size=(mesh, mesh, mesh)).astype("f4")
    path = tmp_path / "field.raw"
    path.write_bytes(field.tobytes(order="F" if order == "F" else "C"))
    flat = FlatArray(path, field.shape, field.dtype, 0, order == "F")
    source = Noted(flat, [])
    coarse = coarsen(source)
    np.testing.assert_allclose(coarse, block_means(field, 64), rtol=1e-12)
    np.testing.assert_allclose(coarsen(source, 8), block_means(field, 8), rtol=1e-12)
    slabs = source.blocks[: -(-mesh // 3)]
    axis = 2 if order == "F" else 0
    assert [start[axis] for start, _ in slabs] == list(range(0, mesh, 3))
    for start, shape in slabs:
        assert [start[other] for other in range(3) if other != axis] == [0, 0]
        assert shape[axis] <= 3
    np.testing.assert_array_equal(coarsen(flat), coarse)
