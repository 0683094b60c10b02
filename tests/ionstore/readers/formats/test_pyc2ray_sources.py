import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ionstore.cube.mesh import Array
from ionstore.errors import SourceDataError
from ionstore.readers.formats.pyc2ray_sources import PyC2RaySources
from ionstore.readers.points.gridded import GriddedPoints
from ionstore.readers.points.hdf5_list import ConvertedSourceList
from tests.support.mesh_files import SAMPLE_CELLS, inspected, the_field
from tests.support.places import DATA

h5py = pytest.importorskip("h5py")

MESH = 7


def _write(path: Path, positions: Array, masses: Array, **attributes: Any) -> Path:
    """Write a list with the calls of pyC2Ray's converter."""
    unit = attributes.pop("unit", "Solar Mass")
    with h5py.File(path, "w") as file:
        file.create_dataset("sources_positions", data=positions)
        file.create_dataset("sources_mass", data=masses)
        if unit is not None:
            file["sources_mass"].attrs["unit"] = unit
        file.attrs["masstype"] = "hm"
        for name, value in attributes.items():
            file.attrs[name] = value
    return path


def _points(source: object) -> tuple[Array, Array]:
    assert isinstance(source, ConvertedSourceList)
    file_bytes: list[bytes] = []
    pieces = list(source.points(MESH, file_bytes.append))
    assert b"".join(file_bytes) == source.path.read_bytes()
    return np.concatenate([cells for cells, _ in pieces]), np.concatenate(
        [weights for _, weights in pieces]
    )


@pytest.mark.parametrize("rows", [1, 13, 1 << 18])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i4"])
def test_sources_are_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, rows: int
) -> None:
    monkeypatch.setattr("ionstore.readers.points.positions._ROWS", rows)
    rng = np.random.default_rng(1)
    positions = rng.integers(0, MESH, (50, 3)).astype(dtype)
    masses = rng.lognormal(23, 1, 50)
    path = _write(tmp_path / "list.hdf5", positions, masses, z=8.397)
    found = the_field(inspected(PyC2RaySources(), path))
    assert (found.field, found.quantity, found.redshift) == ("n_src", "msun", 8.397)
    cells, weights = _points(pickle.loads(pickle.dumps(found.source)))
    assert cells.dtype == np.int64
    np.testing.assert_array_equal(cells, positions)
    np.testing.assert_array_equal(weights, masses)


def test_a_negative_mass_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ionstore.readers.points.positions._ROWS", 2)
    path = _write(tmp_path / "list.hdf5", np.zeros((4, 3)), np.array([9.0, 5.0, 7.0, -2.0]))
    with pytest.raises(SourceDataError, match="got -2 for source 4"):
        _points(the_field(inspected(PyC2RaySources(), path)).source)


def test_the_sample_is_the_gridded_masses() -> None:
    path = DATA / "pyc2ray" / "8.700-coarsest_wsubgrid_sources.hdf5"
    found = the_field(inspected(PyC2RaySources(), path))
    assert (found.field, found.quantity, found.redshift) == ("n_src", "msun", 8.7)
    assert isinstance(found.source, ConvertedSourceList)
    gridded = GriddedPoints(found.source, SAMPLE_CELLS)
    values = np.concatenate(list(gridded.stream(lambda piece: None)))
    expected = np.load(DATA / "c2ray" / "expected" / "nsrc_z8.700.npy")
    np.testing.assert_allclose(values, expected.ravel(), rtol=1e-6)


def test_real_lists_are_the_gridded_masses(shared_data: Path) -> None:
    dev = shared_data / "dev"
    path = dev / "c2ray_container" / "8.700-coarsest_wsubgrid_sources.hdf5"
    found = the_field(inspected(PyC2RaySources(), path))
    assert (found.quantity, found.redshift) == ("msun", 8.7)
    assert isinstance(found.source, ConvertedSourceList)
    gridded = GriddedPoints(found.source, 64)
    values = np.concatenate(list(gridded.stream(lambda piece: None))).reshape(64, 64, 64)
    expected = np.load(dev / "pyc2ray_rt" / "nsrc_z8.700.npy")
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_a_redshift_may_be_in_the_name_only(tmp_path: Path) -> None:
    path = tmp_path / "8.700-coarsest_sources.hdf5"
    _write(path, np.zeros((1, 3)), np.ones(1))
    assert the_field(inspected(PyC2RaySources(), path)).redshift == 8.7


@pytest.mark.parametrize("z", ["8.7", np.array([8.7, 8.4]), np.nan])
def test_a_redshift_that_is_no_number_is_taken_from_the_name(tmp_path: Path, z: object) -> None:
    path = _write(tmp_path / "8.397-coarsest_sources.hdf5", np.zeros((1, 3)), np.ones(1), z=z)
    assert the_field(inspected(PyC2RaySources(), path)).redshift == 8.397


