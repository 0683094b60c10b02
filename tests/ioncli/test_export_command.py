import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

from ioncli.main import ionstore
from ionstore.store.cube_store import CubeStore
from tests.support.stores import cubes_at, write_store


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(ionstore, ["export", *map(str, arguments)])


@pytest.mark.parametrize("name", ["x.npy", "x.h5", "xfrac3d_7.500.bin", "xfrac_z7.500.dat"])
def test_a_field_is_written(tmp_path: Path, small_store: CubeStore, name: str) -> None:
    path = tmp_path / name
    result = _run(small_store.path, "--field", "xhii", "--redshift", "7.5", "-o", path)
    assert result.exit_code == 0, result.output
    assert re.fullmatch(rf"Wrote {re.escape(str(path))} \(.+\)\n", result.stdout)
    assert f"Writing {name}: 100 %" in result.stderr
    expected = small_store.read_field("xhii", 7.5)
    if name.endswith("npy"):
        np.testing.assert_array_equal(np.load(path), expected)
    elif name.endswith("h5"):
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["xhii"], expected)
    else:
        head, end = (24, -4) if name.endswith("bin") else (12, None)
        values = np.frombuffer(path.read_bytes()[head:end], "<f8").reshape(12, 12, 12, order="F")
        np.testing.assert_array_equal(values, expected)


def test_the_only_redshift_need_not_be_said(tmp_path: Path) -> None:
    store = write_store(tmp_path / "cubes.zarr", cubes_at(8, [9.0]), [9.0])
    result = _run(store.path, "--field", "n_src", "-o", tmp_path / "x.npy")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), store.read_field("n_src", 9.0))


def test_only_an_ionized_fraction_need_not_be_said(tmp_path: Path) -> None:
    cubes = cubes_at(8, [9.0])
    predicted = write_store(tmp_path / "predicted.zarr", {"xhii_predicted": cubes["xhii"]}, [9.0])
    result = _run(predicted.path, "-o", tmp_path / "x.npy")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), cubes["xhii"][0])
    del cubes["xhii"]
    inputs = write_store(tmp_path / "inputs.zarr", cubes, [9.0])
    result = _run(inputs.path, "-o", tmp_path / "y.npy")
    assert result.exit_code == 1
    assert result.stderr == "Error: --field must be one of n_igm, n_src, got none\n"
    assert not (tmp_path / "y.npy").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "x.npy"], "--redshift must be one of 9, 7.5, got none"),
        (["-o", "x.npy", "--redshift", "8"], "redshift must be one of 9, 7.5"),
        (["-o", "x.npy", "--redshift", "9", "--field", "rho"], "field must be one of n_igm, n_src"),
        (["-o", "x.doc", "--redshift", "9"], "x.doc: the suffix must be one of .npy, .h5"),
        (["-o", "nowhere/x.npy", "--redshift", "9"], "Error: nowhere: no such file or directory;"),
        (["-o", "there.npy", "--redshift", "9"], "there.npy: already exists; choose another name"),
        (["-o", "folder.npy", "--redshift", "9"], "folder.npy: is a directory; check the path"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_store: CubeStore,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.npy").write_text("mine")
    Path("folder.npy").mkdir()
    result = _run(small_store.path, *arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert sorted(os.listdir()) == ["folder.npy", "there.npy"]
    assert Path("there.npy").read_text() == "mine"


def test_a_file_is_replaced_when_asked(tmp_path: Path, small_store: CubeStore) -> None:
    path = tmp_path / "x.npy"
    path.write_text("mine")
    result = _run(small_store.path, "--redshift", "9", "-o", path, "--overwrite")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(np.load(path), small_store.read_field("xhii", 9.0))


def test_a_damaged_store_is_not_written(tmp_path: Path, small_store: CubeStore) -> None:
    store = CubeStore.open(shutil.copytree(small_store.path, tmp_path / "cubes.zarr"))
    Path(str(store.shard_path("xhii", 0, (0, 0, 0)))).write_bytes(b"")
    result = _run(store.path, "--redshift", "9", "-o", tmp_path / "x.npy")
    assert result.exit_code == 1
    assert "its index does not match its checksum; the file is damaged" in result.stderr
    assert os.listdir(tmp_path) == ["cubes.zarr"]
