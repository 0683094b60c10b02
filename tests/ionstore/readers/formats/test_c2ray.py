import struct
from pathlib import Path

import numpy as np
import pytest

from ionstore.errors import SourceDataError
from ionstore.readers.base import FieldSource
from ionstore.readers.formats.c2ray import C2Ray
from tests.support.mesh_files import (
    SAMPLE_CELLS,
    check_source,
    inspected,
    plain_mesh,
    record,
    record_mesh,
    the_field,
)
from tests.support.places import DATA

CUBE = np.random.default_rng(1).random((5, 5, 5))
IMITATED = struct.pack("<6i", 0, 5, 5, 5, 0, 0) + CUBE.tobytes(order="F")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("xfrac3d_8.397.bin", ("xhii", "ionized_fraction", 8.397)),
        ("xfrac3D_10.110.bin", ("xhii", "ionized_fraction", 10.11)),
        ("IonRates3_8.397.bin", ("ionization_rate", "as_is", 8.397)),
        ("IonRates3D_8.397.bin", ("ionization_rate", "as_is", 8.397)),
        ("Temper3_8.397.bin", ("temperature", "as_is", 8.397)),
        ("Temper3D_8.397.bin", ("temperature", "as_is", 8.397)),
        ("xfrac3dHe1_8.397.bin", (None, "as_is", 8.397)),
        ("clumping_8.397.bin", (None, "as_is", 8.397)),
        ("mesh.bin", (None, "as_is", None)),
    ],
)
@pytest.mark.parametrize("content", [record_mesh(CUBE), IMITATED])
def test_names_say_field_and_redshift(
    tmp_path: Path, content: bytes, name: str, said: tuple[str | None, str, float | None]
) -> None:
    found = the_field(inspected(C2Ray(), tmp_path / name, content))
    assert (found.field, found.quantity, found.redshift) == said
    assert isinstance(found.source, FieldSource)
    check_source(found.source, CUBE, tmp_path / name)


def test_heating_rates_are_left_out(tmp_path: Path) -> None:
    contents = inspected(C2Ray(), tmp_path / "HeatRates3D_8.397.bin", record_mesh(CUBE))
    assert contents is not None
    assert contents.fields == ()
    assert contents.notes == ("HeatRates3D_8.397.bin is left out: heating rates are not stored",)


def test_real_fields_are_those_of_the_other_code(shared_data: Path) -> None:
    folder = shared_data / "dev" / "c2ray_container"
    xhii = the_field(inspected(C2Ray(), folder / "xfrac3d_8.700.bin")).source
    assert isinstance(xhii, FieldSource)
    assert xhii.dtype == np.float64
    block = xhii.read_block((0, 0, 0), (64, 64, 64)).astype("f4")
    expected = np.load(shared_data / "dev" / "pyc2ray_rt" / "xHII_z8.700.npy")
    np.testing.assert_array_equal(block, expected)
    rates = the_field(inspected(C2Ray(), folder / "IonRates3_8.700.bin")).source
    assert isinstance(rates, FieldSource)
    assert rates.dtype == np.float32
    native = shared_data / "dev" / "pyc2ray_rt" / "native" / "IonRates_z8.700.dat"
    values = np.concatenate(list(rates.stream(lambda piece: None)))
    np.testing.assert_array_equal(values, np.fromfile(native, "f4", offset=12))


@pytest.mark.parametrize("old_format", [False, True])
def test_tools21cm_reads_the_same(tmp_path: Path, old_format: bool) -> None:
    xfrac_file = pytest.importorskip("tools21cm.xfrac_file")
    cube = CUBE.astype("f4" if old_format else "f8")
    path = tmp_path / "xfrac3d_8.397.bin"
    xfrac_file.XfracFile().write_to_file(str(path), cube, old_format=old_format)
    found = the_field(inspected(C2Ray(), path))
    assert isinstance(found.source, FieldSource)
    check_source(found.source, cube, path)


def test_tools21cm_reads_the_same_from_records(tmp_path: Path) -> None:
    xfrac_file = pytest.importorskip("tools21cm.xfrac_file")
    path = tmp_path / "xfrac3d_8.397.bin"
    found = the_field(inspected(C2Ray(), path, record_mesh(CUBE)))
    theirs = xfrac_file.XfracFile(str(path))
    assert found.redshift == theirs.z
    assert isinstance(found.source, FieldSource)
    check_source(found.source, theirs.xi, path)


