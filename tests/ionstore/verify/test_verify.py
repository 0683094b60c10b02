"""Every kind of damage is found where it is; a store without damage has none."""

import errno
import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import xxhash
import zarr

from ionstore.build.store_writer import StoredField, create_store, write_attributes
from ionstore.cube.mesh import Array, Corner, Mesh, Region
from ionstore.cube.statistics import FieldStatistics
from ionstore.errors import StoreDamageError, StoreFormatError
from ionstore.ingest.ingest import ingest_cubes
from ionstore.loading.loaders import NeighborhoodLoader
from ionstore.storage.s3 import ObjectPath
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Layout
from ionstore.store.metadata import SourceFile
from ionstore.verify.damage import Damage
from ionstore.verify.verify import Verification, statistics_damage, verify_store
from tests.support.object_server import environment, make_bucket, running_object_server, upload
from tests.support.places import DATA
from tests.support.reporters import ProgressList, ProgressTo
from tests.support.stores import cubes_at, write_store
from tests.support.three_file_sets import write_set

FORMAT_1 = DATA / "format_1.zarr"
REDSHIFTS = (9.0, 7.5)
LAYOUT = Layout(20, 8, 16)  # chunks and shards that do not divide the mesh
CHUNKS_A_SHARD = 8
INDEX_BYTES = 16 * CHUNKS_A_SHARD + 4
N_FLIPS = 200


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "cubes.zarr"
    return write_store(path, cubes_at(20, REDSHIFTS), REDSHIFTS, layout=LAYOUT).path  # type: ignore[return-value]


@pytest.fixture
def store(tmp_path: Path, whole_store: Path) -> CubeStore:
    return CubeStore.open(shutil.copytree(whole_store, tmp_path / "cubes.zarr"))


def verified(store: CubeStore, **options: Any) -> Verification:
    return verify_store(CubeStore.open(store.path), **options)


def file_of(store: CubeStore, *names: str) -> Path:
    return Path(str(store.path)).joinpath(*names)


def chunk_region(shard: Corner, chunk: int) -> tuple[Corner, Corner] | None:
    """First cell and shape of a chunk, None if it lies off the mesh."""
    i, j, k = (
        16 * at + 8 * int(place)
        for at, place in zip(shard, np.unravel_index(chunk, (2, 2, 2)), strict=True)
    )
    if max(i, j, k) >= 20:
        return None
    return (i, j, k), (min(8, 20 - i), min(8, 20 - j), min(8, 20 - k))


@dataclass(frozen=True)
class Shard:
    """A shard of the store, and where its chunks lie in its file."""

    field: str
    redshift_index: int
    index: Corner
    path: Path
    chunks: Mapping[int, range]

    @property
    def redshift(self) -> float:
        return REDSHIFTS[self.redshift_index]

    @property
    def region(self) -> tuple[Corner, Corner]:
        i, j, k = (16 * at for at in self.index)
        return (i, j, k), (min(16, 20 - i), min(16, 20 - j), min(16, 20 - k))

    def region_at(self, byte: int) -> tuple[Corner, Corner]:
        """What a byte holds: a chunk, or the index of all of them."""
        for chunk, bytes_of_chunk in self.chunks.items():
            if byte in bytes_of_chunk:
                region = chunk_region(self.index, chunk)
                assert region is not None  # no chunk is stored that lies off the mesh
                return region
        assert byte >= self.path.stat().st_size - INDEX_BYTES
        return self.region


def shards_of(store: CubeStore) -> list[Shard]:
    shards = []
    for field, index, (i, j, k) in product(
        store.field_names, range(2), product(range(2), repeat=3)
    ):
        path = file_of(store, field, "c", str(index), str(i), str(j), str(k))
        entries = np.frombuffer(path.read_bytes()[-INDEX_BYTES:-4], "<u8").reshape(-1, 2).tolist()
        chunks = {
            chunk: range(first, first + n_bytes)
            for chunk, (first, n_bytes) in enumerate(entries)
            if first != 2**64 - 1
        }
        shards.append(Shard(field, index, (i, j, k), path, chunks))
    return shards


