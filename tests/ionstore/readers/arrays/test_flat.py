from pathlib import Path

import numpy as np
import pytest

from ionstore.errors import SourceDataError
from ionstore.readers.arrays.flat import FlatArray
from tests.support.mesh_files import blocks

CUBE = np.random.default_rng(1).random((5, 6, 7))


def _array(path: Path, dtype: str, order: str) -> FlatArray:
    content = (CUBE * 9).astype(dtype).tobytes(order="F" if order == "F" else "C")
    path.write_bytes(b"header" + content + b"footer")
    return FlatArray(path, CUBE.shape, np.dtype(dtype), 6, fortran_order=order == "F")


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "u1", ">i2", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("gap_bytes", [-1, 0, 8, 1 << 15])
def test_blocks_are_slices_whatever_is_read_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gap_bytes: int, order: str, dtype: str
) -> None:
    monkeypatch.setattr("ionstore.readers.arrays.flat._GAP_BYTES", gap_bytes)
    array = _array(tmp_path / "a.bin", dtype, order)
    for start, shape in blocks(CUBE.shape):
        block = array.read_block(start, shape)  # type: ignore[arg-type]
        cut = tuple(slice(first, first + cells) for first, cells in zip(start, shape, strict=True))
        np.testing.assert_array_equal(block, (CUBE * 9).astype(dtype)[cut])
        assert block.dtype == np.dtype(dtype)
        assert block.flags.c_contiguous
        assert block.flags.owndata


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("gap_bytes", [-1, 1 << 15])
def test_a_block_of_a_file_that_shrank_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gap_bytes: int, order: str
) -> None:
    monkeypatch.setattr("ionstore.readers.arrays.flat._GAP_BYTES", gap_bytes)
    array = _array(tmp_path / "a.bin", "<f8", order)
    (tmp_path / "a.bin").write_bytes(b"")
    for start in ((0, 0, 0), (4, 5, 6)):
        with pytest.raises(SourceDataError, match=r"a\.bin: the file shrank .* try again"):
            array.read_block(start, (1, 1, 1))


def test_a_block_of_a_file_that_is_gone_names_it(tmp_path: Path) -> None:
    array = _array(tmp_path / "a.bin", "<f8", "C")
    (tmp_path / "a.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.bin"):
        array.read_block((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("kept", [len(b"header") + 8 * 9 + 3, -(len(b"footer") + 1)])
def test_a_file_cut_in_the_midst_of_a_value_while_it_is_streamed_is_refused(
    tmp_path: Path, kept: int
) -> None:
    array = _array(tmp_path / "a.bin", "<f8", "C")
    content = (tmp_path / "a.bin").read_bytes()
    (tmp_path / "a.bin").write_bytes(content[:kept])
    with pytest.raises(SourceDataError, match=r"a\.bin: the file shrank .* try again"):
        list(array.stream(lambda piece: None))
