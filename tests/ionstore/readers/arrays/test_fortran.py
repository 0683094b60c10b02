import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from ionstore.cube.mesh import Array
from ionstore.errors import SourceDataError
from ionstore.readers.arrays.flat import FlatArray
from ionstore.readers.arrays.fortran import (
    SplitArray,
    begins_as_record,
    open_imitated_records,
    open_records,
)
from ionstore.readers.base import FieldSource
from tests.support.mesh_files import check_source, record, record_mesh
from tests.support.places import DATA

SAMPLES = DATA / "c2ray"
CUBE = np.random.default_rng(1).random((5, 6, 7))


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _opened(path: Path, content: bytes) -> FieldSource | None:
    path.write_bytes(content)
    return open_records(path, content[:64])


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_dtype_and_byte_order_are_told_by_sizes(
    tmp_path: Path, dtype: str, byte_order: str
) -> None:
    cube = CUBE.astype(dtype)
    source = _opened(tmp_path / "a.bin", record_mesh(cube, byte_order))
    assert isinstance(source, FlatArray)
    assert source.dtype == np.dtype(byte_order + dtype)
    check_source(source, cube, tmp_path / "a.bin")


def test_a_mesh_of_one_cell(tmp_path: Path) -> None:
    check_source(
        _opened(tmp_path / "a.bin", record_mesh(CUBE[:1, :1, :1])),
        CUBE[:1, :1, :1],
        tmp_path / "a.bin",
    )


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("max_bytes", [1, 3, 7, 16, 101, 239, 240, 241, 400, 839])
def test_values_are_put_together_across_sub_records(
    tmp_path: Path, max_bytes: int, dtype: str, byte_order: str
) -> None:
    cube = CUBE.astype(dtype)
    source = _opened(tmp_path / "a.bin", record_mesh(cube, byte_order, max_bytes))
    assert isinstance(source, SplitArray)
    assert source.dtype == np.dtype(byte_order + dtype)
    check_source(pickle.loads(pickle.dumps(source)), cube, tmp_path / "a.bin")


def test_pieces_of_a_stream_hold_whole_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ionstore.storage.files.STREAM_BYTES", 13)
    source = _opened(tmp_path / "a.bin", record_mesh(CUBE, "<", 101))
    check_source(source, CUBE, tmp_path / "a.bin")


def test_split_records_that_gfortran_wrote_are_read() -> None:
    path = SAMPLES / "xfrac3d_8.700.bin"
    source = open_records(path, _head(path))
    assert isinstance(source, SplitArray)
    assert len(source.sub_records) == 7
    expected = np.load(SAMPLES / "expected" / "xHII_z8.700.npy")
    np.testing.assert_array_equal(source.read_block((0, 0, 0), (20, 20, 20)).astype("f4"), expected)
    streamed = np.concatenate(list(source.stream(lambda piece: None)))
    np.testing.assert_array_equal(streamed.astype("f4"), expected.ravel(order="F"))


def test_records_for_tests_are_those_of_gfortran() -> None:
    content = (SAMPLES / "xfrac3d_8.700.bin").read_bytes()
    source = open_records(SAMPLES / "xfrac3d_8.700.bin", content[:64])
    assert source is not None
    assert record_mesh(source.read_block((0, 0, 0), (20, 20, 20)), "<", 10007) == content


def test_blocks_of_records_beyond_2_gib(tmp_path: Path) -> None:
    path, n_cells, max_bytes = tmp_path / "a.bin", 1500, 2147483639
    left = values_bytes = 8 * n_cells**3
    offsets = []
    with path.open("wb") as file:  # 27 GB that take no room on the disk
        file.write(record(struct.pack("<3i", n_cells, n_cells, n_cells)))
        while left:
            here = min(max_bytes, left)
            file.write(struct.pack("<i", here if here == left else -here))
            offsets.append(file.tell())
            file.seek(here, 1)
            file.write(struct.pack("<i", here if left == values_bytes else -here))
            left -= here
        file.seek(-12, 1)
        file.write(struct.pack("<d", 0.25))  # the last value
        interrupted = max_bytes // 8
        in_first = max_bytes - 8 * interrupted
        file.seek(offsets[1] - 8 - in_first)
        file.write(struct.pack("<d", 0.75)[:in_first])
        file.seek(offsets[1])
        file.write(struct.pack("<d", 0.75)[in_first:])
    assert in_first == 7
    source = open_records(path, _head(path))
    assert isinstance(source, SplitArray)
    assert [sub_record.offset for sub_record in source.sub_records] == offsets
    block = source.read_block((1498, 1498, 1498), (2, 2, 2))
    assert block[1, 1, 1] == 0.25
    assert np.count_nonzero(block) == 1
    i, j, k = (int(index) for index in np.unravel_index(interrupted, source.shape, order="F"))
    block = source.read_block((i - 1, j - 1, k - 1), (3, 3, 3))
    assert block[1, 1, 1] == 0.75
    assert np.count_nonzero(block) == 1