def test_a_whole_store_has_no_damage(store: CubeStore) -> None:
    progress = ProgressList()
    found = verified(store, reporter=progress)
    assert found.damage == ()
    assert found.stray_files == ()
    assert found.is_intact
    assert found.n_chunks == 3 * 2 * 3**3
    assert found.value_bytes == 2 * (4 + 1 + 4) * 20**3
    assert found.n_source_files == 0
    assert progress.shown[-1] == (found.value_bytes, found.value_bytes)
    assert len(progress.shown) == 3 * 2 * 8


@pytest.mark.parametrize(
    ("mesh", "layout"),
    [(1, None), (8, None), (33, None), (12, Layout(12, 5, 10)), (12, Layout(12, 12, 36))],
)
def test_whole_stores_of_any_layout_have_no_damage(
    tmp_path: Path, mesh: int, layout: Layout | None
) -> None:
    cubes = {name: values * 0 + 1 for name, values in cubes_at(mesh, REDSHIFTS).items()}
    for number, fields in enumerate((cubes_at(mesh, REDSHIFTS), cubes)):
        store = write_store(tmp_path / f"{number}.zarr", fields, REDSHIFTS, layout=layout)
        found = verified(store)
        assert found.damage == ()
        assert found.stray_files == ()
        per_side = -(-mesh // store.layout.chunk_cells)
        assert found.n_chunks == 3 * 2 * per_side**3


def test_a_store_of_format_1_has_no_damage() -> None:
    found = verify_store(CubeStore.open(FORMAT_1))
    assert found.damage == ()
    assert found.stray_files == ()
    assert found.n_chunks == 2 * 3 * 2**3


@pytest.mark.slow  # verifies a store for each of hundreds of bits
def test_every_flipped_bit_is_found_and_never_read(store: CubeStore) -> None:
    shards = shards_of(store)
    sizes = np.array([shard.path.stat().st_size for shard in shards])
    rng = np.random.default_rng(2021)
    places = rng.choice(int(sizes.sum()), N_FLIPS, replace=False).tolist()
    hit: list[tuple[Shard, bool]] = []
    for number, place in enumerate(places):
        at = int(np.searchsorted(np.cumsum(sizes), place, side="right"))
        shard, byte = shards[at], place - int(sizes[:at].sum())
        whole = shard.path.read_bytes()
        flipped = bytearray(whole)
        flipped[byte] ^= 1 << int(rng.integers(8))
        start, shape = shard.region_at(byte)
        hit.append((shard, byte >= len(whole) - INDEX_BYTES))
        shard.path.write_bytes(flipped)
        check_that_it_is_found(store, shard, start, shape)
        check_that_it_is_not_read(store, shard, start, shape, in_regions=number % 2 == 0)
        shard.path.write_bytes(whole)
    assert {(shard.field, shard.redshift) for shard, _ in hit} == set(
        product(store.field_names, REDSHIFTS)
    )
    assert len({shard.path for shard, _ in hit}) > 35
    assert {in_index for _, in_index in hit} == {False, True}
    assert verified(store).is_intact


def check_that_it_is_found(store: CubeStore, shard: Shard, start: Corner, shape: Corner) -> None:
    (damage,) = verified(store).damage
    assert (damage.field, damage.redshift) == (shard.field, shard.redshift)
    assert (damage.start, damage.shape) == (start, shape)
    assert damage.file == shard.path.relative_to(file_of(store)).as_posix()
    assert "does not match its checksum" in damage.what


def check_that_it_is_not_read(
    store: CubeStore, shard: Shard, start: Corner, shape: Corner, *, in_regions: bool
) -> None:
    damaged = CubeStore.open(store.path)
    said = f"/{shard.field}/c/{shard.redshift_index}/.*does not match its checksum; the file is dam"
    with pytest.raises(StoreDamageError, match=said):
        damaged.read_block(shard.field, shard.redshift, start, shape)
    with pytest.raises(StoreDamageError, match=said):
        sample_at(damaged, shard.redshift, start, in_regions=in_regions)


def sample_at(
    store: CubeStore, redshift: float, center: Corner, *, in_regions: bool
) -> tuple[Array, float]:
    """The neighborhood of a cell and the target there, as they are loaded."""
    with NeighborhoodLoader(
        store,
        radius=1,
        batch_size=1,
        redshifts=[redshift],
        centers=Region(center, (1, 1, 1)),
        core=8,
        n_lanes=1,
        memory_budget=60_000 if in_regions else 200_000,
    ) as loader:
        assert loader.stats.mode == ("regions" if in_regions else "resident")
        (batch,) = loader
        return batch.inputs[0].numpy().copy(), float(batch.target[0])


def test_a_loader_that_does_not_need_a_damaged_chunk_reads_on(store: CubeStore) -> None:
    flip(next(shard.path for shard in shards_of(store) if shard.index == (1, 1, 1)), 20)
    cubes = cubes_at(20, REDSHIFTS)
    inputs, target = sample_at(store, 9.0, (4, 4, 4), in_regions=True)
    for channel, name in enumerate(("n_igm", "n_src")):
        np.testing.assert_array_equal(inputs[channel], cubes[name][0, 3:6, 3:6, 3:6])
    assert target == cubes["xhii"][0, 4, 4, 4]
    assert len(verified(store).damage) == 1


def flip(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 16
    path.write_bytes(content)


def shard_of(store: CubeStore, field: str = "n_src", index: Corner = (1, 0, 0)) -> Shard:
    """A shard at the second redshift, in front of the face of the mesh by default."""
    return next(
        shard
        for shard in shards_of(store)
        if (shard.field, shard.redshift_index, shard.index) == (field, 1, index)
    )


def check_one(store: CubeStore, what: str, **expected: object) -> None:
    """Check that there is one damage, and what is told of it."""
    (damage,) = verified(store).damage
    told = damage.model_dump()
    assert {key: told[key] for key in expected} == expected
    assert what in damage.what


def lose(path: Path) -> None:
    path.unlink()


def put_a_folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def lose_its_folder(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_text("")


def cut_at_the_end(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def cut_all(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lose, "is missing"),
        (put_a_folder_in_its_place, "is missing"),
        (cut_at_the_end, "its index does not match its checksum"),
        (cut_all, "its index does not match its checksum"),
    ],
)
def test_shards_that_are_lost_or_cut_are_found(
    store: CubeStore, damage: Callable[[Path], None], what: str
) -> None:
    shard = shard_of(store)
    damage(shard.path)
    start, shape = shard.region
    assert (start, shape) == ((16, 0, 0), (4, 16, 16))
    file = "n_src/c/1/1/0/0"
    check_one(store, what, field="n_src", redshift=7.5, start=start, shape=shape, file=file)
    assert verified(store).stray_files == ()


def test_all_shards_below_a_folder_that_is_lost_are_found(store: CubeStore) -> None:
    lose_its_folder(shard_of(store).path)
    found = verified(store)
    assert [damage.file for damage in found.damage] == ["n_src/c/1/1/0/0", "n_src/c/1/1/0/1"]
    assert {damage.what for damage in found.damage} == {"is missing"}
    assert found.stray_files == ("n_src/c/1/1/0",)


def test_a_shard_that_cannot_be_read_is_found(
    store: CubeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = shard_of(store)
    inode, pread = shard.path.stat().st_ino, os.pread

    def failing(descriptor: int, n_bytes: int, first: int) -> bytes:
        if os.fstat(descriptor).st_ino == inode:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, n_bytes, first)

    monkeypatch.setattr(os, "pread", failing)
    start, shape = shard.region
    check_one(store, "cannot be read (Input/output error)", start=start, shape=shape)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all files")
def test_files_that_may_not_be_read_are_found(store: CubeStore) -> None:
    shard_of(store).path.chmod(0)
    file_of(store, "x", "c", "0").chmod(0)
    file_of(store, "xhii", "zarr.json").chmod(0)
    damage = verified(store).damage
    assert [one.field for one in damage] == ["xhii", "x", "n_src"]
    assert {one.what for one in damage} == {"cannot be read (Permission denied)"}


def without_chunk(content: bytes, chunk: int) -> bytes:
    """A shard whose index lacks a chunk, and has the right checksum."""
    index = np.frombuffer(content[-INDEX_BYTES:-4], "<u8").reshape(-1, 2).copy()
    assert index[chunk, 0] != 2**64 - 1
    index[chunk] = 2**64 - 1
    stored = index.tobytes()
    return content[:-INDEX_BYTES] + stored + struct.pack("<I", google_crc32c.value(stored))


def test_a_chunk_that_its_shard_does_not_list_is_found(store: CubeStore) -> None:
    shard = shard_of(store, "n_src", (0, 0, 1))
    shard.path.write_bytes(without_chunk(shard.path.read_bytes(), 4))
    array = np.asarray(zarr.open_array(file_of(store, "n_src"), mode="r")[1])
    assert (array[8:16, :8, 16:] == 0).all()  # what zarr makes of it
    check_one(store, "is missing", redshift=7.5, start=(8, 0, 16), shape=(8, 8, 4))
    assert verified(store).n_chunks == 3 * 2 * 3**3 - 1
    with pytest.raises(StoreDamageError, match="chunk 4 is missing"):
        store.read_block("n_src", 7.5, (8, 0, 16), (1, 1, 1))


def test_all_damage_is_told_in_the_order_of_the_store(store: CubeStore) -> None:
    flip(file_of(store, "redshift", "c", "0"), 3)
    file_of(store, "n_igm", "zarr.json").unlink()
    first, second, third = (shards_of(store)[at] for at in (0, 9, 40))
    for chunk in (0, 3):
        flip(first.path, first.chunks[chunk][5])
    second.path.unlink()
    flip(third.path, third.path.stat().st_size - 1)
    damage = verified(store).damage
    assert [(one.field, one.redshift, one.start) for one in damage] == [
        ("n_igm", None, None),
        ("redshift", None, None),
        (first.field, first.redshift, (0, 0, 0)),
        (first.field, first.redshift, (0, 8, 8)),
        (second.field, second.redshift, second.region[0]),
        (third.field, third.redshift, third.region[0]),
    ]


def root_of(store: CubeStore) -> dict[str, Any]:
    root: dict[str, Any] = json.loads(file_of(store, "zarr.json").read_text())
    return root


def write_root(store: CubeStore, root: Mapping[str, Any]) -> None:
    file_of(store, "zarr.json").write_text(json.dumps(root))


@pytest.mark.parametrize(
    ("name", "altered"),
    [
        ("count", lambda count: count - 1),
        ("mean", lambda mean: mean * (1 + 1e-9)),
        ("m2", lambda m2: m2 * (1 + 1e-9)),
        ("m2", lambda m2: -m2),
        ("min", lambda least: np.nextafter(least, 2.0)),
        ("max", lambda most: np.nextafter(most, 0.0)),
        ("mean", lambda mean: float("nan")),
    ],
)
def test_statistics_that_are_not_those_of_the_values_are_found(
    store: CubeStore, name: str, altered: Callable[[float], float]
) -> None:
    root = root_of(store)
    statistics = root["attributes"]["ionstore"]["statistics"]["xhii"][1]
    statistics[name] = altered(statistics[name])
    write_root(store, root)
    what = f"has wrong statistics recorded: {name} "
    check_one(store, what, field="xhii", redshift=7.5, start=None, file="zarr.json")


def test_statistics_are_compared_to_rounding() -> None:
    values = cubes_at(20, REDSHIFTS)["n_igm"][0]
    pieces = [FieldStatistics.of(row) for plane in values for row in plane]
    merged = pieces[0]
    for piece in reversed(pieces[1:]):
        merged = piece.merge(merged)
    whole = FieldStatistics.of(values)
    assert (whole.mean, whole.m2) != (merged.mean, merged.m2)
    assert statistics_damage(whole, merged) == ""
    assert statistics_damage(merged, whole) == ""


def test_statistics_of_a_damaged_cube_are_not_doubted(store: CubeStore) -> None:
    root = root_of(store)
    root["attributes"]["ionstore"]["statistics"]["n_src"][1]["count"] -= 1
    write_root(store, root)
    flip(shard_of(store).path, 20)
    check_one(store, "does not match its checksum", field="n_src")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda statistics: statistics["n_src"].pop(), "has statistics at 1 of 2 redshifts"),
        (lambda statistics: statistics.pop("n_src"), "has statistics at 0 of 2 redshifts"),
        (
            lambda statistics: statistics.update(rho=statistics["n_src"]),
            "has statistics, but is not a field",
        ),
    ],
)
def test_statistics_that_are_missing_or_too_many_are_found(
    store: CubeStore, change: Callable[[dict[str, Any]], object], what: str
) -> None:
    root = root_of(store)
    change(root["attributes"]["ionstore"]["statistics"])
    write_root(store, root)
    check_one(store, what, file="zarr.json")


