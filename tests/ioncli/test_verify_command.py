import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ioncli.main import ionstore
from ionstore.ingest import ingest_cubes
from tests.three_file_sets import write_set


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(ionstore, ["verify", *map(str, arguments)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_set(folder / "sim", 12)
    ingest_cubes(folder / "sim", folder / "cubes.zarr", chunk_cells=8, max_shard_cells=8)
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
    assert "sim/xHII_z7.500.npy: has other bytes than when it was ingested\n" in result.stdout
    assert result.stdout.endswith("damaged, 1 finding\n")


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
    assert result.stdout.startswith("Stray file, no part of the store: notes.txt\n")
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
