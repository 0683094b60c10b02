import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ionstore.cube.fields import FIELDS
from ionstore.cube.mesh import Array
from ionstore.errors import SourceDataError
from ionstore.readers.formats.numpy_set import NumpySet
from tests.support.mesh_files import check_source, inspected, the_field

READER = NumpySet()
CUBE = np.random.default_rng(1).random((5, 5, 5)).astype("f4")
QUANTITIES = {"n_igm": "density", "n_src": "sources", "xhii": "ionized_fraction"}


def _save(path: Path, cube: Array, kind: str) -> None:
    if kind == "savez":
        np.savez(path, cube)
    else:
        with path.open("wb") as file:
            np.save(file, cube)


@pytest.mark.parametrize(
    ("kind", "suffix"), [("save", ".npy"), ("savez", ".npz"), ("save", ".npz"), ("savez", ".npy")]
)
@pytest.mark.parametrize("name", FIELDS)
def test_the_name_says_the_field_and_the_content_the_kind_of_file(
    tmp_path: Path, name: str, kind: str, suffix: str
) -> None:
    path = tmp_path / f"{FIELDS[name].file_prefix}_z8.397{suffix}"
    _save(tmp_path / "cube.npz", np.asfortranarray(CUBE), kind)
    (tmp_path / "cube.npz").rename(path)
    found = the_field(inspected(READER, path))
    assert (found.field, found.redshift) == (name, 8.397)
    assert found.quantity == QUANTITIES.get(name, "as_is")
    check_source(found.source, CUBE, path)  # type: ignore[arg-type]


def test_redshifts_may_be_whole(tmp_path: Path) -> None:
    np.save(tmp_path / "rho_z8.npy", CUBE)
    assert the_field(inspected(READER, tmp_path / "rho_z8.npy")).redshift == 8.0


@pytest.mark.parametrize(
    ("name", "redshift"),
    [
        ("density_8.397.npy", 8.397),
        ("Rho_z7.500.npy", 7.5),
        ("nhalo_z8.700.npy", 8.7),
        ("movie.npy", None),
        ("xHII_z8.397.npy.old", 8.397),
        ("xHIImean_0_cubesize16_idx3.npz", None),
    ],
)
def test_arrays_whose_name_says_no_field_have_none(
    tmp_path: Path, name: str, redshift: float | None
) -> None:
    path = tmp_path / name
    _save(path, np.asfortranarray(CUBE), "save")
    found = the_field(inspected(READER, path))
    assert (found.field, found.redshift) == (None, redshift)
    check_source(found.source, CUBE, path)  # type: ignore[arg-type]


def test_files_named_for_a_field_must_be_of_numpy(tmp_path: Path) -> None:
    with pytest.raises(SourceDataError, match=r"convert it with numpy\.save"):
        inspected(READER, tmp_path / "nsrc_z8.000.npy", pickle.dumps(CUBE))


def test_the_member_of_the_field_is_taken_from_an_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "xHII_z8.000.npz", other=np.zeros(3), xHII=CUBE)
    assert the_field(inspected(READER, tmp_path / "xHII_z8.000.npz")).source.shape == (5, 5, 5)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("objects_8.000.npy", "objects", "real numbers"),
        ("halos_z8.000.npz", "several", "expected one array"),
        ("cut_8.000.npy", "cut", "truncated"),
        ("cut_8.000.npz", "cut archive", "truncated"),
    ],
)
def test_what_is_wrong_with_other_arrays_is_a_note(
    tmp_path: Path, name: str, kind: str, reason: str
) -> None:
    path = tmp_path / name
    if kind == "objects":
        np.save(path, np.array([{}], dtype=object))
    elif kind == "several":
        np.savez(path, pos_mpc=np.zeros((3, 3)), mass_msun=np.zeros(3))
    else:
        getattr(np, "savez" if kind == "cut archive" else "save")(path, CUBE)
        path.write_bytes(path.read_bytes()[:-100])
    contents = inspected(READER, path)
    assert contents is not None
    assert contents.fields == ()
    (note,) = contents.notes
    assert name in note
    assert reason in note


def test_other_files_are_not_of_this_format(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "book.xlsx", "w") as archive:
        archive.writestr("sheet.xml", "<xml/>")
    assert inspected(READER, tmp_path / "book.xlsx") is None
    assert inspected(READER, tmp_path / "cut.zip", b"PK\x03\x04" + bytes(60)) is None
    assert inspected(READER, tmp_path / "xfrac3d_8.397.bin", bytes(99)) is None
    assert inspected(READER, tmp_path / "empty.dat", b"") is None


def test_real_files_are_read(shared_data: Path) -> None:
    for path in sorted((shared_data / "dev").glob("*_z8.397.npy")):
        found = the_field(inspected(READER, path))
        assert found.field is not None
        assert path.name.startswith(FIELDS[found.field].file_prefix)
        block = found.source.read_block((60, 0, 3), (4, 64, 5))  # type: ignore[union-attr]
        np.testing.assert_array_equal(block, np.load(path, mmap_mode="r")[60:64, :, 3:8])