def written(path: Path, values: Mapping[str, Array]) -> CubeStore:
    """A store of any values, whose statistics are right."""
    fields = [StoredField(name, str(cube.dtype), "1") for name, cube in values.items()]
    writer = create_store(path, Mesh(8), [9.0], fields, layout=Layout(8, 4, 8))
    for name, cube in values.items():
        writer.shards.write_block(name, 0, (0, 0, 0), cube)
    with np.errstate(invalid="ignore"):
        writer.finalize({name: [FieldStatistics.of(cube)] for name, cube in values.items()})
    return CubeStore.open(path)


def test_values_that_cannot_be_are_found(tmp_path: Path) -> None:
    values = {name: cube[0, :8, :8, :8] for name, cube in cubes_at(8, [9.0]).items()}
    values["n_igm"][5, 6, 1] = -1e-30
    values["xhii"][1, 2, 3] = 1 + 1e-6
    values["xhii"][7, 0, 0] = -0.5
    store = written(tmp_path / "cubes.zarr", values)
    n_igm, low, high = sorted(verified(store).damage, key=lambda one: (one.field, one.start))
    assert (n_igm.field, n_igm.start) == ("n_igm", (4, 4, 0))
    assert n_igm.what.startswith("holds -1e-30 to ")
    assert n_igm.what.endswith(", but must not be negative")
    assert (low.field, low.start, high.start) == ("xhii", (0, 0, 0), (4, 0, 0))
    assert low.what.endswith("to 1, but must lie between 0 and 1")
    assert high.what.startswith("holds -0.5 to ")


