from pathlib import Path

import numpy as np
import pytest

from ionstore.cube.mesh import Array
from ionstore.errors import SourceDataError
from ionstore.readers.base import FieldSource
from ionstore.readers.formats.pyc2ray import PyC2Ray
from tests.support.mesh_files import (
    SAMPLE_CELLS,
    check_source,
    inspected,
    plain_mesh,
    record_mesh,
    the_field,
)
from tests.support.places import DATA

CUBE = np.asfortranarray(np.random.default_rng(1).random((5, 5, 5)))

NAMES = [
    ("xfrac_z8.700", "xhii", "ionized_fraction"),
    ("xfrac_8.700", "xhii", "ionized_fraction"),
    ("IonRates_z8.700", "ionization_rate", "as_is"),
    ("IonRates_8.700", "ionization_rate", "as_is"),
]


def _whole(source: object, mesh_cells: int) -> Array:
    assert isinstance(source, FieldSource)
    return source.read_block((0, 0, 0), (mesh_cells,) * 3)


@pytest.mark.parametrize(("stem", "field", "quantity"), NAMES)
def test_names_say_field_and_redshift(tmp_path: Path, stem: str, field: str, quantity: str) -> None:
    for path in (tmp_path / f"{stem}.dat", tmp_path / f"{stem}.npy"):
        if path.suffix == ".npy":
            np.save(path, CUBE)
        else:
            path.write_bytes(plain_mesh(CUBE))
        found = the_field(inspected(PyC2Ray(), path))
        assert (found.field, found.quantity, found.redshift) == (field, quantity, 8.7)
        assert isinstance(found.source, FieldSource)
        check_source(found.source, CUBE, path)


def test_results_of_c2ray_without_records_are_known_by_name(tmp_path: Path) -> None:
    found = the_field(inspected(PyC2Ray(), tmp_path / "xfrac3d_8.397.bin", plain_mesh(CUBE)))
    assert (found.field, found.redshift) == ("xhii", 8.397)


def test_arrays_of_numpy_are_known_whatever_the_name_ends_in(tmp_path: Path) -> None:
    with (tmp_path / "xfrac_z8.700.dat").open("wb") as file:
        np.save(file, CUBE)
    np.testing.assert_array_equal(
        _whole(the_field(inspected(PyC2Ray(), tmp_path / "xfrac_z8.700.dat")).source, 5), CUBE
    )


def test_real_fields_are_those_of_the_set_of_files(shared_data: Path) -> None:
    folder = shared_data / "dev" / "pyc2ray_rt"
    for redshift in ("8.700", "9.000"):
        found = the_field(inspected(PyC2Ray(), folder / "native" / f"xfrac_z{redshift}.dat"))
        assert found.redshift == float(redshift)
        expected = np.load(folder / f"xHII_z{redshift}.npy")
        np.testing.assert_array_equal(_whole(found.source, 64).astype("f4"), expected)


def test_the_sample_is_what_the_code_computed() -> None:
    found = the_field(inspected(PyC2Ray(), DATA / "pyc2ray" / "xfrac_z8.700.dat"))
    assert (found.field, found.redshift) == ("xhii", 8.7)
    expected = np.load(DATA / "c2ray" / "expected" / "xHII_z8.700.npy")
    np.testing.assert_array_equal(_whole(found.source, SAMPLE_CELLS).astype("f4"), expected)


@pytest.mark.parametrize(("name", "bits"), [("xfrac_z8.700.dat", 64), ("IonRates_z8.700.dat", 32)])
def test_tools21cm_reads_the_same(name: str, bits: int) -> None:
    functions = pytest.importorskip("tools21cm.helper_functions")
    path = DATA / "pyc2ray" / name
    found = the_field(inspected(PyC2Ray(), path))
    assert isinstance(found.source, FieldSource)
    check_source(found.source, functions.read_cbin(str(path), bits=bits, order="F"), path)


def test_tools21cm_reads_the_same_fraction() -> None:
    xfrac_file = pytest.importorskip("tools21cm.xfrac_file")
    path = DATA / "pyc2ray" / "xfrac_z8.700.dat"
    theirs = xfrac_file.XfracFile(str(path), binary_format=True).xi
    found = the_field(inspected(PyC2Ray(), path))
    np.testing.assert_array_equal(_whole(found.source, SAMPLE_CELLS), theirs)


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_truncated_or_longer_files_are_refused(tmp_path: Path, byte_order: str) -> None:
    content = plain_mesh(CUBE, byte_order)
    path = tmp_path / "xfrac_z8.700.dat"
    for damaged in (
        *(content[:kept] for kept in (0, 1, 11, 12, 500, len(content) - 1)),
        content + b"0",
    ):
        with pytest.raises(SourceDataError, match=r"xfrac_z8\.700\.dat: .*copy it again"):
            inspected(PyC2Ray(), path, damaged)


def test_other_files_are_not_claimed(tmp_path: Path) -> None:
    for name in ("xHII_z8.700.npy", "xfrac.dat", "mesh.dat", "xfrac_z8.700.png", "xfrac_3.pkl"):
        assert inspected(PyC2Ray(), tmp_path / name, plain_mesh(CUBE)) is None
    assert inspected(PyC2Ray(), tmp_path / "xfrac_z8.700.dat", b"z xHII\n8.700 0.235\n") is None
    assert inspected(PyC2Ray(), tmp_path / "xfrac_z8.700.dat", CUBE.tobytes()) is None


def test_results_in_records_are_of_another_format(tmp_path: Path) -> None:
    for content in (record_mesh(CUBE), record_mesh(CUBE, ">"), record_mesh(CUBE)[:-1]):
        assert inspected(PyC2Ray(), tmp_path / "xfrac3d_8.700.bin", content) is None
