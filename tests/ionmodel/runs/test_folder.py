"""The folder of a run: its name, its lock, its files."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from ionmodel.config.keys import read_toml
from ionmodel.config.training_config import make_config
from ionmodel.errors import ConfigError, RunFolderError
from ionmodel.runs.checkpoint import save_checkpoint
from ionmodel.runs.folder import RunFolder, begun_config, check_begun, check_new, default_run_folder
from tests.ionmodel.conftest import ConfigMaker

TRAIN = """
import sys
from pathlib import Path
from ionmodel.runs.folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.read()
    print("leaving", flush=True)
"""


class FixedDate(date):
    @classmethod
    def today(cls) -> "FixedDate":
        return cls(2031, 2, 3)


@contextmanager
def training_elsewhere(path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", TRAIN, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process


def test_a_run_is_named_by_date_and_preset_and_numbered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ionmodel.runs.folder.date", FixedDate)
    names = []
    for _ in range(3):
        folder = default_run_folder("small", tmp_path / "runs")
        assert folder.parent == tmp_path / "runs"
        assert not folder.exists()
        folder.mkdir(parents=True)
        names.append(folder.name)
    assert names == ["2031-02-03-small", "2031-02-03-small-2", "2031-02-03-small-3"]
    assert default_run_folder("week3", tmp_path / "runs").name == "2031-02-03-week3"


def test_runs_stand_in_a_folder_of_their_own() -> None:
    folder = default_run_folder("no-such-preset")
    assert re.fullmatch(r"runs/\d{4}-\d\d-\d\d-no-such-preset", folder.as_posix())


def test_a_missing_or_empty_folder_is_new(tmp_path: Path) -> None:
    check_new(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    check_new(tmp_path / "empty")


def test_a_file_or_a_folder_that_holds_anything_is_not_new(tmp_path: Path) -> None:
    folder, file = tmp_path / "run", tmp_path / "file"
    (folder / "inside").mkdir(parents=True)
    file.touch()
    for path in (folder, file):
        with pytest.raises(RunFolderError) as caught:
            check_new(path)
        assert str(caught.value) == (
            f"{path} exists and is not an empty folder; resume it with --resume or choose another "
            "--run"
        )


def test_only_a_folder_may_hold_a_run_to_resume(tmp_path: Path) -> None:
    check_begun(tmp_path)
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(RunFolderError, match=r"no run to resume; leave out --resume"):
            check_begun(path)


def test_a_run_goes_on_with_its_file_or_else_its_checkpoint(
    tmp_path: Path, tiny_config: ConfigMaker
) -> None:
    run = RunFolder(tmp_path)
    assert run.read_last() is None
    assert begun_config(run, None) is None
    run.write_config(tiny_config(seed=2, epochs=4, num_workers=1))
    assert begun_config(run, None) == tiny_config(seed=2, epochs=4, num_workers=1)
    saved = tiny_config(seed=2).model_dump(mode="json", exclude_none=True)
    save_checkpoint(run.last, {"config": saved})
    assert begun_config(run, run.read_last()) == tiny_config(seed=2, epochs=4, num_workers=1)
    run.config.unlink()
    assert begun_config(run, run.read_last()) == tiny_config(seed=2)


def test_a_file_that_was_edited_is_refused(tmp_path: Path, tiny_config: ConfigMaker) -> None:
    run = RunFolder(tmp_path)
    save_checkpoint(run.last, {"config": tiny_config().model_dump(mode="json", exclude_none=True)})
    run.write_config(tiny_config(batch_size=64, redshifts=[9.0], epochs=5))
    with pytest.raises(RunFolderError) as refused:
        begun_config(run, run.read_last())
    assert str(refused.value) == (
        f"{run.config} must be as it was when the run began, except for epochs, device and "
        "num_workers, got redshifts = (9.0,) (was None), batch_size = 64 (was 32); undo that, "
        f"or start a new run with --config {run.config}"
    )
    run.config.write_text("epochs = 0\n")
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(run.config))}: .* must be"):
        begun_config(run, run.read_last())


@pytest.mark.parametrize("left", [["best.pt", "log.jsonl"], ["best.pt"], ["log.jsonl"]])
def test_what_a_lost_checkpoint_leaves_is_not_trained_over(
    tmp_path: Path, tiny_config: ConfigMaker, left: list[str]
) -> None:
    run = RunFolder(tmp_path)
    run.write_config(tiny_config())
    run.log.touch()
    assert begun_config(run, None) is not None
    for name in left:
        (tmp_path / name).write_text("something")
    with pytest.raises(RunFolderError) as refused:
        begun_config(run, None)
    assert str(refused.value) == (
        f"{tmp_path} holds {' and '.join(left)} of a run, but not last.pt, the checkpoint to "
        "resume from; put it back, or choose another --run for a new one"
    )


@pytest.mark.process
def test_a_folder_that_another_process_trains_in_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    refused = f"^{re.escape(str(tmp_path))}: another process is training in this folder; wait"
    with training_elsewhere(tmp_path) as process:
        for _ in range(2):
            with pytest.raises(RunFolderError, match=refused), run.locked():
                pytest.fail("two processes train in one folder")
        output, _ = process.communicate()
        assert output == "leaving\n"
    with run.locked():
        pass


@pytest.mark.process
def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    with training_elsewhere(tmp_path) as process:
        process.kill()
        process.wait()
        with RunFolder(tmp_path).locked():
            pass


@pytest.mark.process
def test_a_lock_ends_with_its_block_however_that_ends(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(ZeroDivisionError), run.locked():
        raise ZeroDivisionError
    with training_elsewhere(tmp_path):
        pass


def test_a_lock_leaves_no_file(tmp_path: Path) -> None:
    with RunFolder(tmp_path).locked():
        assert list(tmp_path.iterdir()) == []


def test_the_log_has_a_line_an_epoch_and_null_for_nan(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    history: list[dict[str, Any]] = [
        {"epoch": 1, "train_loss": 0.25, "validation_r2": math.nan},
        {"epoch": 2, "train_loss": 1e-9, "validation_r2": -0.5},
    ]
    run.write_log(history[:1])
    run.write_log(history)
    lines = run.log.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == [
        {**history[0], "validation_r2": None},
        history[1],
    ]
    assert math.isnan(history[0]["validation_r2"])  # the caller's own is as before
    assert list(tmp_path.iterdir()) == [run.log]


def test_a_configuration_reads_back_as_it_was(tmp_path: Path, tiny_config: ConfigMaker) -> None:
    run = RunFolder(tmp_path)
    run.write_config(tiny_config())
    config = tiny_config(
        redshifts=[9.0, 7.5],
        transforms={"n_igm": "log1p"},
        memory_budget="1.5GiB",
        learning_rate=1e-5,
        samples_per_epoch=None,
    )
    run.write_config(config)
    assert make_config(read_toml(run.config)) == config
    assert list(tmp_path.iterdir()) == [run.config]


def test_every_file_of_a_run_has_a_path_of_its_own_in_its_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    paths = [
        run.config, run.log, run.last, run.best, run.loss_figure, run.prediction_figure,
    ]  # fmt: skip
    assert len(set(paths)) == len(paths)
    assert {path.parent for path in paths} == {run.path}