def test_numbers_that_are_none_are_found(tmp_path: Path) -> None:
    values = {name: cube[0] for name, cube in cubes_at(8, [9.0]).items()}
    store = written(tmp_path / "cubes.zarr", values)
    array = zarr.open_array(file_of(store, "xhii"), mode="r+")
    array[0, 5, :3, 5] = [np.nan, np.inf, -np.inf]
    array[0, 0, 0, 0] = np.nan
    found = verified(CubeStore.open(store.path)).damage
    assert [(one.start, one.what) for one in found] == [
        ((0, 0, 0), "holds NaN or infinity in 1 cell"),
        ((4, 0, 4), "holds NaN or infinity in 3 cells"),
    ]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            lambda own: own["attributes"].update(units="Mpc"),
            "root metadata of the store in attributes",
        ),
        (lambda own: own.update(fill_value=1, shape=[2]), "of the store in fill_value, shape"),
        (lambda own: own.clear(), "of the store in attributes, "),
    ],
)
@pytest.mark.parametrize("name", ["xhii", "y"])
def test_arrays_that_say_other_than_the_root_are_found(
    store: CubeStore, name: str, change: Callable[[dict[str, Any]], object], what: str
) -> None:
    path = file_of(store, name, "zarr.json")
    own = json.loads(path.read_text())
    change(own)
    path.write_text(json.dumps(own))
    check_one(store, what, field=name, redshift=None, file=f"{name}/zarr.json")


