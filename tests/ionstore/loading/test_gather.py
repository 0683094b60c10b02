"""The cut against a slow oracle, on every kind of mesh and at every face."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ionstore.cube.mesh import Fields, Neighborhoods
from ionstore.loading.gather import gather_neighborhoods, gather_tiles
from ionstore.sampling.symmetry import N_SYMMETRIES, transformed


def rolled(fields: Fields, center: tuple[int, ...], radius: int) -> Neighborhoods:
    """One neighborhood, by rolling the whole box."""
    width = 2 * radius + 1
    shift = [radius - index for index in center]
    return np.roll(fields, shift, axis=(1, 2, 3))[:, :width, :width, :width]


def random_fields(*shape: int) -> Fields:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "radius"),
    [
        ((1, 1, 1), 0),
        ((7, 7, 7), 0),
        ((7, 7, 7), 1),
        ((7, 7, 7), 3),  # as wide as the mesh
        ((8, 8, 8), 2),
        ((8, 8, 8), 3),  # one cell less than the mesh
        ((5, 6, 9), 2),
        ((17, 17, 17), 4),
    ],
)
def test_neighborhoods_equal_those_of_a_rolled_box(
    shape: tuple[int, int, int], radius: int
) -> None:
    fields = random_fields(2, *shape)
    every = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), axis=1)
    cut = gather_neighborhoods(fields, every, radius)
    assert cut.shape == (len(every), 2, *(2 * radius + 1,) * 3)
    for center, neighborhood in zip(every.tolist(), cut, strict=True):
        np.testing.assert_array_equal(neighborhood, rolled(fields, tuple(center), radius))


def test_centers_off_the_mesh_wrap() -> None:
    fields = random_fields(3, 6, 6, 6)
    on = np.random.default_rng(2).integers(0, 6, size=(40, 3))
    off = on + 6 * np.random.default_rng(3).integers(-3, 4, size=on.shape)
    np.testing.assert_array_equal(
        gather_neighborhoods(fields, off, 2), gather_neighborhoods(fields, on, 2)
    )


def indexed_tile(fields: Fields, start: list[int], tile: int, halo: int) -> Neighborhoods:
    """One tile with its halo, by fancy indices."""
    steps = np.arange(tile + 2 * halo) - halo
    x, y, z = ((cell + steps) % n for cell, n in zip(start, fields.shape[1:], strict=True))
    return fields[:, x[:, None, None], y[:, None], z]


@pytest.mark.parametrize(
    ("shape", "tile", "halo"),
    [
        ((7, 7, 7), 1, 0),
        ((7, 8, 9), 1, 3),
        ((7, 8, 9), 4, 0),
        ((7, 8, 9), 5, 1),  # as wide as the mesh
        ((7, 8, 9), 6, 2),  # wider than the mesh
        ((3, 3, 3), 9, 1),  # several times as wide
    ],
)
def test_tiles_equal_indexed_ones_under_all_symmetries(
    shape: tuple[int, int, int], tile: int, halo: int
) -> None:
    fields = random_fields(2, *shape)
    starts = np.random.default_rng(6).integers(-20, 20, size=(2 * N_SYMMETRIES, 3))
    symmetries = np.arange(len(starts)) % N_SYMMETRIES
    tiles = gather_tiles(fields, starts, tile, halo, symmetries=symmetries)
    for start, symmetry, cut in zip(starts.tolist(), symmetries.tolist(), tiles, strict=True):
        expected = transformed(indexed_tile(fields, start, tile, halo), symmetry)
        np.testing.assert_array_equal(cut, expected)


def test_neighborhoods_under_a_symmetry_keep_their_center() -> None:
    fields = random_fields(1, 9, 9, 9)
    centers = np.full((N_SYMMETRIES, 3), 4)
    cut = gather_neighborhoods(fields, centers, 2, symmetries=np.arange(N_SYMMETRIES))
    assert (cut[:, 0, 2, 2, 2] == fields[0, 4, 4, 4]).all()
    assert len({image.tobytes() for image in cut}) == N_SYMMETRIES


@pytest.mark.process
def test_kernels_as_plain_python_give_the_same(tmp_path: Path) -> None:
    fields = random_fields(2, 6, 7, 8)
    centers = np.random.default_rng(5).integers(-9, 9, size=(20, 3))
    np.savez(tmp_path / "arguments.npz", fields=fields, centers=centers)
    code = (
        "import sys, numpy as np\n"
        "from ionstore.loading.gather import gather_neighborhoods\n"
        "given = np.load(sys.argv[1])\n"
        "turned = np.arange(20) * 2\n"
        "cut = gather_neighborhoods(given['fields'], given['centers'], 2, symmetries=turned)\n"
        "np.save(sys.argv[2], cut)\n"
    )
    paths = [str(tmp_path / "arguments.npz"), str(tmp_path / "cut.npy")]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-c", code, *paths], env=environment, check=True)
    turned = gather_neighborhoods(fields, centers, 2, symmetries=np.arange(20) * 2)
    np.testing.assert_array_equal(np.load(paths[1]), turned)


def test_out_is_filled_and_returned() -> None:
    fields = random_fields(1, 5, 5, 5)
    centers = np.array([[0, 4, 2], [3, 3, 3]])
    out = np.full((2, 1, 3, 3, 3), np.nan, dtype=np.float32)
    assert gather_neighborhoods(fields, centers, 1, out=out) is out
    np.testing.assert_array_equal(out, gather_neighborhoods(fields, centers, 1))


def test_no_centers_give_no_neighborhoods() -> None:
    none = np.empty((0, 3), dtype=np.int64)
    assert gather_neighborhoods(random_fields(2, 4, 4, 4), none, 1).shape == (0, 2, 3, 3, 3)


def test_centers_in_any_memory_order_are_read_alike() -> None:
    fields = random_fields(1, 5, 5, 5)
    centers = np.random.default_rng(4).integers(0, 5, size=(9, 3))
    np.testing.assert_array_equal(
        gather_neighborhoods(fields, np.asfortranarray(centers), 2),
        gather_neighborhoods(fields, centers, 2),
    )


def test_the_fields_are_left_as_they_were() -> None:
    fields = random_fields(2, 5, 5, 5)
    before = fields.copy()
    gather_neighborhoods(fields, np.array([[0, 0, 0]]), 2)
    np.testing.assert_array_equal(fields, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": -1}, "radius or halo must be at least 0"),
        ({"radius": 3}, "largest that fits is 2"),
        ({"fields": np.zeros((1, 5, 5, 5))}, "fields must be a C-contiguous float32"),
        ({"fields": np.zeros((5, 5, 5), np.float32)}, "fields must be"),
        (
            {"fields": np.zeros((1, 5, 5, 6), np.float32)[..., :5]},
            "not C-contiguous",
        ),
        (
            {"centers": np.zeros((1, 2), np.int64)},
            r"centers or starts must be int64 of shape \(n, 3\)",
        ),
        ({"centers": np.zeros((1, 3), np.int32)}, "centers or starts must be int64"),
        ({"symmetries": np.zeros(2, np.int64)}, "symmetries must be int64 of shape"),
        ({"symmetries": np.full(1, 48)}, "symmetries must be 0 to 47"),
        ({"out": np.zeros((1, 1, 5, 5, 5), np.float32)}, "out must have shape"),
        ({"out": np.zeros((1, 1, 3, 3, 3))}, "out must be a C-contiguous float32"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    arguments = {
        "fields": np.zeros((1, 5, 5, 5), np.float32),
        "centers": np.zeros((1, 3), np.int64),
        "radius": 1,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        gather_neighborhoods(**arguments)  # type: ignore[arg-type]
