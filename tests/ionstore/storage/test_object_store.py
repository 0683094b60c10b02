"""Stores in an object store, on a real server: what is read is what a local store holds."""

import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ioncli.main import ionmodel, ionstore
from ionstore.errors import ObjectStoreError, StoreDamageError, StoreFormatError
from ionstore.info import take_inventory
from ionstore.loading.loaders import NeighborhoodLoader
from ionstore.storage import s3
from ionstore.storage.paths import bytes_below, open_file
from ionstore.storage.s3 import ObjectPath, OpenObject
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Layout
from ionstore.store.shards import check_shard
from tests.support.object_server import refused_credentials, upload
from tests.support.stores import cubes_at, write_store

REDSHIFTS = (9.0, 7.5)
LAYOUT = Layout(16, 4, 8)


@pytest.fixture(scope="session")
def local_store(tmp_path_factory: pytest.TempPathFactory) -> CubeStore:
    path = tmp_path_factory.mktemp("local") / "cubes.zarr"
    return write_store(path, cubes_at(16, REDSHIFTS), REDSHIFTS, layout=LAYOUT)


@pytest.fixture(scope="session")
def store(server: str, local_store: CubeStore) -> CubeStore:
    place = ObjectPath("box", "runs/cubes.zarr")
    upload(Path(local_store.path), place)
    return CubeStore.open("s3://box/runs/cubes.zarr")


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of object stores from now on."""
    asked: list[str] = []
    connect = s3._client

    class Recorded:
        def __init__(self, client: Any) -> None:
            self._client = client

        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            return getattr(self._client, name)

    monkeypatch.setattr(s3, "_client", lambda *names: Recorded(connect(*names)))
    return asked


def test_an_object_is_read_in_pieces(server: str) -> None:
    place = ObjectPath("box", "a file/+ö %20.bin")
    content = bytes(range(10))
    place.write_bytes(content)
    assert place.read_bytes() == content
    with open_file(place) as file:
        assert file.read_end(4)[:2] == (content[6:], 10)
        assert file.read_end(99)[:2] == (content, 10)
        assert not file.was_replaced()
        assert file.read_at(3, 4) == content[4:7]
        assert file.read_at(5, 8) == content[8:]
        assert file.read_at(5, 20) == b""
        assert isinstance(file, OpenObject)
        file.fetch([(0, 2), (7, 9)])
        assert (file.read_at(2, 0), file.read_at(9, 7)) == (content[:2], content[7:])
        file.fetch([(0, 2), (70, 9)])
        assert (file.read_at(2, 0), file.read_at(9, 70)) == (content[:2], b"")
        place.write_bytes(b"")
        assert file.was_replaced()
        assert file.read_end(4)[:2] == (b"", 0)
        place.unlink()
        place.unlink()
        for read in (file.was_replaced, lambda: file.read_end(4), lambda: file.read_at(1, 0)):
            with pytest.raises(FileNotFoundError, match="no such object"):
                read()


def test_a_file_is_put_in_pieces(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requests: list[str]
) -> None:
    monkeypatch.setattr(s3, "_PIECE_BYTES", 5 * 2**20)  # the least that servers take
    content = np.random.default_rng(2).bytes(11 * 2**20)
    place = ObjectPath("box", "uploaded/file")
    for size in (0, 10, len(content)):
        (tmp_path / "file").write_bytes(content[:size])
        place.upload(tmp_path / "file")
        assert place.read_bytes() == content[:size]
    with pytest.raises(FileNotFoundError):
        place.upload(tmp_path / "none")


def test_keys_are_listed_made_once_and_replaced_by_who_read_them(server: str) -> None:
    place = ObjectPath("box", "listed/one")
    assert not place.exists()
    first = place.create(b"1")
    assert first is not None
    assert place.create(b"2") is None
    second = place.replace(b"22", first)
    assert second is not None
    assert place.replace(b"3", first) is None
    assert place.read_stamped() == (b"22", second)
    ObjectPath("box", "listed-too").write_bytes(b"4444")
    above = ObjectPath("box", "listed")
    assert list(above.sizes()) == [(place, 2)]
    assert bytes_below(above) == 2
    assert (above.exists(), above.is_file(), place.is_file()) == (True, False, True)
    above.remove_below()
    assert not above.exists()
    assert place.replace(b"3", second) is None
    assert ObjectPath("box", "listed-too").exists()


def test_fields_and_blocks_are_those_of_the_local_store(
    store: CubeStore, local_store: CubeStore
) -> None:
    assert store.attributes == local_store.attributes
    assert str(store.path) == "s3://box/runs/cubes.zarr"
    rng = np.random.default_rng(3)
    for field in store.field_names:
        for redshift in REDSHIFTS:
            expected = local_store.read_field(field, redshift)
            np.testing.assert_array_equal(store.read_field(field, redshift), expected)
            for _ in range(5):
                start = rng.integers(0, 16, 3)
                shape = rng.integers(1, 17 - start)
                i, j, k = (slice(a, a + n) for a, n in zip(start, shape, strict=True))
                block = store.read_block(field, redshift, tuple(start), tuple(shape))
                np.testing.assert_array_equal(block, expected[i, j, k])


def test_a_store_is_pickled_as_its_address(store: CubeStore) -> None:
    assert str(store.path).encode() in pickle.dumps(store)
    again = pickle.loads(pickle.dumps(store))
    assert (again.path, again.uuid) == (store.path, store.uuid)
    assert CubeStore.open(store.path).uuid == store.uuid


def test_the_chunks_of_a_shard_are_one_request(store: CubeStore, requests: list[str]) -> None:
    fresh = CubeStore.open(str(store.path))
    assert requests == ["get"]
    requests.clear()
    fresh.read_block("n_igm", 9.0, (0, 0, 0), (8, 8, 16))
    assert sorted(requests) == ["get", "get", "get_ranges", "get_ranges"]
    requests.clear()
    fresh.read_block("n_igm", 9.0, (1, 1, 1), (6, 6, 6))
    assert requests == ["get_ranges"]


@pytest.mark.parametrize("shards_at_once", [1, 4])
def test_shards_are_fetched_at_the_same_time(
    store: CubeStore, monkeypatch: pytest.MonkeyPatch, shards_at_once: int
) -> None:
    monkeypatch.setattr("ionstore.store.shards._PARTS_AT_ONCE", shards_at_once)
    under_way, most = 0, 0
    guard = threading.Lock()
    all_there = threading.Barrier(shards_at_once)  # divides the number of shards
    real = OpenObject.read_end

    def slow(self: OpenObject, n_bytes: int) -> Any:
        nonlocal under_way, most
        with guard:
            under_way += 1
            most = max(most, under_way)
        all_there.wait(60)
        with guard:
            under_way -= 1
        return real(self, n_bytes)

    monkeypatch.setattr(OpenObject, "read_end", slow)
    CubeStore.open(str(store.path)).read_field("n_igm", 9.0)
    assert most == shards_at_once


def test_the_inventory_is_that_of_the_local_store(store: CubeStore, local_store: CubeStore) -> None:
    found, expected = take_inventory(store), take_inventory(local_store)
    assert found.model_copy(update={"path": expected.path}) == expected
    assert '"path":"s3://box/runs/cubes.zarr"' in found.model_dump_json()


IN_REGIONS: dict[str, Any] = {
    "radius": 2,
    "batch_size": 60,
    "core": 4,
    "n_lanes": 2,
    "samples_per_opening": 40,
    "samples_per_epoch": 480,
    "seed": 4,
}


def budget(mode: str, num_workers: int) -> int:
    """A budget for all fields, or for the regions and the batches of IN_REGIONS alone."""
    if mode == "resident":
        return 10**8
    n_batches = 3 + 2 * num_workers if num_workers else 4
    batch = sum(-(-60 * part // 64) * 64 for part in (2 * 125 * 4, 4, 8, 24, 8))
    return 2 * 2 * 4 * (2 * 8**3 + 4**3) + n_batches * batch


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("mode", ["resident", "regions"])
def test_loaders_give_the_batches_of_the_local_store(
    store: CubeStore, local_store: CubeStore, mode: str, num_workers: int
) -> None:
    with NeighborhoodLoader(local_store, **IN_REGIONS) as loader:
        expected = [(batch.inputs.clone(), batch.target.clone()) for batch in loader]
    assert len(expected) == 8
    with NeighborhoodLoader(
        str(store.path),
        **IN_REGIONS,
        memory_budget=budget(mode, num_workers),
        num_workers=num_workers,
    ) as loader:
        assert loader.stats.mode == mode
        for batch, (inputs, target) in zip(loader, expected, strict=True):
            np.testing.assert_array_equal(batch.inputs, inputs)
            np.testing.assert_array_equal(batch.target, target)


def damaged(place: ObjectPath, change: Any) -> None:
    content = bytearray(place.read_bytes())
    change(content)
    place.write_bytes(bytes(content))


def flip_a_bit(content: bytearray) -> None:
    content[len(content) // 3] ^= 4


def flip_a_bit_of_the_index(content: bytearray) -> None:
    content[-20] ^= 4


def cut(content: bytearray) -> None:
    del content[:40]


def empty(content: bytearray) -> None:
    content.clear()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip_a_bit, "does not match its checksum"),
        (flip_a_bit_of_the_index, "its index does not match its checksum"),
        (cut, "index|checksum"),
        (empty, "its index does not match its checksum"),
    ],
)
@pytest.mark.parametrize("is_known", [False, True])
def test_a_damaged_object_is_noticed(
    server: str, local_store: CubeStore, change: Any, said: str, is_known: bool
) -> None:
    place = ObjectPath("box", "damaged.zarr")
    upload(Path(local_store.path), place)
    store = CubeStore.open(str(place))
    if is_known:  # the index of the shard was read while all was well
        store.read_field("n_igm", 9.0)
    shard = store.shard_path("n_igm", 0, (1, 0, 1))
    assert isinstance(shard, ObjectPath)
    damaged(shard, change)
    if is_known and change is flip_a_bit_of_the_index:
        store.read_field("n_igm", 9.0)  # which needs no index any more
        store = CubeStore.open(str(place))
    with pytest.raises(StoreDamageError, match=said) as caught:
        store.read_field("n_igm", 9.0)
    assert str(caught.value).startswith("s3://box/damaged.zarr/n_igm/c/0/1/0/1: ")
    np.testing.assert_array_equal(
        store.read_field("xhii", 9.0), local_store.read_field("xhii", 9.0)
    )
    blocks = check_shard(shard, (1, 0, 1), layout=store.layout, dtype=store.dtype("n_igm"))
    assert [block.damage for block in blocks if block.damage]
    shard.unlink()
    with pytest.raises(StoreDamageError, match="this part of the field is missing"):
        store.read_field("n_igm", 9.0)
    (block,) = check_shard(shard, (1, 0, 1), layout=store.layout, dtype=store.dtype("n_igm"))
    assert (block.shape, block.damage) == ((8, 8, 8), "is missing")


def test_a_shard_that_was_written_again_is_read_again(
    server: str, tmp_path: Path, local_store: CubeStore
) -> None:
    place = ObjectPath("box", "again.zarr")
    upload(Path(local_store.path), place)
    store = CubeStore.open(str(place))
    before = store.read_field("n_igm", 9.0)
    others = cubes_at(16, REDSHIFTS, seed=9)
    others["n_igm"][0, :4] = 1.0  # compresses to other sizes
    other = write_store(tmp_path / "other.zarr", others, REDSHIFTS, layout=LAYOUT)
    upload(Path(other.path), place)
    np.testing.assert_array_equal(store.read_field("n_igm", 9.0), others["n_igm"][0])
    assert not np.array_equal(before, others["n_igm"][0])


def test_large_parts_are_fetched_in_batches(
    store: CubeStore,
    local_store: CubeStore,
    monkeypatch: pytest.MonkeyPatch,
    requests: list[str],
) -> None:
    monkeypatch.setattr("ionstore.store.shards._FETCH_BYTES", 600)
    fresh = CubeStore.open(str(store.path))
    requests.clear()
    read = fresh.read_block("n_igm", 9.0, (0, 0, 0), (8, 8, 8))
    assert requests == ["get", *["get_ranges"] * 4]
    np.testing.assert_array_equal(read, local_store.read_block("n_igm", 9.0, (0, 0, 0), (8, 8, 8)))


def test_every_chunk_of_an_object_is_checked(store: CubeStore, local_store: CubeStore) -> None:
    expected = local_store.read_field("xhii", 7.5)
    path = store.shard_path("xhii", 1, (1, 1, 0))
    seen = 0
    for block in check_shard(path, (1, 1, 0), layout=LAYOUT, dtype=np.dtype("f4")):
        box = tuple(slice(a, a + n) for a, n in zip(block.start, block.shape, strict=True))
        assert block.values is not None
        np.testing.assert_array_equal(block.values, expected[box])
        seen += block.values.size
    assert seen == 8**3


def test_what_is_no_store_is_refused(server: str, local_store: CubeStore) -> None:
    with pytest.raises(StoreFormatError, match="found nothing; check the path"):
        CubeStore.open("s3://box/none.zarr")
    ObjectPath("box", "begun.zarr.partial/lock").write_bytes(b"{}")
    with pytest.raises(StoreFormatError, match=r"build in begun\.zarr\.partial is not finished"):
        CubeStore.open("s3://box/begun.zarr")
    ObjectPath("box", "begun.zarr/xhii/zarr.json").write_bytes(b"{}")
    with pytest.raises(StoreFormatError, match="found one that is being built"):
        CubeStore.open("s3://box/begun.zarr")
    ObjectPath("box", "file").write_bytes(b"{}")
    with pytest.raises(StoreFormatError, match="found none; make one"):
        CubeStore.open("s3://box/file")
    root = (Path(local_store.path) / "zarr.json").read_text()
    building = root.replace('"complete"', '"building"')
    ObjectPath("box", "building.zarr/zarr.json").write_bytes(building.encode())
    with pytest.raises(StoreFormatError, match="still being built"):
        CubeStore.open("s3://box/building.zarr")


def test_a_bucket_that_is_not_there(server: str) -> None:
    with pytest.raises(ObjectStoreError, match=f"no bucket bax at {server}; create it, or"):
        CubeStore.open("s3://bax/cubes.zarr")
    with pytest.raises(ObjectStoreError, match="no bucket bax"):
        ObjectPath("bax", "cubes.zarr").exists()
    for put in (ObjectPath("bax", "one").write_bytes, ObjectPath("bax", "one").create):
        with pytest.raises(ObjectStoreError, match="no bucket bax"):
            put(b"1")


def test_credentials_that_are_refused(server: str, store: CubeStore) -> None:
    fresh = CubeStore.open(str(store.path))
    with refused_credentials(server):
        with pytest.raises(ObjectStoreError, match=r"\(InvalidAccessKeyId\); check AWS_ACCESS_KEY"):
            CubeStore.open(str(store.path))
        with pytest.raises(ObjectStoreError, match="refuses the credentials"):
            fresh.read_field("xhii", 9.0)
        with pytest.raises(ObjectStoreError, match="refuses the credentials"):
            list(
                check_shard(
                    store.shard_path("xhii", 0, (0, 0, 0)),
                    (0, 0, 0),
                    layout=LAYOUT,
                    dtype=np.dtype("f4"),
                )
            )
    fresh.read_field("xhii", 9.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "http://127.0.0.1:1 cannot be reached; check"),
        ({"AWS_ALLOW_HTTP": "false"}, "is not encrypted; set AWS_ALLOW_HTTP=true"),
    ],
)
def test_a_server_that_is_not_reached(
    server: str, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], said: str
) -> None:
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("ionstore.storage.s3._RETRIES", {"max_retries": 1})
    bucket = f"unreached-{len(said)}"  # a bucket is set up when it is first used
    with pytest.raises(ObjectStoreError, match=said) as caught:
        CubeStore.open(f"s3://{bucket}/cubes.zarr")
    assert str(caught.value).startswith(f"s3://{bucket}/cubes.zarr/zarr.json: ")
    assert "\n" not in str(caught.value)


def test_the_commands_take_addresses(store: CubeStore, tmp_path: Path) -> None:
    shown = CliRunner().invoke(ionstore, ["info", str(store.path)], catch_exceptions=False)
    assert shown.exit_code == 0
    assert shown.output.startswith("s3://box/runs/cubes.zarr: 16³ cells")
    image = tmp_path / "slice.png"
    drawn = CliRunner().invoke(
        ionstore,
        ["view", str(store.path), "--redshift", "9", "-o", str(image)],
        catch_exceptions=False,
    )
    assert drawn.exit_code == 0
    assert image.stat().st_size > 1000
    refused = CliRunner().invoke(ionstore, ["info", "s3://box/none.zarr"])
    assert refused.exit_code == 1
    assert "s3://box/none.zarr: expected an ionstore store, found nothing" in refused.output


def test_a_store_in_a_bucket_is_not_edited(store: CubeStore) -> None:
    before = store.attributes
    refused = CliRunner().invoke(ionstore, ["edit", str(store.path), "--box-length", "30"])
    assert refused.exit_code == 1
    assert f"{store.path}: only a store in a folder can be edited" in refused.output
    assert CubeStore.open(store.path).attributes == before


def test_a_network_is_trained_on_a_store_in_a_bucket(store: CubeStore, tmp_path: Path) -> None:
    settings = ["preset=small", "radius=1", "channels=[2]", "batch_size=50", "epochs=1"]
    settings += ["samples_per_epoch=200", "validation_samples=50", "num_workers=0"]
    settings += ["device=cpu", "split=random"]
    options = [word for setting in settings for word in ("-o", setting)]
    command = ["train", "--store", str(store.path), "--run", str(tmp_path / "run"), *options]
    result = CliRunner().invoke(ionmodel, command)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "best.pt").is_file()