def test_metadata_that_cannot_be_read_are_found(store: CubeStore) -> None:
    path = file_of(store, "xhii", "zarr.json")
    for content in ("", "{", "\xff"):
        path.write_text(content, encoding="latin-1")
        check_one(store, "is not valid JSON", field="xhii")
    path.write_text("[]")
    check_one(store, "of the store in attributes, chunk_grid", field="xhii")
    path.unlink()
    check_one(store, "is missing", field="xhii")


CHUNK = ("codecs", 0, "configuration")


@pytest.mark.parametrize(
    ("said", "keys", "what"),
    [
        ({"shape": [2, 20, 20, 21]}, (), r"cannot be read: shapes must be cubic chunks"),
        ({"shape": [2, 21, 21, 21]}, (), r"must be of shape \[2, 20, 20, 20\].*, got \[2, 21"),
        ({"shape": [3, 20, 20, 20]}, (), r"must be of shape \[2, 20, 20, 20\].*, got \[3, 20"),
        ({"name": "gzip"}, (*CHUNK, "codecs", 1), "cannot be read: codecs of a chunk must be"),
        ({"codecs": []}, (), "cannot be read: expected the metadata of a sharded array"),
        ({"dimension_names": ["redshift", "x", "y"]}, (), "has statistics, but is not a field"),
        ({"attributes": {"units": "1"}}, (), "has no long_name"),
    ],
)
def test_fields_that_contradict_the_rest_are_found(
    store: CubeStore, said: dict[str, object], keys: tuple[str | int, ...], what: str
) -> None:
    root = root_of(store)
    metadata = root["consolidated_metadata"]["metadata"]["xhii"]
    place = metadata
    for key in keys:
        place = place[key]
    place.update(said)
    write_root(store, root)
    file_of(store, "xhii", "zarr.json").write_text(json.dumps(metadata))
    (damage,) = verified(store).damage
    assert damage.field == "xhii"
    assert damage.file == "zarr.json"
    assert re.search(what, damage.what)


