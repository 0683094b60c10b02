"""What is written is what a store holds, read back by NumPy, h5py, tools21cm and the readers."""

import builtins
import errno
import os
import shutil
import struct
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ionstore.build.store_writer import StoredField, create_store, write_attributes
from ionstore.cube.cosmology import PLANCK18
from ionstore.cube.mesh import Array, Mesh
from ionstore.cube.statistics import FieldStatistics
from ionstore.edit import edit_store
from ionstore.errors import (
    DiskSpaceError,
    ExportFormatError,
    NotInStoreError,
    StoreDamageError,
    StoreExistsError,
)
from ionstore.export import FORMATS, export_field, find_format, plan_blocks
from ionstore.ingest.scan import inspect_file
from ionstore.readers import READERS
from ionstore.readers.base import FieldSource
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Layout
from tests.support.reporters import ProgressList
from tests.support.stores import cubes_at, write_store

REDSHIFTS = (9.0, 7.5)
CUBES = cubes_at(13, REDSHIFTS)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CubeStore:
    path = tmp_path_factory.mktemp("stores") / "cubes.zarr"
    return write_store(path, CUBES, REDSHIFTS, layout=Layout(13, 4, 8))


@pytest.fixture(params=[1, 4 * 13 * 4 * 4 * 2, 1 << 23])
def block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks of one row of chunks, of a few, and of whole slabs."""
    monkeypatch.setattr("ionstore.export._BLOCK_BYTES", request.param)
    return int(request.param)


@pytest.mark.parametrize("field", ["n_igm", "n_src", "xhii"])
def test_a_numpy_file_holds_the_stored_values(
    tmp_path: Path, store: CubeStore, field: str, block_bytes: int
) -> None:
    path = tmp_path / "field.npy"
    export_field(store, field, 7.5, path)
    values = np.load(path)
    assert values.dtype == CUBES[field].dtype
    assert values.flags.c_contiguous
    np.testing.assert_array_equal(values, CUBES[field][1])
    assert path.read_bytes()[:8] == b"\x93NUMPY\x01\x00"
    np.save(tmp_path / "by_numpy.npy", CUBES[field][1])
    assert path.read_bytes() == (tmp_path / "by_numpy.npy").read_bytes()


@pytest.mark.parametrize("suffix", [".h5", ".hdf5", ".H5"])
@pytest.mark.parametrize("field", ["n_igm", "xhii"])
def test_an_hdf5_file_holds_one_dataset_that_says_what_it_is(
    tmp_path: Path, store: CubeStore, field: str, suffix: str, block_bytes: int
) -> None:
    path = tmp_path / f"field{suffix}"
    export_field(store, field, 7.5002, path)
    with h5py.File(path) as file:
        assert list(file) == [field]
        np.testing.assert_array_equal(file[field], CUBES[field][1])
        assert file[field].dtype == np.float32
        told = dict(file[field].attrs)
    assert told.pop("frame", None) == ("unknown" if field == "n_igm" else None)
    assert told == {
        "units": store.units(field),
        "long_name": store.long_name(field),
        "redshift": 7.5,
        "box_length_cmpc": 20.0,
    }


def test_an_hdf5_file_leaves_out_what_is_unknown(tmp_path: Path) -> None:
    store = write_store(tmp_path / "cubes.zarr", CUBES, REDSHIFTS, box_length_cmpc=None)
    export_field(store, "n_src", 9.0, tmp_path / "field.h5")
    with h5py.File(tmp_path / "field.h5") as file:
        assert file["n_src"].dtype == np.uint8
        assert set(file["n_src"].attrs) == {"units", "long_name", "redshift"}


def test_a_frame_is_said_where_there_is_one(tmp_path: Path) -> None:
    fields = [StoredField("n_igm", "float32", "g cm-3", frame="comoving")]
    writer = create_store(tmp_path / "cubes.zarr", Mesh(4), [9.0], fields)
    values = np.ones((4, 4, 4), "f4")
    writer.shards.write_block("n_igm", 0, (0, 0, 0), values)
    writer.finalize({"n_igm": [FieldStatistics.of(values)]})
    store = CubeStore.open(tmp_path / "cubes.zarr")
    export_field(store, "n_igm", 9.0, tmp_path / "field.h5")
    with h5py.File(tmp_path / "field.h5") as file:
        assert file["n_igm"].attrs["frame"] == "comoving"


def test_the_cosmology_is_said_as_far_as_it_is_known(tmp_path: Path, store: CubeStore) -> None:
    path = Path(shutil.copytree(Path(str(store.path)), tmp_path / "cubes.zarr"))
    edit_store(path, h=0.7, omega_m=0.27)
    export_field(CubeStore.open(path), "n_src", 9.0, tmp_path / "field.h5")
    with h5py.File(tmp_path / "field.h5") as file:
        told = dict(file["n_src"].attrs)
    assert (told["h"], told["omega_m"]) == (0.7, 0.27)
    assert not {"cosmology", "omega_b", "sigma_8", "n_s"} & set(told)
    write_attributes(path, store.attributes.model_copy(update={"cosmology": PLANCK18}))
    export_field(CubeStore.open(path), "xhii", 9.0, tmp_path / "field.h5", overwrite=True)
    with h5py.File(tmp_path / "field.h5") as file:
        told = dict(file["xhii"].attrs)
    assert (told["cosmology"], told["h"], told["omega_b"]) == ("Planck18", 0.6766, 0.04897)
    assert (told["sigma_8"], told["n_s"]) == (0.8102, 0.9665)


def records(values: Array) -> bytes:
    """A mesh in Fortran records, made in the most obvious way."""
    content = values.tobytes(order="F")
    marker = struct.pack("<i", len(content))
    sizes = struct.pack("<3i", *values.shape)
    return struct.pack("<i", 12) + sizes + struct.pack("<i", 12) + marker + content + marker


@pytest.mark.parametrize(("field", "dtype"), [("xhii", "<f8"), ("n_igm", "<f4"), ("n_src", "<f4")])
def test_c2ray_and_pyc2ray_files_are_those_of_their_codes(
    tmp_path: Path, store: CubeStore, field: str, dtype: str, block_bytes: int
) -> None:
    values = CUBES[field][0].astype(dtype)
    export_field(store, field, 9.0, tmp_path / "field.bin")
    assert (tmp_path / "field.bin").read_bytes() == records(values)
    export_field(store, field, 9.0, tmp_path / "field.dat")
    cbin = struct.pack("<3i", 13, 13, 13) + values.tobytes(order="F")
    assert (tmp_path / "field.dat").read_bytes() == cbin


# Of escapes in the strings of tools21cm, where it is compiled now.
@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:invalid escape sequence:SyntaxWarning")
def test_tools21cm_reads_what_is_written(tmp_path: Path, store: CubeStore) -> None:
    tools21cm = pytest.importorskip("tools21cm")
    path = tmp_path / "xfrac3d_7.500.bin"
    export_field(store, "xhii", 7.5, path)
    read = tools21cm.XfracFile(str(path))
    assert read.z == 7.5
    np.testing.assert_array_equal(read.xi, CUBES["xhii"][1].astype("f8"))
    for field, bits in (("xhii", 64), ("n_igm", 32), ("n_src", 32)):
        path = tmp_path / f"{field}.dat"
        export_field(store, field, 7.5, path)
        values = tools21cm.read_cbin(str(path), bits=bits, order="F")
        np.testing.assert_array_equal(values, CUBES[field][1].astype(f"f{bits // 8}"))


@pytest.mark.parametrize("name", ["xfrac3d_7.500.bin", "xfrac_z7.500.dat", "xHII_z7.500.npy"])
def test_what_is_written_is_found_again(tmp_path: Path, store: CubeStore, name: str) -> None:
    path = tmp_path / name
    export_field(store, "xhii", 7.5, path)
    np.testing.assert_array_equal(read_again(path), CUBES["xhii"][1])


def read_again(path: Path) -> Array:
    """The only field of a file, as an ingest would read it."""
    inspected = inspect_file(path, READERS)
    assert inspected is not None
    (found,) = inspected.contents.fields
    assert (found.field, found.redshift) == ("xhii", 7.5)
    assert isinstance(found.source, FieldSource)
    return found.source.read_block((0, 0, 0), found.source.shape)  # type: ignore[arg-type]


def sub_records(content: bytes, n_bytes: int) -> bytes:
    """A record in pieces, each between two markers."""
    pieces = [content[first : first + n_bytes] for first in range(0, len(content), n_bytes)]
    written = b""
    for number, piece in enumerate(pieces):
        before = -len(piece) if number < len(pieces) - 1 else len(piece)
        behind = -len(piece) if number else len(piece)
        written += struct.pack("<i", before) + piece + struct.pack("<i", behind)
    return written


@pytest.mark.parametrize("n_bytes", [13**3 * 8 - 1, 13**3 * 4, 1000, 4099])
def test_a_record_that_is_too_long_is_split(
    tmp_path: Path, store: CubeStore, monkeypatch: pytest.MonkeyPatch, n_bytes: int
) -> None:
    monkeypatch.setattr("ionstore.export._SUB_RECORD_BYTES", n_bytes)
    path = tmp_path / "xfrac3d_7.500.bin"
    export_field(store, "xhii", 7.5, path)
    values = CUBES["xhii"][1].astype("f8")
    content = values.tobytes(order="F")
    assert path.read_bytes() == records(values)[:20] + sub_records(content, n_bytes)
    np.testing.assert_array_equal(read_again(path), values)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("mesh", [1, 2])
def test_the_smallest_meshes_are_written(tmp_path: Path, suffix: str, mesh: int) -> None:
    store = write_store(tmp_path / "cubes.zarr", cubes_at(mesh, [9.0]), [9.0])
    export_field(store, "xhii", 9.0, tmp_path / f"field{suffix}")
    expected = cubes_at(mesh, [9.0])["xhii"][0]
    n_values = {".npy": 128, ".bin": 28, ".dat": 12}.get(suffix)
    if n_values is None:
        with h5py.File(tmp_path / f"field{suffix}") as file:
            np.testing.assert_array_equal(file["xhii"], expected)
    else:
        n_bytes = expected.nbytes if suffix == ".npy" else 2 * expected.nbytes
        assert (tmp_path / f"field{suffix}").stat().st_size == n_values + n_bytes


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 10_000))
def test_blocks_fill_the_mesh_once_in_whole_chunks(
    cells: int, chunk_cells: int, block_cells: int
) -> None:
    seen = np.zeros((cells, cells), int)
    for (x, y, z), (a, b, c) in plan_blocks(cells, chunk_cells, block_cells):
        assert (z, c) == (0, cells)
        assert x % chunk_cells == y % chunk_cells == 0
        assert x + a in (x + chunk_cells, cells)
        assert (y + b) % chunk_cells == 0 or y + b == cells
        assert a * b * c <= max(block_cells, cells * chunk_cells**2)
        seen[x : x + a, y : y + b] += 1
    assert (seen == 1).all()


def test_progress_ends_with_all_bytes(tmp_path: Path, store: CubeStore, block_bytes: int) -> None:
    progress = ProgressList()
    path = str(tmp_path / "field.bin")
    written = export_field(str(store.path), "xhii", 9.0, path, reporter=progress)
    assert written is FORMATS[".bin"]
    assert progress.shown[-1] == (13**3 * 8, 13**3 * 8)
    assert sorted(progress.shown) == progress.shown


def test_files_are_not_replaced_unasked(tmp_path: Path, store: CubeStore) -> None:
    path = tmp_path / "field.npy"
    path.write_text("mine")
    with pytest.raises(StoreExistsError, match=r"field\.npy: already exists; .* --overwrite"):
        export_field(store, "xhii", 9.0, path)
    assert path.read_text() == "mine"
    export_field(store, "xhii", 9.0, path, overwrite=True)
    np.testing.assert_array_equal(np.load(path), CUBES["xhii"][0])
    assert os.listdir(tmp_path) == ["field.npy"]
    with pytest.raises(IsADirectoryError):
        export_field(store, "xhii", 9.0, folder_at(tmp_path / "folder.npy"), overwrite=True)


@pytest.mark.parametrize("where", [".", "xhii/c", "link"])
def test_nothing_is_written_into_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: CubeStore, where: str
) -> None:
    inside = CubeStore.open(shutil.copytree(Path(str(store.path)), tmp_path / "cubes.zarr"))
    (tmp_path / "link").symlink_to(tmp_path / "cubes.zarr" / "xhii")
    before = sorted(tmp_path.rglob("*"))
    folder = tmp_path / where if where == "link" else tmp_path / "cubes.zarr" / where
    with pytest.raises(StoreExistsError, match=r"x\.npy: would lie in the store cubes\.zarr, "):
        export_field(inside, "xhii", 9.0, folder / "x.npy")
    with pytest.raises(StoreExistsError, match="would lie in the store"):
        export_field(store, "xhii", 9.0, folder / "x.npy")  # it need not be the same store
    monkeypatch.chdir(folder)
    with pytest.raises(StoreExistsError, match="would lie in the store"):
        export_field(store, "xhii", 9.0, Path("x.npy"))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_cannot_be_made_is_named_as_it_was_given(
    tmp_path: Path, store: CubeStore, suffix: str
) -> None:
    path = tmp_path / f"field{suffix}"
    (tmp_path / f"field{suffix}.tmp").symlink_to(tmp_path / "nowhere" / "x")
    with pytest.raises(FileNotFoundError) as caught:
        export_field(store, "xhii", 9.0, path)
    assert (caught.value.filename, caught.value.strerror) == (str(path), os.strerror(errno.ENOENT))


def folder_at(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("suffix", FORMATS)
def test_damage_leaves_nothing_behind_and_what_was_there_stays(
    tmp_path: Path, store: CubeStore, suffix: str
) -> None:
    damaged = CubeStore.open(shutil.copytree(store.path, tmp_path / "cubes.zarr"))
    Path(str(damaged.shard_path("xhii", 0, (1, 1, 1)))).unlink()
    path = tmp_path / f"field{suffix}"
    path.write_text("old")
    with pytest.raises(StoreDamageError, match="is missing"):
        export_field(damaged, "xhii", 9.0, path, overwrite=True)
    assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["cubes.zarr", path.name]


def test_what_is_not_there_is_named(tmp_path: Path, store: CubeStore) -> None:
    path = tmp_path / "field.npy"
    with pytest.raises(NotInStoreError, match="got rho"):
        export_field(store, "rho", 9.0, path)
    with pytest.raises(NotInStoreError, match="got 8"):
        export_field(store, "xhii", 8.0, path)
    with pytest.raises(FileNotFoundError) as caught:
        export_field(store, "xhii", 9.0, tmp_path / "nowhere" / "field.npy")
    assert caught.value.filename == str(tmp_path / "nowhere")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("name", "suffix"), [("x.fits", r"\.fits"), ("x", "none")])
def test_suffixes_that_name_no_format_are_refused(name: str, suffix: str) -> None:
    with pytest.raises(ExportFormatError, match=rf"must be one of \.npy, .*, got {suffix};"):
        find_format(Path(name))


def test_without_h5py_the_extra_is_named(
    tmp_path: Path, store: CubeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without_h5py(name: str, *rest: Any, **options: Any) -> Any:
        if name == "h5py":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without_h5py)
    with pytest.raises(ExportFormatError, match=r'^field\.h5: .*pip install "ionstore\[hdf5\]"$'):
        export_field(store, "xhii", 9.0, tmp_path / "field.h5")
    assert os.listdir(tmp_path) == []
    export_field(store, "xhii", 9.0, tmp_path / "field.npy")


def test_a_disk_that_is_too_small_is_noticed_before(
    tmp_path: Path, store: CubeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 8, 2))
    with pytest.raises(DiskSpaceError, match=r"field\.bin: about .* are needed, 2 B are free"):
        export_field(store, "xhii", 9.0, tmp_path / "field.bin")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, r"/field\.bin: the disk is full; free"),
        (errno.EIO, "bin'$"),
    ],
)
def test_errors_of_writing_name_the_file(
    tmp_path: Path,
    store: CubeStore,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    said: str,
) -> None:
    pwrite = os.pwrite

    def failing(descriptor: int, content: bytes, place: int) -> int:
        if place > 5000:
            raise OSError(code, os.strerror(code))
        return pwrite(descriptor, content[:700], place)  # in several goes

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(DiskSpaceError if code == errno.ENOSPC else OSError, match=said):
        export_field(store, "xhii", 9.0, tmp_path / "field.bin")
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr(os, "pwrite", lambda to, content, at: pwrite(to, content[:700], at))
    export_field(store, "xhii", 9.0, tmp_path / "field.bin")
    assert (tmp_path / "field.bin").read_bytes() == records(CUBES["xhii"][0].astype("f8"))


def test_every_field_and_redshift_is_written_in_every_format(
    tmp_path: Path, store: CubeStore
) -> None:
    for field, redshift, suffix in product(store.field_names, REDSHIFTS, FORMATS):
        path = tmp_path / f"{field}_{redshift}{suffix}"
        export_field(store, field, redshift, path)
        assert path.stat().st_size > CUBES[field][0].nbytes


def test_a_prediction_is_written_as_what_it_predicts(tmp_path: Path) -> None:
    values = CUBES["xhii"][1]
    fields = [StoredField("xhii_predicted", "float32", "1")]
    writer = create_store(tmp_path / "predicted.zarr", Mesh(13), [7.5], fields)
    writer.shards.write_block("xhii_predicted", 0, (0, 0, 0), values)
    writer.finalize({"xhii_predicted": [FieldStatistics.of(values)]})
    path = tmp_path / "xfrac3d_7.500.bin"
    export_field(CubeStore.open(tmp_path / "predicted.zarr"), "xhii_predicted", 7.5, path)
    np.testing.assert_array_equal(read_again(path), values)
