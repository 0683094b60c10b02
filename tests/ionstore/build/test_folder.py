"""A build that cannot read what it has, or fails in the midst of its swap, removes nothing."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ionstore.build.folder import FolderBuild
from ionstore.build.parts import read_record
from ionstore.edit import edit_store
from ionstore.errors import StoreExistsError
from ionstore.ingest.ingest import ingest_cubes
from ionstore.store.metadata import PLAN
from tests.support.three_file_sets import files_of, write_set


def test_a_record_is_there_or_not_or_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    assert read_record(path) is None
    path.write_text('{"n": 1')
    assert read_record(path) is None
    path.write_text('{"n": 1}')
    assert read_record(path) == {"n": 1}
    refuse_to_read(monkeypatch, path.name)
    with pytest.raises(PermissionError):
        read_record(path)


def refuse_to_read(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = Path.read_text

    def read_text(self: Path, *rest: Any, **named: Any) -> str:
        if self.name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return real(self, *rest, **named)

    monkeypatch.setattr(Path, "read_text", read_text)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["folder", "full folder", "file"])
def test_what_is_no_store_is_said_to_be_none_at_once(
    tmp_path: Path, overwrite: bool, kind: str
) -> None:
    target = tmp_path / "mine"
    if kind == "file":
        target.write_text("mine")
    else:
        target.mkdir()
    if kind == "full folder":
        (target / "notes").write_text("mine")
    said = r"mine: already exists and is no store of ionstore, .*; move it or choose another store$"
    with pytest.raises(StoreExistsError, match=said), FolderBuild(target, overwrite=overwrite):
        pass
    assert os.listdir(tmp_path) == ["mine"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_build_whose_plan_cannot_be_read_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    write_set(tmp_path / "sim")
    with FolderBuild(tmp_path / "cubes.zarr") as build:
        build.begin({"uuid": "some", "ingest": {}})
        (build.folder / "parts" / "one.json").write_text("{}")
    before = files_of(build.folder)
    with monkeypatch.context() as patch:
        refuse_to_read(patch, PLAN)
        with pytest.raises(PermissionError):
            ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr", overwrite=overwrite)
    assert files_of(build.folder) == before
    with pytest.raises(StoreExistsError, match="was not finished"):  # the lock was given back
        ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr")


def test_a_build_whose_plan_turns_unreadable_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FolderBuild(tmp_path / "cubes.zarr") as build, monkeypatch.context() as patch:
        build.begin({"uuid": "some", "ingest": {}})
        refuse_to_read(patch, PLAN)
        build.__exit__()
    assert (build.folder / PLAN).exists()


def test_the_old_store_is_put_back_when_the_new_one_cannot_be_swapped_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "sim")
    target = tmp_path / "cubes.zarr"
    ingest_cubes(tmp_path / "sim", target)
    before = files_of(target)
    real = os.rename

    def rename(source: Path, goal: Path) -> None:
        if source.name == "store":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(source))
        real(source, goal)

    with monkeypatch.context() as patch:
        patch.setattr("ionstore.storage.files._exchange", lambda *_: False)
        patch.setattr(os, "rename", rename)
        with pytest.raises(OSError, match="store"):
            edit_store(target, h=0.7)
    assert files_of(target) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cubes.zarr", "sim"]