def with_checksum(values: Array) -> bytes:
    stored = values.tobytes()
    return stored + struct.pack("<I", google_crc32c.value(stored))


@pytest.mark.parametrize("name", ["redshift", "x", "z"])
def test_coordinates_that_are_damaged_are_found(store: CubeStore, name: str) -> None:
    path = file_of(store, name, "c", "0")
    content = path.read_bytes()
    values = np.frombuffer(content[:-4])
    for changed, what in [
        (content[:-1], "does not match its checksum"),
        (b"", "does not match its checksum"),
        (bytes([content[0] ^ 1]) + content[1:], "does not match its checksum"),
        (with_checksum(values[:-1]), "does not hold the redshifts or positions"),
        (with_checksum(values + 1e-6), "does not hold the redshifts or positions"),
        (with_checksum(values * np.nan), "does not hold the redshifts or positions"),
    ]:
        path.write_bytes(changed)
        check_one(store, what, field=name, redshift=None, file=f"{name}/c/0")
    path.unlink()
    check_one(store, "is missing", field=name)
    path.write_bytes(content)
    assert verified(store).is_intact


def test_coordinates_that_are_stored_otherwise_are_found(store: CubeStore) -> None:
    root = root_of(store)
    members = root["consolidated_metadata"]["metadata"]
    whole = json.dumps(members["x"])
    for change, what in [
        ({"data_type": "float32"}, "must have the data_type float64, got float32"),
        ({"shape": [19]}, "must have the shape [20], got [19]"),
        ({"codecs": members["x"]["codecs"][:1]}, "codecs ['bytes', 'crc32c'], got ['bytes']"),
        ({"chunk_grid": {}}, "has no array metadata"),
    ]:
        members["x"] = json.loads(whole) | change
        write_root(store, root)
        file_of(store, "x", "zarr.json").write_text(json.dumps(members["x"]))
        check_one(store, what, field="x")
    del members["x"]
    write_root(store, root)
    check_one(store, "is missing in the metadata", field="x", file="zarr.json")


STRAYS = [
    "notes.txt",
    "mask/zarr.json",
    "n_igm/c/0/0/0/0.tmp",
    "n_igm/c/0/0/0/2",
    "n_igm/c/2/0/0/0",
    "n_igm/c/01/0/0/0",
    "n_igm/c/0/0/0/\u00b2",
    "n_igm/d/0/0/0/0",
    "n_igm/c/0/0/0.zarr.json",
    "x/c/1",
    "xhii/c/1/0/1/.nfs000123",
]


