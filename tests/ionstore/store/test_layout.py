import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ionstore.cube.mesh import check_region
from ionstore.store.layout import Layout, Part, plan_layout, plan_parts


@pytest.mark.parametrize(
    ("mesh", "chunk", "shard"),
    [(1, 1, 1), (8, 8, 8), (33, 32, 64), (45, 32, 64), (64, 32, 64), (160, 32, 160),
     (161, 32, 96), (200, 32, 128), (300, 32, 160), (512, 32, 128), (1024, 32, 160)],
)  # fmt: skip
def test_shards_are_few_equal_and_whole_chunks(mesh: int, chunk: int, shard: int) -> None:
    layout = plan_layout(mesh)
    assert (layout.chunk_cells, layout.shard_cells) == (chunk, shard)
    assert layout.shards_per_side == -(-mesh // 160)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 30))
def test_every_cell_lies_in_exactly_one_shard(mesh: int, chunk: int, shard: int) -> None:
    layout = plan_layout(mesh, chunk_cells=chunk, max_shard_cells=shard)
    visits = np.zeros((mesh,) * 3, int)
    for index in layout.shard_indices():
        start, shape = layout.shard_region(index)
        assert layout.shard_of_region(start, shape) == index
        x, y, z = (slice(first, first + cells) for first, cells in zip(start, shape, strict=True))
        visits[x, y, z] += 1
    assert (visits == 1).all()


def test_a_block_touches_the_shards_that_share_its_cells() -> None:
    layout = Layout(45, 4, 16)
    assert list(layout.shards_touched((15, 0, 44), (2, 16, 1))) == [(0, 0, 2), (1, 0, 2)]
    everything = layout.shards_touched((0, 0, 0), (45, 45, 45))
    assert list(everything) == list(layout.shard_indices())


def test_blocks_that_are_not_one_shard_are_refused() -> None:
    layout = Layout(45, 4, 16)
    assert layout.shard_of_region((32, 16, 0), (13, 16, 16)) == (2, 1, 0)
    for start, shape in [
        ((32, 16, 0), (16, 16, 16)),
        ((1, 0, 0), (16, 16, 16)),
        ((0, 0, 0), (32, 16, 16)),
    ]:
        with pytest.raises(ValueError, match="one whole shard"):
            layout.shard_of_region(start, shape)
    with pytest.raises(ValueError, match="on the mesh"):
        layout.shard_of_region((48, 0, 0), (16, 16, 16))
    with pytest.raises(ValueError, match="below 3"):
        layout.shard_region((0, 0, 3))


@pytest.mark.parametrize(("mesh", "chunk", "shard"), [(8, 9, 9), (8, 0, 8), (8, 4, 6), (8, 4, 0)])
def test_sizes_that_do_not_fit_are_refused(mesh: int, chunk: int, shard: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        Layout(mesh, chunk, shard)
    with pytest.raises(ValueError, match="at least 1"):
        plan_layout(0)


def test_parts_are_every_shard_of_every_field_and_redshift_once() -> None:
    layout = Layout(20, 5, 10)
    parts = plan_parts(("n_igm", "xhii"), 3, layout)
    assert len(parts) == len(set(parts)) == len({part.name for part in parts}) == 2 * 3 * 8
    assert parts[0] == Part("n_igm", 0, (0, 0, 0))
    assert parts[-1].name == "xhii-2-1-1-1"


@pytest.mark.parametrize(
    ("start", "shape"),
    [((0, 0, -1), (1, 1, 1)), ((0, 0, 7), (1, 1, 2)), ((0, 0, 0), (0, 1, 1)), ((0, 0), (1, 1))],
)
def test_regions_off_the_mesh_are_refused(
    start: tuple[int, int, int], shape: tuple[int, int, int]
) -> None:
    with pytest.raises(ValueError, match="must"):
        check_region(start, shape, 8)
