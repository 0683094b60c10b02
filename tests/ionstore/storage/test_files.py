"""Changes on the disk that are done or undone, whoever else is at it."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ionstore.storage.files import (
    link_or_copy,
    put_back,
    read_pieces,
    swap_in,
    whole_file,
    write_json,
)


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail_in_the_midst() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("ne")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        fail_in_the_midst()
    assert path.read_text() == "old"
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_several_may_write_one_record_at_once(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: write_json(path, {"n": [n] * 1000}), range(200)))
    assert len(set(json.loads(path.read_text())["n"])) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_replaces_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "another disk")

    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("one")
    other.write_text("other")
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    link_or_copy(one, other)
    assert other.read_text() == "one"
    assert one.samefile(other) == links


@pytest.mark.parametrize("exchange", [True, False])
def test_folders_are_swapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr("ionstore.storage.files._exchange", lambda *_: False)
    new, target = tmp_path / "build" / "new", tmp_path / "target"
    for folder, text in ((new, "new"), (target, "old")):
        folder.mkdir(parents=True)
        (folder / "file").write_text(text)
    swap_in(new, target)
    assert (target / "file").read_text() == "new"
    (old,) = (tmp_path / "build").iterdir()
    assert (old / "file").read_text() == "old"
    put_back(tmp_path / "build", target)  # nothing is amiss
    assert (target / "file").read_text() == "new"


def test_what_was_stopped_between_two_renames_is_put_back(tmp_path: Path) -> None:
    target, build = tmp_path / "target", tmp_path / "build"
    (build / "replaced").mkdir(parents=True)
    put_back(build, target)
    assert target.is_dir()
    assert not any(build.iterdir())


@pytest.mark.parametrize("name", ["pipe", "zero"])
def test_what_is_no_file_is_not_read(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(OSError, match=f"it is a pipe, socket or device, no file.*{name}"):
        read_pieces(tmp_path / name, lambda piece: None)