def test_stray_files_are_told_and_do_no_harm(store: CubeStore) -> None:
    for name in STRAYS:
        path = file_of(store, *name.split("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("?")
    found = verified(store)
    assert sorted(found.stray_files) == sorted(STRAYS)
    assert found.is_intact


def simulated(folder: Path) -> CubeStore:
    write_set(folder / "sim")
    ingest_cubes(folder / "sim", folder / "cubes.zarr")
    return CubeStore.open(folder / "cubes.zarr")


def test_source_files_that_are_as_they_were_are_no_damage(tmp_path: Path) -> None:
    store = simulated(tmp_path)
    progress = ProgressList()
    # By their paths: as a user of Python would give them.
    found = verify_store(str(store.path), sources=[str(tmp_path / "sim")], reporter=progress)
    assert found.is_intact
    assert found.n_source_files == 6
    source_bytes = sum(path.stat().st_size for path in (tmp_path / "sim").iterdir())
    assert progress.shown[-1] == (found.value_bytes + source_bytes,) * 2


def test_source_files_that_are_not_as_they_were_are_found(tmp_path: Path) -> None:
    store = simulated(tmp_path)
    sim = tmp_path / "sim"
    lost, cut, changed, replaced = (
        sim / f"{name}.npy" for name in ("rho_z9.000", "rho_z7.500", "xHII_z9.000", "xHII_z7.500")
    )
    lost.unlink()
    cut_at_the_end(cut)
    flip(changed, 200)
    put_a_folder_in_its_place(replaced)
    assert verified(store).is_intact
    found = verified(store, sources=[sim])
    assert {damage.file: damage.what for damage in found.damage} == {
        str(lost): "is missing",
        str(cut): "has 2,175 bytes, had 2,176 when it was ingested",
        str(changed): "has changed since it was ingested",
        str(replaced): "is missing",
    }
    assert {damage.field for damage in found.damage} == {None}


def test_digests_of_unknown_algorithms_are_told(tmp_path: Path) -> None:
    store = simulated(tmp_path)
    sources = (SourceFile(name="rho_z9.000.npy", size_bytes=2176, digest="xyz:0"),)
    write_attributes(file_of(store), store.attributes.model_copy(update={"sources": sources}))
    (damage,) = verified(store, sources=[tmp_path / "sim"]).damage
    assert damage.what == "cannot be compared, its digest was made with xyz"


def test_a_store_that_is_replaced_meanwhile_is_not_judged(store: CubeStore) -> None:
    def replace(done: int, total: int) -> None:
        root = root_of(store)
        root["attributes"]["ionstore"]["uuid"] = "another"
        write_root(store, root)

    with pytest.raises(StoreFormatError, match=r"cubes\.zarr: the store was replaced while it"):
        verified(store, reporter=ProgressTo(replace))


def test_what_was_found_is_read_back_from_json(store: CubeStore) -> None:
    flip(shard_of(store).path, 20)
    found = verified(store)
    told = json.loads(found.model_dump_json())
    assert told["is_intact"] is False
    assert told["damage"][0]["shape"] == [4, 8, 8]
    del told["is_intact"]
    assert Verification.model_validate(told) == found
    assert found.damage[0] == Damage.model_validate(told["damage"][0])


@pytest.mark.server
def test_a_store_in_an_object_store_is_verified(
    store: CubeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_object_server() as address:
        for name, value in environment(address).items():
            monkeypatch.setenv(name, value)
        make_bucket(address, "verified")
        place = ObjectPath("verified", "runs/cubes.zarr")
        upload(file_of(store), place)
        stored = CubeStore.open(str(place))
        found = verify_store(stored)
        assert found.is_intact
        assert found.path == "s3://verified/runs/cubes.zarr"
        assert (found.n_chunks, found.stray_files) == (3 * 2 * 3**3, ())
        for name in ("n_igm", "x"):
            key = place.joinpath(name, "c", *("0" if name == "x" else "0011"))
            content = bytearray(key.read_bytes())
            content[9] ^= 1
            key.write_bytes(bytes(content))
        (place / "n_src" / "zarr.json").unlink()
        (place / "notes.txt").write_bytes(b"?")
        found = verify_store(stored)
        assert [(one.file, one.what) for one in found.damage] == [
            ("n_src/zarr.json", "is missing"),
            ("x/c/0", "does not match its checksum"),
            ("n_igm/c/0/0/1/1", "does not match its checksum"),
        ]
        assert found.stray_files == ("notes.txt",)


@pytest.mark.parametrize("algorithm", ["sha256", "xxh3_128"])
def test_digests_of_any_known_algorithm_are_compared(tmp_path: Path, algorithm: str) -> None:
    store = simulated(tmp_path)
    path = tmp_path / "sim" / "rho_z9.000.npy"
    made = hashlib.sha256 if algorithm == "sha256" else xxhash.xxh3_128
    digest = f"{algorithm}:{made(path.read_bytes()).hexdigest()}"
    source = SourceFile(name=path.name, size_bytes=path.stat().st_size, digest=digest)
    write_attributes(file_of(store), store.attributes.model_copy(update={"sources": (source,)}))
    assert verified(store, sources=[tmp_path / "sim"]).is_intact
    flip(path, 300)
    assert len(verified(store, sources=[tmp_path / "sim"]).damage) == 1
