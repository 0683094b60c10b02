"""Paths and keys, told apart by how they are written; a file and an object read alike."""

import os
import pickle
import sys
from pathlib import Path

import pytest

from ionstore.errors import ObjectStoreError, StoreFormatError
from ionstore.storage.paths import bytes_below, open_file, parse_place
from ionstore.storage.s3 import ObjectPath
from ionstore.store.cube_store import CubeStore


@pytest.mark.parametrize(
    ("text", "bucket", "key"),
    [
        ("s3://box/cubes.zarr", "box", "cubes.zarr"),
        ("s3://box/a//b/cubes.zarr/", "box", "a/b/cubes.zarr"),
        ("s3:/box/cubes.zarr", "box", "cubes.zarr"),
        (Path("s3://box/run 7/cubes.zarr"), "box", "run 7/cubes.zarr"),
        ("S3://box/cubes.zarr", "box", "cubes.zarr"),
        (Path("S3://box/cubes.zarr"), "box", "cubes.zarr"),
    ],
)
def test_a_key_in_a_bucket_is_known_by_its_scheme(text: str | Path, bucket: str, key: str) -> None:
    place = parse_place(text)
    assert place == ObjectPath(bucket, key)
    assert str(place) == os.fspath(place) == f"s3://{bucket}/{key}"
    assert parse_place(place) is place
    assert parse_place(str(place)) == place


@pytest.mark.parametrize(
    "text", ["cubes.zarr", "/data/s3/cubes.zarr", "z=8:new.zarr", "z:/new.zarr"]
)
def test_everything_else_is_a_path(text: str) -> None:
    assert parse_place(text) == Path(text)
    assert isinstance(parse_place(Path(text)), Path)


def test_a_home_folder_is_put_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert (
        parse_place("~/cubes.zarr") == parse_place(Path("~/cubes.zarr")) == tmp_path / "cubes.zarr"
    )
    assert parse_place("~nobody of that name/c.zarr") == Path("~nobody of that name/c.zarr")
    Path("~").mkdir()
    assert parse_place("~/cubes.zarr") == Path("~/cubes.zarr")


def test_a_folder_may_look_like_a_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreFormatError, match="got gs://"):
        parse_place(Path("gs:/box/cubes.zarr"))
    Path("gs:").mkdir()
    assert parse_place(Path("gs:/box/cubes.zarr")) == Path("gs:/box/cubes.zarr")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3://box", "must have a key in a bucket, got none; name it as in s3://box/cubes.zarr"),
        ("s3://box/", "must have a key in a bucket"),
        ("s3://", "name it as in s3://bucket/cubes.zarr"),
        (Path("s3://"), "^s3://: a store must have a key in a bucket, got none; name it as in s3:"),
        (Path("gs://box/cubes.zarr"), "^gs://box/cubes.zarr: a store must be a folder or s3://"),
        (Path("http://127.0.0.1/cubes.zarr"), "s3://bucket/key, got http://; other object stores"),
        (Path("gs://"), "got gs://"),
        ("gs://box/cubes.zarr", "must be a folder or s3://bucket/key, got gs://"),
        ("https://box/cubes.zarr", "got https://"),
    ],
)
def test_other_addresses_are_refused(text: str | Path, said: str) -> None:
    with pytest.raises(StoreFormatError, match=said):
        CubeStore.open(text)


def test_a_key_is_put_together_as_a_path_is() -> None:
    place = ObjectPath("box", "runs/cubes.zarr")
    assert str(place / "n_igm") == "s3://box/runs/cubes.zarr/n_igm"
    assert place.joinpath("n_igm", "c", "0") == ObjectPath("box", "runs/cubes.zarr/n_igm/c/0")
    assert (place.name, ObjectPath("box", "cubes.zarr").name) == ("cubes.zarr", "cubes.zarr")
    assert place.with_name("other") == ObjectPath("box", "runs/other")
    assert ObjectPath("box", "one").with_name("other") == ObjectPath("box", "other")
    assert pickle.loads(pickle.dumps(place)) == place
    assert len({place, ObjectPath("box", "runs/cubes.zarr")}) == 1


def test_without_obstore_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("obstore", "obstore.exceptions", "obstore.store"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ObjectStoreError, match=r'pip install "ionstore\[s3\]"') as caught:
        CubeStore.open("s3://box/cubes.zarr")
    assert str(caught.value).startswith("s3://box/cubes.zarr")


def test_a_file_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(10)))
    with open_file(path) as file:
        assert file.read_at(3, 4) == bytes((4, 5, 6))
        assert file.read_at(5, 8) == bytes((8, 9))
        assert file.read_at(5, 20) == b""
        end, size, stamp = file.read_end(4)
        assert (end, size) == (bytes((6, 7, 8, 9)), 10)
        assert file.read_end(99)[:2] == (bytes(range(10)), 10)
        assert file.is_still(stamp)
        assert not file.was_replaced()
        path.write_bytes(b"changed")
        assert not file.is_still(stamp)
    assert file.closed


def test_the_bytes_of_a_folder_are_those_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "one").write_bytes(b"123")
    (tmp_path / "two").write_bytes(b"4567")
    assert bytes_below(tmp_path) == 7
    assert bytes_below(tmp_path / "a") == 3
    assert bytes_below(tmp_path / "none") == 0
