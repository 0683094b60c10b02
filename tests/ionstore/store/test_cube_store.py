import json
import pickle
import shutil
from pathlib import Path

import dask.array
import numpy as np
import pytest
import xarray as xr
import zarr

from ionstore.build.store_writer import StoredField, create_store
from ionstore.cube.mesh import Array, Mesh
from ionstore.cube.statistics import FieldStatistics
from ionstore.errors import NotInStoreError, StoreDamageError, StoreFormatError
from ionstore.store.codecs import chunk_codecs, default_compression, round_to_bits
from ionstore.store.conversion import AS_STORED, ValueMap, convert
from ionstore.store.cube_store import CubeStore, open_store, open_stores
from ionstore.store.layout import Layout
from tests.support.places import DATA
from tests.support.stores import cubes_at, write_store

REDSHIFTS = (9.0, 7.5)
FORMAT_1 = DATA / "format_1.zarr"


@pytest.mark.parametrize(
    ("mesh", "layout"),
    [(8, None), (33, None), (45, Layout(45, 8, 16)), (12, Layout(12, 5, 10))],
)
def test_what_is_written_is_read(tmp_path: Path, mesh: int, layout: Layout | None) -> None:
    cubes = cubes_at(mesh, REDSHIFTS)
    store = write_store(tmp_path / "cubes.zarr", cubes, REDSHIFTS, layout=layout)
    assert store.field_names == ("n_igm", "n_src", "xhii")
    for name, values in cubes.items():
        assert store.dtype(name) == values.dtype
        for index, redshift in enumerate(REDSHIFTS):
            np.testing.assert_array_equal(store.read_field(name, redshift), values[index])
            assert store.statistics(name, redshift) == FieldStatistics.of(values[index])


def test_blocks_are_slices_of_fields(small_store: CubeStore) -> None:
    cube = small_store.read_field("n_src", 7.5)
    rng = np.random.default_rng(1)
    for _ in range(10):
        i, j, k = (int(first) for first in rng.integers(0, 12, 3))
        a, b, c = (int(rng.integers(1, 13 - first)) for first in (i, j, k))
        block = small_store.read_block("n_src", 7.5, (i, j, k), (a, b, c))
        np.testing.assert_array_equal(block, cube[i : i + a, j : j + b, k : k + c])
        assert block.flags.c_contiguous


def stored_by_zarr(store: CubeStore, name: str, redshift_index: int) -> Array:
    return np.asarray(zarr.open_array(store.path / name, mode="r")[redshift_index])


@pytest.mark.parametrize("layout", [Layout(12, 4, 8), Layout(12, 5, 5), Layout(12, 12, 36)])
@pytest.mark.parametrize("conversion", [AS_STORED, ValueMap(3.0, -0.5), ValueMap(3, -0.5, 2)])
def test_blocks_are_read_into_slices_of_an_array(
    tmp_path: Path, layout: Layout, conversion: ValueMap
) -> None:
    cubes = cubes_at(12, REDSHIFTS)
    cubes["n_src"] = cubes["n_src"].astype("u2") * 9000
    store = write_store(tmp_path / "cubes.zarr", cubes, REDSHIFTS, layout=layout)
    for name in store.field_names:
        whole = np.empty((12, 12, 12), np.float32)
        convert(stored_by_zarr(store, name, 1), whole, conversion)
        for start, shape in [
            ((0, 0, 0), (12, 12, 12)),
            ((3, 4, 5), (6, 1, 7)),
            ((11,) * 3, (1,) * 3),
        ]:
            (i, j, k), (a, b, c) = start, shape
            fields = np.full((2, 14, 14, 14), -7, np.float32)
            expected = fields.copy()
            expected[1, 1 : a + 1, 2 : b + 2, :c] = whole[i : i + a, j : j + b, k : k + c]
            out = fields[1, 1 : a + 1, 2 : b + 2, :c]
            n_cells = store.read_into(name, 7.5, start, out, conversion=conversion)
            np.testing.assert_array_equal(fields, expected)
            side = layout.chunk_cells
            chunks = [
                (first + cells - 1) // side - first // side + 1
                for first, cells in zip(start, shape, strict=True)
            ]
            assert n_cells == np.prod(chunks) * side**3


@pytest.mark.parametrize(
    ("mesh", "layout"), [(8, None), (33, None), (12, Layout(12, 5, 10)), (7, Layout(7, 7, 7))]
)
def test_blocks_are_those_that_zarr_reads(tmp_path: Path, mesh: int, layout: Layout | None) -> None:
    store = write_store(
        tmp_path / "cubes.zarr", cubes_at(mesh, REDSHIFTS), REDSHIFTS, layout=layout
    )
    for name in store.field_names:
        for index, redshift in enumerate(REDSHIFTS):
            block = store.read_block(name, redshift, (1, 0, 2), (mesh - 2, mesh, mesh - 2))
            assert block.dtype == store.dtype(name)
            expected = stored_by_zarr(store, name, index)[1 : mesh - 1, :, 2:]
            np.testing.assert_array_equal(block, expected)


