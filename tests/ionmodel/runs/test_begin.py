"""Runs begin alike from Python and from the command line."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from ioncli.main import ionmodel
from ionmodel.config.keys import read_preset
from ionmodel.errors import RunFolderError
from ionmodel.runs.begin import begin_run
from ionmodel.runs.folder import RunFolder
from ionmodel.training import train
from ionstore.sampling.split import largest_radius
from ionstore.store.cube_store import CubeStore
from tests.support.stores import cubes_at, write_store

KEYS = {"epochs": 1, "samples_per_epoch": 64, "validation_samples": 64, "batch_size": 32}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CubeStore:
    path = tmp_path_factory.mktemp("stores") / "cubes.zarr"
    return write_store(path, cubes_at(19, (8.0,)), (8.0,))


def test_python_and_the_command_write_the_same_configuration(
    store: CubeStore, tmp_path: Path
) -> None:
    options = [word for key, value in KEYS.items() for word in ("-o", f"{key}={value}")]
    arguments = ["train", "--store", str(store.path), "--run", str(tmp_path / "command")]
    done = CliRunner().invoke(ionmodel, [*arguments, "--preset", "small", *options])
    assert done.exit_code == 0, done.output
    train(str(store.path), tmp_path / "python", preset="small", **KEYS)
    assert _config(tmp_path / "python") == _config(tmp_path / "command")

    done = CliRunner().invoke(ionmodel, [*arguments, "--resume", "-o", "epochs=2"])
    assert done.exit_code == 0, done.output
    assert len(train(run=tmp_path / "python", resume=True, epochs=2).history) == 2
    assert _config(tmp_path / "python") == _config(tmp_path / "command")


@pytest.mark.parametrize("preset", ["dense", "small", "multiscale", "week3"])
def test_a_preset_gives_way_to_the_box_and_says_so(
    preset: str, store: CubeStore, tmp_path: Path
) -> None:
    begun = begin_run(store, tmp_path / "run", {"preset": preset})
    asked = read_preset(preset)["radius"]
    fits = largest_radius(19) if begun.config.split == "blocks" else 9
    assert begun.config.radius == min(asked, fits)
    lowered = f"Radius lowered from {asked} to {fits}, the largest that fits the mesh of 19 cells"
    assert any(note.startswith(lowered) for note in begun.notes) == (asked > fits)
    assert not (tmp_path / "run").exists()


def test_keys_that_are_given_do_not_give_way(store: CubeStore, tmp_path: Path) -> None:
    begun = begin_run([store], tmp_path / "run", {"preset": "week3", "radius": 24})
    assert begun.config.radius == 24
    assert begun.notes == ()


def test_resuming_needs_a_run(store: CubeStore, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="needs the folder of a run"):
        begin_run(store, None, {}, resume=True)
    with pytest.raises(RunFolderError, match="no run to resume"):
        begin_run(store, tmp_path / "none", {}, resume=True)


def _config(run: Path) -> str:
    return RunFolder(run).config.read_text()