def test_what_gfortran_wrote_is_what_the_code_computed() -> None:
    folder = DATA / "c2ray"
    xhii = the_field(inspected(C2Ray(), folder / "xfrac3d_8.700.bin")).source
    assert isinstance(xhii, FieldSource)
    values = xhii.read_block((0, 0, 0), (SAMPLE_CELLS,) * 3).astype("f4")
    np.testing.assert_array_equal(values, np.load(folder / "expected" / "xHII_z8.700.npy"))
    rates = the_field(inspected(C2Ray(), folder / "IonRates3_8.700.bin")).source
    assert isinstance(rates, FieldSource)
    native = DATA / "pyc2ray" / "IonRates_z8.700.dat"
    np.testing.assert_array_equal(
        np.concatenate(list(rates.stream(lambda piece: None))),
        np.fromfile(native, "<f4", offset=12),
    )


@pytest.mark.parametrize("content", [record_mesh(CUBE), record_mesh(CUBE, ">", 101)])
def test_every_truncation_of_results_is_refused(tmp_path: Path, content: bytes) -> None:
    for kept in [*range(33), 100, len(content) - 1]:
        with pytest.raises(SourceDataError, match=r"xfrac3d_8\.397\.bin: .*truncated.*, copy it"):
            inspected(C2Ray(), tmp_path / "xfrac3d_8.397.bin", content[:kept])


@pytest.mark.parametrize("kept", [24, 25, len(IMITATED) - 1])
def test_truncated_results_of_tools21cm_are_refused(tmp_path: Path, kept: int) -> None:
    with pytest.raises(SourceDataError, match="truncated"):
        inspected(C2Ray(), tmp_path / "xfrac3d_8.397.bin", IMITATED[:kept])
    assert inspected(C2Ray(), tmp_path / "other.bin", IMITATED[:kept]) is None


@pytest.mark.parametrize(
    "content",
    [
        plain_mesh(CUBE),
        b"z mean\n8.397 0.5\n9.000 0.4\n11.000 0.1\n",
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, }",
    ],
)
@pytest.mark.parametrize("name", ["xfrac3d_8.397.bin", "other.bin"])
def test_other_files_are_not_claimed(tmp_path: Path, name: str, content: bytes) -> None:
    assert inspected(C2Ray(), tmp_path / name, content) is None


@pytest.mark.parametrize("content", [b"", b"\x0c\x00\x00\x00", b"ab"])
def test_short_files_of_other_names_are_not_claimed(tmp_path: Path, content: bytes) -> None:
    for name in ("other.bin", "xfrac3d_8.397.png", "xfrac.bin"):
        assert inspected(C2Ray(), tmp_path / name, content) is None


@pytest.mark.parametrize("place", [7, 16, 19])
def test_a_damaged_record_of_sizes_is_refused(tmp_path: Path, place: int) -> None:
    content = bytearray(record_mesh(CUBE))
    content[place] ^= 255
    with pytest.raises(SourceDataError, match="copy it again"):
        inspected(C2Ray(), tmp_path / "xfrac3d_8.397.bin", bytes(content))


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_a_mesh_of_12_cells_without_records_is_none_in_records(
    tmp_path: Path, byte_order: str
) -> None:
    cube = np.random.default_rng(1).random((12, 12, 12))
    path = tmp_path / "xfrac_z8.397.dat"
    assert inspected(C2Ray(), path, plain_mesh(cube, byte_order)) is None
    with pytest.raises(SourceDataError, match="truncated"):
        inspected(C2Ray(), path, plain_mesh(cube, byte_order)[:-1])


@pytest.mark.parametrize("content_bytes", [12 * 125, 4 * 124, 0])
def test_records_of_another_size_are_left_out(tmp_path: Path, content_bytes: int) -> None:
    content = record(struct.pack("<3i", 5, 5, 5)) + record(bytes(content_bytes))
    contents = inspected(C2Ray(), tmp_path / "Temper3D_8.397.bin", content)
    assert contents is not None
    assert contents.fields == ()
    assert contents.notes[0].startswith("Temper3D_8.397.bin is left out: its records are not")
    assert inspected(C2Ray(), tmp_path / "other.bin", content) is None
