import errno
import os
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result

from ioncli.main import ionstore
from ionstore.build.folder import FolderBuild
from tests.support.three_file_sets import write_set

OPENING = (["info"], ["view"], ["edit", "--h", "0.7"])


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(ionstore, [*map(str, arguments)])


def _is_one_sentence(result: Result) -> bool:
    *progress, last = result.stderr.splitlines()
    only_progress = all(line.endswith("%") for line in progress)
    return result.exit_code == 1 and last.startswith("Error: ") and only_progress


@pytest.mark.parametrize("command", OPENING, ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("file", "expected a store made by ionstore, found none"),
        ("empty", "expected a store made by ionstore, found none"),
        ("foreign.zarr", "expected a store made by ionstore, found none"),
        ("array.zarr", "expected a store made by ionstore, found none"),
        ("nowhere", "found nothing; check the path"),
        ("file/below", "found nothing; check the path"),
    ],
)
def test_what_is_no_store_is_named_in_one_sentence(
    tmp_path: Path, command: list[str], path: str, said: str
) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    zarr.create_group(tmp_path / "foreign.zarr", attributes={"ionstore": "another"})
    zarr.create_array(tmp_path / "array.zarr", data=np.zeros(3))
    before = sorted(tmp_path.rglob("*"))
    result = _run(*command, tmp_path / path)
    assert _is_one_sentence(result), result.output
    assert f"{tmp_path / path}: " in result.stderr
    assert said in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", OPENING, ids=lambda command: command[0])
def test_an_unfinished_build_is_named_under_either_name(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FolderBuild(tmp_path / "cubes.zarr") as build:
        build.begin({"uuid": "some", "ingest": {}})
    monkeypatch.chdir(build.folder)
    for path, said in (
        (
            tmp_path / "cubes.zarr",
            "found nothing; its build in cubes.zarr.partial is not finished, run the same ingest "
            "again",
        ),
        (build.folder, "found the unfinished build of cubes.zarr; run the same ingest again"),
        (Path(), ".: expected a store made by ionstore, found the unfinished build of cubes.zarr"),
    ):
        result = _run(*command, path)
        assert _is_one_sentence(result), result.output
        assert said in result.stderr


@pytest.mark.parametrize("command", OPENING, ids=lambda command: command[0])
def test_a_store_that_may_not_be_read_is_not_called_a_foreign_one(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "sim")
    _run("ingest", tmp_path / "sim", tmp_path / "cubes.zarr")

    def refuse(path: Path) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    result = _run(*command, tmp_path / "cubes.zarr")
    assert _is_one_sentence(result), result.output
    assert f"{tmp_path / 'cubes.zarr' / 'zarr.json'}: permission denied; check" in result.stderr


def test_targets_that_cannot_be_made_are_named(tmp_path: Path) -> None:
    write_set(tmp_path / "sim")
    (tmp_path / "file").write_text("text")
    assert _run("ingest", tmp_path / "sim", tmp_path / "cubes.zarr").exit_code == 0
    target = tmp_path / "file" / "below"
    for command in (
        ["ingest", tmp_path / "sim", target],
        ["simulate", target, "--mesh", "8"],
        ["view", tmp_path / "cubes.zarr", "--redshift", "9", "-o", target.with_suffix(".png")],
    ):
        result = _run(*command)
        assert _is_one_sentence(result), result.output
        assert f"{target}" in result.stderr
        assert ": not a directory; check the path and the permissions" in result.stderr


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that fails to read")
def test_a_source_file_that_fails_to_be_read_is_named(tmp_path: Path) -> None:
    write_set(tmp_path / "sim")
    path = tmp_path / "sim" / "rho_z9.000.npy"
    path.unlink()
    path.symlink_to("/proc/self/mem")  # nothing is mapped at its start
    result = _run("ingest", tmp_path / "sim", tmp_path / "cubes.zarr")
    assert _is_one_sentence(result), result.output
    assert f"{path}: it cannot be read (Input/output error)" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["sim"]
