import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from ionstore.cube.mesh import Array, Cells
from ionstore.errors import DiskSpaceError
from ionstore.readers.base import PointList
from ionstore.readers.points.gridded import GriddedPoints
from ionstore.storage.files import OnBytes


@dataclass(frozen=True)
class _Points(PointList):
    """Random sources in random pieces, on a few cells of a mesh."""

    n_points: int
    occupied_share: float
    path: Path = Path("sources.dat")

    def points(self, mesh_cells: int, on_bytes: OnBytes) -> Iterator[tuple[Cells, Array]]:
        rng = np.random.default_rng(3)
        on_bytes(b"all of the file")
        candidates = rng.permutation(mesh_cells**3)
        candidates = candidates[: int(np.ceil(self.occupied_share * len(candidates)))]
        left = self.n_points
        while left:
            n_here = int(min(left, rng.integers(0, 40)))
            flat = rng.choice(candidates, n_here)
            cells = np.stack(np.unravel_index(flat, (mesh_cells,) * 3), axis=1)
            yield cells, rng.lognormal(3, 1, n_here)
            left -= n_here


def _expected(points: _Points, mesh_cells: int) -> Array:
    cube = np.zeros((mesh_cells,) * 3)
    for cells, weights in points.points(mesh_cells, lambda piece: None):
        np.add.at(cube, tuple(cells.T), weights)
    return cube


@pytest.mark.parametrize("n_points", [0, 1, 100, 3000])
@pytest.mark.parametrize("occupied_share", [0.001, 0.02, 0.2, 1.0])
@pytest.mark.parametrize("waiting", [1, 50, 1 << 18])
@pytest.mark.parametrize("in_memory", [0, 30, 1 << 20])
@pytest.mark.parametrize("mesh_cells", [1, 11])
def test_weights_are_added_up_by_cell(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    n_points: int,
    occupied_share: float,
    waiting: int,
    in_memory: int,
    mesh_cells: int,
) -> None:
    monkeypatch.setattr("ionstore.readers.points.gridded._WAITING", waiting)
    monkeypatch.setattr("ionstore.readers.points.gridded._MOST_IN_MEMORY", in_memory)
    monkeypatch.setattr("ionstore.readers.points.gridded.STREAM_BYTES", 1000)
    points = _Points(n_points, occupied_share)
    gridded = GriddedPoints(points, mesh_cells)
    file_bytes: list[bytes] = []
    pieces = list(gridded.stream(file_bytes.append))
    assert b"".join(file_bytes) == b"all of the file"
    assert {piece.dtype for piece in pieces} == {np.dtype("f4")}
    spool = tmp_path / "spool"
    spool.write_bytes(b"".join(piece.tobytes() for piece in pieces))
    assert gridded.spool_bytes == spool.stat().st_size
    block = gridded.from_spool(spool).read_block((0, 0, 0), (mesh_cells,) * 3)
    np.testing.assert_allclose(block, _expected(points, mesh_cells), rtol=1e-6)


def test_whole_numbers_stay_whole() -> None:
    class Halos(_Points):
        def points(self, mesh_cells: int, on_bytes: OnBytes) -> Iterator[tuple[Cells, Array]]:
            for cells, weights in super().points(mesh_cells, on_bytes):
                yield cells, np.ones(len(weights))

    for share in (0.01, 1.0):
        halos = Halos(5000, share)
        values = np.concatenate(list(GriddedPoints(halos, 9).stream(lambda piece: None)))
        np.testing.assert_array_equal(values, _expected(halos, 9).ravel())


def test_what_is_kept_for_the_time_being_is_gone_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ionstore.readers.points.gridded._WAITING", 10)
    monkeypatch.setattr("ionstore.readers.points.gridded._MOST_IN_MEMORY", 10)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    opened = []

    def watched() -> IO[bytes]:
        opened.append(tempfile.NamedTemporaryFile())  # noqa: SIM115
        return opened[-1]  # type: ignore[return-value]

    monkeypatch.setattr("tempfile.TemporaryFile", watched)
    points = _Points(3000, 1.0)
    stream = GriddedPoints(points, 11).stream(lambda piece: None)
    first = next(stream)
    assert [path.stat().st_size > 10_000 for path in tmp_path.iterdir()] == [True]
    stream.close()  # type: ignore[attr-defined]
    assert [file.closed for file in opened] == [True]
    assert not list(tmp_path.iterdir())
    np.testing.assert_allclose(first, _expected(points, 11).ravel(), rtol=1e-6)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ionstore.readers.points.gridded._WAITING", 10)
    monkeypatch.setattr("ionstore.readers.points.gridded._MOST_IN_MEMORY", 10)
    with Path("/dev/full").open("wb", 0) as full:
        monkeypatch.setattr("tempfile.TemporaryFile", lambda: full)
        with pytest.raises(DiskSpaceError, match=r"the disk is full, .* in TMPDIR"):
            list(GriddedPoints(_Points(3000, 1.0), 11).stream(lambda piece: None))


def test_a_list_cannot_be_cut_in_place() -> None:
    with pytest.raises(NotImplementedError, match="spool"):
        GriddedPoints(_Points(1, 1.0), 3).read_block((0, 0, 0), (1, 1, 1))


def test_sums_beyond_float32_are_infinite() -> None:
    @dataclass(frozen=True)
    class Heavy(PointList):
        path: Path = Path("sources.dat")

        def points(self, mesh_cells: int, on_bytes: OnBytes) -> Iterator[tuple[Cells, Array]]:
            yield np.zeros((2, 3), np.int64), np.array([1e38, 3e38])

    (values,) = GriddedPoints(Heavy(), 2).stream(lambda piece: None)
    assert values[0] == np.inf
    assert not values[1:].any()