@pytest.mark.parametrize("max_bytes", [10**9, 101])
def test_every_truncation_is_refused(tmp_path: Path, max_bytes: int) -> None:
    content = record_mesh(CUBE[:2, :3, :4], "<", max_bytes)
    for kept in range(20, len(content)):
        with pytest.raises(SourceDataError, match=r"a\.bin: .*truncated, copy it again"):
            _opened(tmp_path / "a.bin", content[:kept])


@pytest.mark.parametrize("extra", [1, 4, 100])
def test_bytes_after_the_values_are_refused(tmp_path: Path, extra: int) -> None:
    content = record_mesh(CUBE) + bytes(extra)
    with pytest.raises(SourceDataError, match=r"end with byte 1708, got a file of 1\d+ bytes"):
        _opened(tmp_path / "a.bin", content)


@pytest.mark.parametrize("max_bytes", [10**9, 101])
def test_markers_that_contradict_each_other_are_refused(tmp_path: Path, max_bytes: int) -> None:
    content = record_mesh(CUBE, "<", max_bytes)
    end = len(content) - 4
    (marker,) = struct.unpack_from("<i", content, end)
    for wrong in (marker + 1, -marker, 0):
        changed = content[:end] + struct.pack("<i", wrong)
        with pytest.raises(
            SourceDataError, match=f"must end with the marker {marker}, got {wrong}"
        ):
            _opened(tmp_path / "a.bin", changed)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text of some kind, longer than any header",
        record(b"x" * 12) + record(b"y" * 48),
        record(struct.pack("<3i", 2, 0, 2)) + record(bytes(32)),
        record(struct.pack("<4i", 2, 2, 2, 2)) + record(bytes(32)),
        record(struct.pack("<3i", 2, 2, 2)) + record(bytes(96)),
        struct.pack("<3i", 12, 2, 2) + bytes(4 * 48),
    ],
)
def test_other_files_are_not_claimed(tmp_path: Path, content: bytes) -> None:
    assert _opened(tmp_path / "a.bin", content) is None


def _imitated(cube: Array) -> bytes:
    return struct.pack("<6i", 0, *cube.shape, 0, 0) + cube.tobytes(order="F")


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_records_of_tools21cm_have_zeros_for_markers(tmp_path: Path, dtype: str) -> None:
    cube, path = CUBE.astype(dtype), tmp_path / "a.bin"
    path.write_bytes(_imitated(cube))
    check_source(open_imitated_records(path, _head(path)), cube, path)


def test_imitated_records_of_another_size_are_not_claimed(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for content in (_imitated(CUBE)[:-1], _imitated(CUBE) + b"0", bytes(24), bytes(8), b""):
        path.write_bytes(content)
        assert open_imitated_records(path, content[:64]) is None


def test_a_split_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    content = record_mesh(CUBE, "<", 101)
    source = _opened(tmp_path / "a.bin", content)
    assert source is not None
    (tmp_path / "a.bin").write_bytes(content[:-200])
    with pytest.raises(SourceDataError, match="shrank"):
        list(source.stream(lambda piece: None))
    with pytest.raises(SourceDataError, match="shrank"):
        source.read_block((0, 0, 0), CUBE.shape)


def test_nothing_else_is_said_to_begin_as_a_record() -> None:
    assert begins_as_record(record(bytes(12), "<"))
    assert begins_as_record(record(bytes(12), ">"))
    assert not begins_as_record(record(bytes(16)))
    assert not begins_as_record(b"")