def test_arrays_that_cannot_be_filled_are_refused(small_store: CubeStore) -> None:
    for out, said in [
        (np.zeros((2, 2, 2)), "out must be float32"),
        (np.zeros((2, 2, 4), "f4")[:, :, ::2], "last axis contiguous"),
        (np.zeros((2, 2), "f4"), "out must be float32"),
        (np.zeros((2, 0, 2), "f4"), "must hold cells"),
        (np.zeros((13, 1, 1), "f4"), "do not wrap"),
    ]:
        with pytest.raises(ValueError, match=said):
            small_store.read_into("xhii", 9.0, (0, 0, 0), out)
    out = np.zeros((2, 2, 2), "f4")
    for start in [(11, 0, 0), (0, -1, 0)]:
        with pytest.raises(ValueError, match="do not wrap"):
            small_store.read_into("xhii", 9.0, start, out)
    with pytest.raises(NotInStoreError, match="got rho"):
        small_store.read_into("rho", 9.0, (0, 0, 0), out)
    with pytest.raises(NotInStoreError, match="got 8"):
        small_store.read_into("xhii", 8.0, (0, 0, 0), out)


def test_a_store_says_what_it_holds(small_store: CubeStore) -> None:
    assert small_store.mesh == Mesh(12, 20.0)
    assert small_store.redshifts == REDSHIFTS
    assert small_store.units("n_igm") == "g cm-3"
    assert small_store.long_name("xhii") == "ionized hydrogen fraction"
    assert small_store.frame == "unknown"
    assert small_store.cosmology is None
    assert len(small_store.uuid) == 36


def test_redshifts_are_matched_within_half_a_thousandth(small_store: CubeStore) -> None:
    assert small_store.redshift_index(9.0004) == 0
    assert small_store.redshift_index(7.4996) == 1
    with pytest.raises(NotInStoreError, match=r"one of 9, 7\.5 .*, got 8"):
        small_store.redshift_index(8.0)


def test_chosen_redshifts_are_those_of_the_store(small_store: CubeStore) -> None:
    assert small_store.chosen_redshifts([7.5004, 8.9996, 7.5]) == (7.5, 9.0, 7.5)
    assert small_store.chosen_redshifts(np.array([7.5, 9.0])) == (7.5, 9.0)
    assert small_store.chosen_redshifts() == small_store.chosen_redshifts([]) == (9.0, 7.5)
    with pytest.raises(NotInStoreError, match="redshift must be one of 9, "):
        small_store.chosen_redshifts([7.5, 8.0])


def test_stores_are_opened_where_they_are_paths(small_store: CubeStore) -> None:
    assert open_store(small_store) is small_store
    path = Path(small_store.path)
    for given in (path, str(path), [path, small_store]):
        assert {one.uuid for one in open_stores(given)} == {small_store.uuid}
    with pytest.raises(ValueError, match="store must name at least one store, got none"):
        open_stores([])


def test_unknown_fields_are_named(small_store: CubeStore) -> None:
    with pytest.raises(NotInStoreError, match=r"one of n_igm, n_src, xhii .*, got rho"):
        small_store.read_field("rho", 9.0)


def test_blocks_do_not_wrap(small_store: CubeStore) -> None:
    for start, shape in [((11, 0, 0), (2, 1, 1)), ((0, -1, 0), (1, 1, 1))]:
        with pytest.raises(ValueError, match="do not wrap"):
            small_store.read_block("xhii", 9.0, start, shape)


def test_a_store_is_pickled_as_its_path(small_store: CubeStore) -> None:
    small_store.read_field("xhii", 9.0)
    payload = pickle.dumps(small_store)
    assert len(payload) < 300
    again = pickle.loads(payload)
    np.testing.assert_array_equal(
        again.read_field("xhii", 9.0), small_store.read_field("xhii", 9.0)
    )