@pytest.mark.parametrize(
    ("unit", "quantity"),
    [
        ("Solar Mass", "msun"),
        (np.bytes_("Solar Mass"), "msun"),
        (None, "msun"),
        ("grid", "sources"),
        (np.array([1, 2]), "sources"),
    ],
)
def test_another_unit_is_left_open(tmp_path: Path, unit: Any, quantity: str) -> None:
    path = _write(tmp_path / "list.hdf5", np.zeros((1, 3)), np.ones(1), unit=unit)
    assert the_field(inspected(PyC2RaySources(), path)).quantity == quantity


def test_a_list_may_be_empty(tmp_path: Path) -> None:
    path = _write(tmp_path / "list.hdf5", np.zeros((0, 3)), np.zeros(0))
    found = the_field(inspected(PyC2RaySources(), path))
    assert isinstance(found.source, ConvertedSourceList)
    assert list(found.source.points(MESH, lambda piece: None)) == []


@pytest.mark.parametrize("position", [(0, -1, 0), (7, 0, 0), (0, 0, 0.5), (0, np.nan, 0)])
def test_sources_off_the_mesh_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, position: tuple[float, ...]
) -> None:
    monkeypatch.setattr("ionstore.readers.points.positions._ROWS", 4)
    positions = np.zeros((10, 3))
    positions[8] = position
    path = _write(tmp_path / "list.hdf5", positions, np.ones(10))
    with pytest.raises(SourceDataError, match=r"from 0 to 6, got \(.*\) for source 9;"):
        _points(ConvertedSourceList(path))


def test_arrays_that_do_not_match_are_refused(tmp_path: Path) -> None:
    for positions, masses in (
        (np.zeros((3, 3)), np.ones(2)),
        (np.zeros((2, 2)), np.ones(2)),
        (np.zeros(3), np.ones(3)),
        (np.zeros((1, 3)), np.ones(())),
    ):
        path = _write(tmp_path / "list.hdf5", positions, masses)
        with pytest.raises(SourceDataError, match=r"expected sources_positions of shape \(n, 3\)"):
            inspected(PyC2RaySources(), path)
    path = _write(tmp_path / "list.hdf5", np.zeros((1, 3)), np.ones(1, "c16"))
    with pytest.raises(SourceDataError, match="got float64 and complex128"):
        inspected(PyC2RaySources(), path)


@pytest.mark.parametrize("name", ["sources_positions", "sources_mass"])
@pytest.mark.parametrize("kind", ["group", "type", "nothing"])
def test_what_is_no_array_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    path = _write(tmp_path / "list.hdf5", np.zeros((3, 3)), np.ones(3))
    with h5py.File(path, "a") as file:
        del file[name]
        if kind == "group":
            file.create_group(name)
        else:
            file[name] = np.dtype("f8") if kind == "type" else h5py.Empty("f8")
    with pytest.raises(SourceDataError, match=r"of shape \(n,\), got .*none.*; convert"):
        inspected(PyC2RaySources(), path)


def test_other_files_are_not_claimed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["IonizedBox/xH_box"] = np.zeros((2, 2, 2))
        file["sources_mass"] = np.zeros(2)
    assert inspected(PyC2RaySources(), tmp_path / "other.hdf5") is None
    for content in (b"", b"text", b"\x93NUMPY"):
        assert inspected(PyC2RaySources(), tmp_path / "8.7_sources.hdf5", content) is None


def test_what_reads_hdf5_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path / "list.hdf5", np.zeros((1, 3)), np.ones(1))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SourceDataError, match=r'pip install "ionstore\[hdf5\]"'):
        inspected(PyC2RaySources(), path)
    assert inspected(PyC2RaySources(), path, b"text") is None


@pytest.mark.parametrize("name", ["sources_positions", "sources_mass"])
def test_lists_in_other_files_are_refused(tmp_path: Path, name: str) -> None:
    other = _write(tmp_path / "other.hdf5", np.ones((3, 3)), np.ones(3), z=8.397)
    path = _write(tmp_path / "list.hdf5", np.ones((3, 3)), np.ones(3), z=8.397)
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = h5py.ExternalLink(other.name, name)
    with pytest.raises(SourceDataError, match=r"list\.hdf5: .* got a link into other\.hdf5"):
        inspected(PyC2RaySources(), path)


def test_a_list_longer_than_its_file_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "list.hdf5", "w") as file:
        n_sources = 1 << 40
        file.create_dataset("sources_positions", (n_sources, 3), "f8", chunks=(1 << 16, 3))
        file.create_dataset("sources_mass", (n_sources,), "f8", chunks=(1 << 16,))
    with pytest.raises(SourceDataError, match=r"list\.hdf5: .* got a file of"):
        inspected(PyC2RaySources(), tmp_path / "list.hdf5")
