import struct
from pathlib import Path

import numpy as np
import pytest

from ionstore.errors import SourceDataError
from ionstore.readers.arrays.cbin import check_complete, is_vector_mesh, open_mesh, read_sizes
from ionstore.readers.base import FieldSource
from ionstore.readers.formats.cbin import PlainMesh
from tests.support.mesh_files import check_source, inspected, plain_mesh, the_field

CUBE = np.random.default_rng(1).random((5, 6, 7))


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_dtype_and_byte_order_are_told_by_sizes(
    tmp_path: Path, dtype: str, byte_order: str
) -> None:
    cube, path = CUBE.astype(dtype), tmp_path / "mesh_8.397.dat"
    found = the_field(inspected(PlainMesh(), path, plain_mesh(cube, byte_order)))
    assert (found.field, found.redshift) == (None, 8.397)
    assert isinstance(found.source, FieldSource)
    assert found.source.dtype == np.dtype(byte_order + dtype)
    check_source(found.source, cube, path)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (255, 1, 1), (256, 1, 2), (65535, 1, 1), (1, 300, 3)])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_sizes_have_one_byte_order(sizes: tuple[int, int, int], byte_order: str) -> None:
    found = read_sizes(struct.pack(f"{byte_order}3i", *sizes))
    assert found == (byte_order, sizes)


@pytest.mark.parametrize("head", [b"", b"\x05" * 11, bytes(12), b"8.397 8.397 ", b"\xff" * 12])
def test_other_beginnings_are_no_sizes(head: bytes) -> None:
    assert read_sizes(head) is None


@pytest.mark.parametrize("change", [-1, 1, 4, -8, 8])
def test_the_size_must_be_exact(tmp_path: Path, change: int) -> None:
    content = plain_mesh(CUBE)
    content = content[:change] if change < 0 else content + bytes(change)
    (tmp_path / "mesh.dat").write_bytes(content)
    assert open_mesh(tmp_path / "mesh.dat", content[:64]) is None
    assert inspected(PlainMesh(), tmp_path / "mesh.dat") is None
    with pytest.raises(SourceDataError, match=r"needs 852 bytes in float32 and 1692 in float64"):
        check_complete(tmp_path / "mesh.dat", content[:64])


def test_what_ends_before_its_sizes_is_truncated(tmp_path: Path) -> None:
    (tmp_path / "mesh.dat").write_bytes(plain_mesh(CUBE)[:8])
    with pytest.raises(SourceDataError, match="the file has 8 bytes; it is truncated"):
        check_complete(tmp_path / "mesh.dat", plain_mesh(CUBE)[:8])


def test_what_has_no_sizes_is_another_format(tmp_path: Path) -> None:
    (tmp_path / "mesh.dat").write_bytes(CUBE.tobytes())
    check_complete(tmp_path / "mesh.dat", CUBE.tobytes()[:64])
    assert inspected(PlainMesh(), tmp_path / "mesh.dat") is None


def test_three_numbers_a_cell_are_no_field(tmp_path: Path) -> None:
    content = struct.pack("<3i", 2, 3, 4) + bytes(12 * 24)
    (tmp_path / "mesh.dat").write_bytes(content)
    assert is_vector_mesh(tmp_path / "mesh.dat", content[:64])
    assert inspected(PlainMesh(), tmp_path / "mesh.dat") is None


def test_tools21cm_reads_and_writes_the_same(tmp_path: Path) -> None:
    functions = pytest.importorskip("tools21cm.helper_functions")
    path = tmp_path / "mesh.dat"
    for bits, dtype in ((32, "f4"), (64, "f8")):
        cube = CUBE.astype(dtype)
        functions.save_cbin(str(path), cube, bits=bits, order="F")
        assert path.read_bytes() == plain_mesh(cube)
        source = open_mesh(path, path.read_bytes()[:64])
        check_source(source, functions.read_cbin(str(path), bits=bits, order="F"), path)
