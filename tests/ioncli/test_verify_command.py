import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ioncli.main import ionstore
from ionstore.build.store_writer import write_attributes
from ionstore.ingest.ingest import ingest_cubes
from ionstore.ingest.selection import FileSelection, IngestOptions
from ionstore.store.cube_store import CubeStore
from ionstore.store.metadata import merge_source_files
from tests.support.three_file_sets import write_set


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(ionstore, ["verify", *map(str, arguments)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_set(folder / "sim", 12)
    ingest_cubes(
        folder / "sim",
        folder / "cubes.zarr",
        options=IngestOptions(chunk_cells=8, max_shard_cells=8),
    )
    return folder


@pytest.fixture
def folder(tmp_path: Path, whole: Path) -> Path:
    """A folder with a simulation and its store, in chunks of 8³ cells in as many shards."""
    return Path(shutil.copytree(whole, tmp_path / "work"))


def _flip(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


def test_a_whole_store_is_said_to_be_intact(folder: Path) -> None:
    result = _run(folder / "cubes.zarr")
    assert result.exit_code == 0, result.output
    assert re.fullmatch(
        r".*/cubes\.zarr: 48 chunks with 31\.1 kB of values checked in \d s: whole and intact\n",
        result.stdout,
    )
    assert "Verifying cubes.zarr: 100 %" in result.stderr


def test_source_files_are_compared_where_they_are_named(folder: Path) -> None:
    result = _run(folder / "cubes.zarr", "--sources", folder / "sim")
    assert result.exit_code == 0, result.output
    assert "31.1 kB of values and 6 source files checked in" in result.stdout
    _flip(folder / "sim" / "xHII_z7.500.npy", 500)
    assert _run(folder / "cubes.zarr").exit_code == 0
    result = _run(folder / "cubes.zarr", "--sources", folder / "sim")
    assert result.exit_code == 1
    assert "sim/xHII_z7.500.npy: has changed since it was ingested\n" in result.stdout
    assert result.stdout.endswith("damaged, 1 finding\n")


def test_each_folder_of_a_store_is_compared_alone_or_with_others(tmp_path: Path) -> None:
    target = tmp_path / "cubes.zarr"
    for redshift, name in (("8.000", "z8"), ("7.000", "z7")):
        write_set(tmp_path / name, 6, (redshift,))
        ingest_cubes(tmp_path / name, target, append=name == "z7")
    for name in ("z8", "z7"):
        result = _run(target, "--sources", tmp_path / name)
        assert result.exit_code == 0, result.output
        said = "and 3 source files (3 more, from folders not given, not compared) checked"
        assert said in result.stdout
    result = _run(target, "--sources", tmp_path / "z8", "--sources", tmp_path / "z7")
    assert result.exit_code == 0, result.output
    assert "and 6 source files checked" in result.stdout
    (tmp_path / "z7" / "rho_z7.000.npy").unlink()
    assert _run(target, "--sources", tmp_path / "z8").exit_code == 0
    (tmp_path / "z7").rename(tmp_path / "moved")
    result = _run(target, "--sources", tmp_path / "moved")
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{tmp_path}/moved/rho_z7.000.npy: is missing\n")


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    target = tmp_path / "cubes.zarr"
    for redshift, name in (("8.000", "z8"), ("7.000", "z7")):
        write_set(tmp_path / name, 6, (redshift,))
        for path in (tmp_path / name).glob("*.npy"):
            np.save(path, np.roll(np.load(path), round(float(redshift)), axis=2))
        deep = tmp_path / name / f"z{redshift}"
        deep.mkdir()
        for path in (tmp_path / name).glob("*.npy"):
            path.rename(deep / path.name)
    for name in ("z8", "z7"):
        ingest_cubes(tmp_path / name, target, append=name == "z7")
    attributes = CubeStore.open(target).attributes
    # As by a code whose files have one name at all redshifts.
    renamed = [
        one.model_copy(update={"name": one.name.replace("8.000", "0").replace("7.000", "0")})
        for one in attributes.sources
    ]
    write_attributes(target, attributes.model_copy(update={"sources": merge_source_files(renamed)}))
    for redshift, name in (("8.000", "z8"), ("7.000", "z7")):
        deep = (tmp_path / name / f"z{redshift}").rename(tmp_path / name / "z0")
        for path in deep.iterdir():
            path.rename(path.with_name(path.name.replace(redshift, "0")))
    for name in ("z8", "z7"):
        result = _run(target, "--sources", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert "3 source files (3 more" in result.stdout
    (tmp_path / "z8").rename(tmp_path / "moved")
    result = _run(target, "--sources", tmp_path / "moved")
    assert result.exit_code == 0, result.output
    assert "3 source files (3 more" in result.stdout
    _flip(tmp_path / "moved" / "z0" / "rho_z0.npy", 200)
    result = _run(target, "--sources", tmp_path / "moved")
    assert result.exit_code == 1
    assert "moved/z0/rho_z0.npy: has changed since it was ingested" in result.stdout


def test_mapped_files_are_compared_in_the_folder_that_was_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_set(Path("sim"), 6)
    write_set(Path("other"), 6)
    ingest_cubes(Path("sim"), Path("cubes.zarr"), FileSelection(maps={"n_src": [Path("other")]}))
    assert "4 source files (2 more" in _run("cubes.zarr", "--sources", "sim").stdout
    result = _run("cubes.zarr", "--sources", "sim", "--sources", "other")
    assert result.exit_code == 0, result.output
    assert "6 source files checked" in result.stdout
    Path("other/nsrc_z9.000.npy").unlink()
    assert _run("cubes.zarr", "--sources", "sim").exit_code == 0
    assert "other/nsrc_z9.000.npy: is missing" in _run("cubes.zarr", "--sources", "other").stdout


def test_a_folder_of_something_else_is_named(folder: Path) -> None:
    (folder / "wrong").mkdir()
    result = _run(folder / "cubes.zarr", "--sources", folder / "wrong")
    assert result.exit_code == 1
    assert "wrong: holds none of the files that the store was made from\n" in result.stdout


def test_all_damage_is_listed_with_its_place(folder: Path) -> None:
    store = folder / "cubes.zarr"
    _flip(store / "xhii" / "c" / "1" / "0" / "1" / "0", 30)
    (store / "n_src" / "c" / "0" / "1" / "1" / "1").unlink()
    _flip(store / "y" / "c" / "0", 30)
    result = _run(store)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[:-1] == [
        "y: does not match its checksum (y/c/0)",
        "n_src at redshift 9, block (8, 8, 8) of shape (4, 4, 4): is missing (n_src/c/0/1/1/1)",
        "xhii at redshift 7.5, block (0, 8, 0) of shape (8, 4, 8): does not match its checksum "
        "(xhii/c/1/0/1/0)",
    ]
    assert re.search(r": 46 chunks with .*: damaged, 3 findings\n$", result.stdout)
    assert "Traceback" not in result.output


def test_stray_files_are_listed_and_do_no_harm(folder: Path) -> None:
    (folder / "cubes.zarr" / "notes.txt").write_text("?")
    result = _run(folder / "cubes.zarr")
    assert result.exit_code == 0
    assert result.stdout.startswith("Stray file, not part of the store: notes.txt\n")
    assert result.stdout.endswith("whole and intact\n")


def test_programs_read_json(folder: Path) -> None:
    store = folder / "cubes.zarr"
    told = json.loads(_run(store, "--json").stdout)
    assert (told["is_intact"], told["damage"], told["n_chunks"]) == (True, [], 48)
    _flip(store / "xhii" / "c" / "1" / "0" / "1" / "0", 30)
    result = _run(store, "--json")
    assert result.exit_code == 1
    (damage,) = json.loads(result.stdout)["damage"]
    assert damage == {
        "field": "xhii",
        "redshift": 7.5,
        "start": [0, 8, 0],
        "shape": [8, 4, 8],
        "file": "xhii/c/1/0/1/0",
        "what": "does not match its checksum",
    }


def test_what_is_no_store_is_named(tmp_path: Path) -> None:
    result = _run(tmp_path)
    assert result.exit_code == 1
    assert "expected a store made by ionstore" in result.stderr
    result = _run(tmp_path / "none.zarr")
    assert result.exit_code == 1
    assert "found nothing; check the path" in result.stderr
    result = _run(tmp_path, "--sources", tmp_path / "none")
    assert result.exit_code == 2
    assert "Traceback" not in result.output