def test_opening_names_what_is_wrong(tmp_path: Path, small_store: CubeStore) -> None:
    with pytest.raises(StoreFormatError, match="found nothing"):
        CubeStore.open(tmp_path / "none.zarr")
    (tmp_path / "cubes.zarr.partial").mkdir()
    with pytest.raises(StoreFormatError, match="not finished"):
        CubeStore.open(tmp_path / "cubes.zarr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreFormatError, match="made by ionstore"):
        CubeStore.open(tmp_path / "folder")
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(StoreFormatError, match="made by ionstore"):
        CubeStore.open(tmp_path / "other.zarr")
    for name, change, said in [
        ("newer", {"format_version": 2}, "format_version 2 is newer than 1.*update"),
        ("damaged", {"redshifts": "nine"}, "redshifts"),
    ]:
        shutil.copytree(small_store.path, tmp_path / name)
        root = json.loads((tmp_path / name / "zarr.json").read_text())
        root["attributes"]["ionstore"] |= change
        (tmp_path / name / "zarr.json").write_text(json.dumps(root))
        with pytest.raises(StoreFormatError, match=said):
            CubeStore.open(tmp_path / name)


def test_a_store_being_built_is_refused(tmp_path: Path) -> None:
    fields = [StoredField("xhii", "float32", "1")]
    writer = create_store(tmp_path / "cubes.zarr", Mesh(8), [9.0], fields)
    writer.shards.write_block("xhii", 0, (0, 0, 0), np.zeros((8, 8, 8), "f4"))
    with pytest.raises(StoreFormatError, match="still being built"):
        CubeStore.open(tmp_path / "cubes.zarr")


def test_writers_take_whole_shards_of_the_stored_dtype(tmp_path: Path) -> None:
    writer = create_store(
        tmp_path / "cubes.zarr",
        Mesh(12),
        [9.0],
        [StoredField("n_src", "uint8", "1")],
        layout=Layout(12, 4, 8),
    )
    with pytest.raises(ValueError, match="whole shard"):
        writer.shards.write_block("n_src", 0, (0, 0, 0), np.zeros((4, 8, 8), "u1"))
    with pytest.raises(ValueError, match="uint8"):
        writer.shards.write_block("n_src", 0, (0, 0, 0), np.zeros((8, 8, 8), "f4"))
    path = writer.shards.write_block("n_src", 0, (8, 0, 8), np.ones((4, 8, 4), "u1"))
    assert path.relative_to(writer.path).parts == ("n_src", "c", "0", "1", "0", "1")
    clone = pickle.loads(pickle.dumps(writer))
    clone.shards.check_block("n_src", 0, (8, 0, 8), np.ones((4, 8, 4), "u1"))


def test_creation_checks_its_arguments(tmp_path: Path) -> None:
    field = StoredField("xhii", "float32", "1")
    for redshifts in ([7.0, 9.0], [9.0, 9.0], []):
        with pytest.raises(ValueError, match="descending"):
            create_store(tmp_path / "a.zarr", Mesh(8), redshifts, [field])
    with pytest.raises(ValueError, match="at least one field"):
        create_store(tmp_path / "a.zarr", Mesh(8), [9.0], [])


def test_every_chunk_on_the_mesh_is_stored_even_zeros(tmp_path: Path) -> None:
    zeros = {"n_src": np.zeros((1, 40, 40, 40), "u1")}
    store = write_store(tmp_path / "cubes.zarr", zeros, [9.0], layout=Layout(40, 8, 32))
    shards = sorted((store.path / "n_src" / "c" / "0").rglob("[0-9]"))
    shards = [path for path in shards if path.is_file()]
    assert len(shards) == 8
    n_stored = 0
    for path in shards:
        index = np.frombuffer(path.read_bytes()[-(64 * 16 + 4) : -4], "<u8").reshape(64, 2)
        n_stored += int((index[:, 0] != 2**64 - 1).sum())
    assert n_stored == 5**3


def test_a_missing_shard_is_not_read_as_fill_values(tmp_path: Path) -> None:
    cubes = cubes_at(12, [9.0])
    store = write_store(tmp_path / "cubes.zarr", cubes, [9.0], layout=Layout(12, 4, 8))
    store.shard_path("n_src", 0, (1, 0, 0)).unlink()
    assert store.read_block("n_src", 9.0, (0, 0, 0), (8, 8, 8)).shape == (8, 8, 8)
    with pytest.raises(StoreDamageError, match="missing"):
        store.read_block("n_src", 9.0, (0, 0, 0), (9, 8, 8))


@pytest.mark.parametrize("place", [0.5, -30])
def test_a_flipped_bit_in_data_or_index_is_noticed(tmp_path: Path, place: float) -> None:
    store = write_store(tmp_path / "cubes.zarr", cubes_at(12, [9.0]), [9.0])
    path = store.shard_path("n_src", 0, (0, 0, 0))
    content = bytearray(path.read_bytes())
    content[int(place * len(content)) if place > 0 else int(place)] ^= 4
    path.write_bytes(content)
    with pytest.raises(StoreDamageError, match="damaged"):
        store.read_field("n_src", 9.0)


def test_xarray_opens_one_dataset_without_masking_zeros(small_store: CubeStore) -> None:
    with xr.open_zarr(small_store.path) as dataset:
        assert set(dataset.data_vars) == {"n_igm", "n_src", "xhii"}
        assert dataset["n_src"].dims == ("redshift", "x", "y", "z")
        assert dataset["n_src"].dtype == np.uint8
        assert dataset["n_igm"].attrs["units"] == "g cm-3"
        assert dataset["x"].attrs["units"] == "cMpc"
        np.testing.assert_array_equal(dataset["redshift"], REDSHIFTS)
        np.testing.assert_allclose(dataset["z"], (np.arange(12) + 0.5) * 20 / 12)
        values = dataset["n_src"].sel(redshift=7.5).to_numpy()
    cube = small_store.read_field("n_src", 7.5)
    assert (cube == 0).any()
    np.testing.assert_array_equal(values, cube)


def test_dask_opens_a_field(small_store: CubeStore) -> None:
    array = dask.array.from_zarr(str(small_store.path / "xhii"))
    np.testing.assert_array_equal(
        array[1].compute(scheduler="sync"), small_store.read_field("xhii", 7.5)
    )


def test_metadata_are_those_of_the_format(small_store: CubeStore) -> None:
    root = json.loads((small_store.path / "zarr.json").read_text())
    said = root["attributes"]["ionstore"]
    assert said["format_version"] == 1
    assert said["status"] == "complete"
    assert said["periodic_axes"] == ["x", "y", "z"]
    assert {"python", "zarr", "numcodecs", "ionstore"} <= set(said["versions"])
    arrays = root["consolidated_metadata"]["metadata"]
    assert set(arrays) == {"redshift", "x", "y", "z", "n_igm", "n_src", "xhii"}
    for name, fill, typesize in (("n_igm", "NaN", 4), ("n_src", 0, 1)):
        array = arrays[name]
        assert array["fill_value"] == fill
        assert "_FillValue" not in array["attributes"]
        assert array["dimension_names"] == ["redshift", "x", "y", "z"]
        assert array["chunk_key_encoding"]["name"] == "default"
        (sharding,) = array["codecs"]
        inner = sharding["configuration"]["codecs"]
        assert [codec["name"] for codec in inner] == ["bytes", "blosc", "crc32c"]
        assert inner[1]["configuration"]["typesize"] == typesize
        index = sharding["configuration"]["index_codecs"]
        assert [codec["name"] for codec in index] == ["bytes", "crc32c"]


def test_floats_are_shuffled_by_their_size(tmp_path: Path) -> None:
    smooth = np.linspace(1, 2, 32**3, dtype="f4").reshape(1, 32, 32, 32)
    store = write_store(tmp_path / "cubes.zarr", {"xhii": smooth}, [9.0])
    stored = store.shard_path("xhii", 0, (0, 0, 0)).stat().st_size
    codec = chunk_codecs(default_compression(smooth.dtype), smooth.dtype)[0]
    assert codec.to_dict()["configuration"]["typesize"] == 4  # type: ignore[call-overload,index]
    assert stored < 0.55 * smooth.nbytes


def test_rounding_keeps_the_bits_asked_for() -> None:
    values = np.random.default_rng(1).lognormal(size=(5, 6, 7)).astype("f4") * np.float32(1e-28)
    rounded = round_to_bits(values, 10)
    assert rounded.shape == values.shape
    assert rounded.dtype == np.float32
    assert (np.abs(rounded / values - 1) <= 2.0**-11).all()
    assert (rounded.view("u4") & (2**13 - 1) == 0).all()
    with pytest.raises(ValueError, match="between 1 and 23"):
        round_to_bits(values, 24)


def test_format_1_stays_readable() -> None:
    store = CubeStore.open(FORMAT_1)
    assert store.mesh == Mesh(6, 14.0)
    assert store.redshifts == (8.397, 7.305)
    assert store.frame == "proper"
    assert store.cosmology is not None
    assert store.cosmology.h == 0.7
    cells = np.arange(6**3).reshape(6, 6, 6)
    np.testing.assert_array_equal(store.read_field("n_src", 7.305), cells % 7)
    np.testing.assert_array_equal(store.read_field("xhii", 8.397), (cells % 11 / 16).astype("f4"))
    assert store.statistics("n_src", 7.305).max == 6
    for name in store.field_names:
        for index, redshift in enumerate(store.redshifts):
            expected = stored_by_zarr(store, name, index)
            np.testing.assert_array_equal(store.read_field(name, redshift), expected)
            out = np.empty((6, 6, 6), np.float32)
            assert store.read_into(name, redshift, (0, 0, 0), out) == 8 * 4**3
            np.testing.assert_array_equal(out, expected.astype(np.float32))
