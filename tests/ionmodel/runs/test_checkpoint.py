"""Checkpoints: plain content, whole or absent, damage noticed."""

import random
from pathlib import Path

import pytest
import torch

from ionmodel.config.keys import read_preset
from ionmodel.errors import RunFolderError
from ionmodel.runs.checkpoint import load_checkpoint, save_checkpoint


def test_what_is_saved_is_loaded_without_any_code(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    content = {"model": {"weight": torch.arange(5.0)}, "list": [1, 2.5, "a"], "pair": (1, 2)}
    save_checkpoint(path, content)
    loaded = torch.load(path, weights_only=True)
    assert torch.equal(loaded["model"]["weight"], torch.arange(5.0))
    assert loaded["pair"] == [1, 2]
    assert load_checkpoint(path)["list"] == [1, 2.5, "a"]
    assert list(tmp_path.iterdir()) == [path]


def test_anything_but_plain_content_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"epoch": 1})
    with pytest.raises(TypeError, match=r"checkpoint.where\[1\]"):
        save_checkpoint(path, {"where": [1, Path("x")]})
    assert load_checkpoint(path)["epoch"] == 1


def test_every_flipped_bit_in_the_weights_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": {"weight": torch.linspace(0, 1, 4096)}})
    whole = path.read_bytes()
    first = whole.index(torch.linspace(0, 1, 4096).numpy().tobytes())
    for place in random.Random(0).sample(range(first, first + 4 * 4096), 50):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(RunFolderError, match="damaged"):
            load_checkpoint(path)


@pytest.mark.parametrize(
    ("preset", "before", "leaks"),
    [
        ("small", None, None),
        ("week3", None, "neighborhoods"),
        ("week3", True, "neighborhoods"),
        ("dense", False, "large scales"),
    ],
)
def test_scores_that_were_not_marked_leak_as_their_configuration_says(
    tmp_path: Path, preset: str, before: bool | None, leaks: str | None
) -> None:
    path = tmp_path / "last.pt"
    old = {"epoch": 1} if before is None else {"epoch": 1, "leaks": before}
    content = {"config": read_preset(preset), "history": [old]}
    torch.save({"format_version": 3, **content}, path)
    assert load_checkpoint(path)["history"] == [{"epoch": 1, "leaks": leaks}]
    save_checkpoint(path, load_checkpoint(path))
    assert load_checkpoint(path)["history"] == [{"epoch": 1, "leaks": leaks}]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match="not a checkpoint"):
        load_checkpoint(path)


def test_a_file_with_code_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({"format_version": 1, "where": Path("x")}, path)
    with pytest.raises(RunFolderError, match="other Python objects") as refused:
        load_checkpoint(path)
    assert "\n" not in str(refused.value)


def test_newer_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    torch.save({"format_version": 99}, path)
    with pytest.raises(RunFolderError, match="newer than 4"):
        load_checkpoint(path)
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(RunFolderError, match="found none"):
        load_checkpoint(path)
