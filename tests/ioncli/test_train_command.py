"""``ionmodel train`` as a user meets it: real processes, real signals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from click.testing import CliRunner, Result

from ioncli.main import ionmodel, ionstore
from ioncli.train import _Stop
from ionmodel.config.keys import preset_names
from ionmodel.training.trainer import Trainer
from ionstore.store.cube_store import CubeStore
from tests.support.figures import drawn_figures, rendered_figures  # noqa: F401 - fixtures
from tests.support.forked_commands import CommandServer, Forked, command_server
from tests.support.stores import cubes_at, write_store

TINY = [
    "preset=small", "radius=1", "channels=[8]", "head_widths=[8]", "batch_size=32",
    "samples_per_epoch=160", "validation_samples=200", "epochs=2", "device=cpu",
]  # fmt: skip
LONG = [*TINY[:-2], "device=cpu", "epochs=100000"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CubeStore:
    path = tmp_path_factory.mktemp("stores") / "cubes.zarr"
    return write_store(path, cubes_at(16, (9.0, 7.5), seed=3), (9.0, 7.5))


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    with command_server(tmp_path_factory.mktemp("commands")) as server:
        yield server


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def arguments(store: CubeStore, *more: str, options: list[str] = TINY) -> list[str]:
    settings = [word for option in options for word in ("-o", option)]
    return ["train", "--store", str(store.path), *settings, *more]


def train(store: CubeStore, *more: str, options: list[str] = TINY) -> Result:
    return CliRunner().invoke(ionmodel, arguments(store, *more, options=options))


def assert_one_sentence(result: Result, *words: str) -> None:
    assert result.exit_code != 0
    assert result.exception is None or isinstance(result.exception, SystemExit)
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("Error: ")
    for word in words:
        assert word in lines[-1]


@pytest.mark.usefixtures("rendered_figures")
def test_training_ends_with_score_memory_and_paths(store: CubeStore, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train(store, "--run", str(run))
    assert result.exit_code == 0, result.output
    for words in (
        "Estimated time", "Validation R²", "Peak memory", "best.pt", "loss.png",
        "predicted_vs_true.png", "epoch   2",
    ):  # fmt: skip
        assert words in result.output
    assert (run / "config.toml").exists()


def test_the_default_folder_is_new_each_time(
    store: CubeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert train(store, options=[*TINY[:-2], "epochs=1", "device=cpu"]).exit_code == 0
    first, second = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert first.endswith("-small")
    assert second == f"{first}-2"


def test_a_folder_with_something_in_it_needs_resume(store: CubeStore, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    assert_one_sentence(train(store, "--run", str(tmp_path)), "--resume")
    assert (tmp_path / "mine.txt").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_resume_in_an_empty_folder_starts_from_scratch(store: CubeStore, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    result = train(store, "--run", str(run), "--resume")
    assert result.exit_code == 0, result.output
    assert (run / "best.pt").exists()


def test_resume_of_nothing_is_refused(store: CubeStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "nope", tmp_path / "file"):
        result = train(store, "--run", str(path), "--resume")
        assert_one_sentence(result, str(path), "there is no run to resume; leave out --resume")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_resume_without_a_checkpoint_keeps_the_configuration(
    store: CubeStore, tmp_path: Path
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    options = [*TINY, "seed=7", "split=random", "random_cells=400"]
    train(store, "--run", str(whole), options=options)
    run.mkdir()
    shutil.copy(whole / "config.toml", run)  # what a kill before the first checkpoint leaves
    refused = train(store, "--run", str(run), "--resume", options=["seed=8"])
    assert_one_sentence(refused, "begun with seed = 7, got 8")
    result = train(store, "--run", str(run), "--resume", options=["seed=7"])
    assert result.exit_code == 0, result.output
    assert "no checkpoint: it begins again with its config.toml" in result.output
    assert (run / "config.toml").read_text() == (whole / "config.toml").read_text()
    scores = [
        json.loads((path / "log.jsonl").read_text().splitlines()[-1]) for path in (whole, run)
    ]
    assert scores[0]["validation_loss"] == scores[1]["validation_loss"]


def test_resume_of_a_finished_run_changes_nothing(store: CubeStore, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = train(store, "--run", str(run))
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    again = train(store, "--run", str(run), "--resume")
    assert again.exit_code == 0, again.output
    assert before == {path: path.stat().st_mtime_ns for path in run.iterdir()}
    score = next(line for line in first.output.splitlines() if "Validation R²" in line)
    assert score in again.output
    finished = "The run was already finished, with 2 epochs; give more with -o epochs=N."
    assert finished in again.output
    assert finished not in first.output
    elsewhere = CliRunner().invoke(ionmodel, ["train", "--run", str(run), "--resume"])
    assert score in elsewhere.output  # of the stores that it was trained on
    fewer = train(store, "--run", str(run), "--resume", options=["epochs=1"])
    assert_one_sentence(fewer, "epochs must be at least 2, which are already trained, got 1")
    assert before == {path: path.stat().st_mtime_ns for path in run.iterdir()}


def test_a_run_goes_on_from_another_folder_and_says_where_its_store_was(
    store: CubeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "cubes.zarr", tmp_path / "moved.zarr"
    shutil.copytree(store.path, here)
    monkeypatch.chdir(tmp_path)
    settings = [word for option in TINY for word in ("-o", option)]
    relative = ["train", "--store", "cubes.zarr", "--run", "run", *settings]
    assert CliRunner().invoke(ionmodel, relative).exit_code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resume = ["train", "--run", "../run", "--resume", "-o", "epochs=3"]
    assert CliRunner().invoke(ionmodel, resume).exit_code == 0
    here.rename(there)
    refused = CliRunner().invoke(ionmodel, resume)
    assert_one_sentence(refused, f"was trained on {here}, which cannot be opened", "with --store")
    assert CliRunner().invoke(ionmodel, [*resume, "--store", str(there)]).exit_code == 0


@pytest.mark.process
def test_resume_takes_more_epochs_another_device_and_workers_and_nothing_else(
    store: CubeStore, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(store, "--run", str(run))
    refused = train(store, "--run", str(run), "--resume", options=["radius=2"])
    assert_one_sentence(refused, "radius = 1", "got 2")
    longer = train(
        store, "--run", str(run), "--resume", options=["epochs=3", "num_workers=1", "device=auto"]
    )
    assert longer.exit_code == 0, longer.output
    assert len((run / "log.jsonl").read_text().splitlines()) == 3
    assert "epochs = 3" in (run / "config.toml").read_text()
    assert_one_sentence(
        train(store, "--run", str(run), "--resume", "--preset", "week3", options=[]), "preset"
    )


def test_a_file_of_keys_stands_between_preset_and_options(store: CubeStore, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(
        "\n".join(TINY[:-2]).replace("cpu", '"cpu"').replace("small", '"small"')
        + "\nseed = 7\nepochs = 9\n"
    )
    run = tmp_path / "run"
    result = train(
        store, "--run", str(run), "--config", str(keys), options=["epochs=1", "device=cpu"]
    )
    assert result.exit_code == 0, result.output
    written = (run / "config.toml").read_text()
    assert "seed = 7" in written
    assert "epochs = 1" in written


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["inputs=n_igm"], ["inputs must be a list", '-o inputs=\'["n_igm", "n_src"]\'']),
        (["epoch=3"], ["'epoch'", "'epochs'"]),
        ([*TINY, "radius"], ["key=value"]),
        (["loss=l1"], ["'mse' or 'bce'"]),
        (["radius=7"], ["largest radius that fits is 2"]),
        (["tile=10"], ["tile must be at most 7", "got 10"]),
        (["scales=[60.0]"], ["at most a quarter of the box, 5 cMpc, got 60 cMpc"]),
        (["inputs=['n_igm', 'dust']"], ["dust", "n_igm"]),
        (["redshifts=[5.0]"], ["9, 7.5"]),
        (["memory_budget=1000"], ["memory_budget"]),
        (
            ["preset=small", "split=random", "random_cells=99", "radius=8"],
            ["largest radius that fits is 7"],
        ),
        (["preset=small", "split=random", "random_cells=9999"], ["random_cells must be 5 to 4096"]),
        (["preset=small", "radius=1", "channels=[8, 8]"], ["radius"]),
        (["split=random"], ["got a tile too; give -o tile=none"]),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_folder(
    store: CubeStore, tmp_path: Path, options: list[str], words: list[str]
) -> None:
    run = tmp_path / "run"
    result = train(store, "--run", str(run), options=options)
    assert_one_sentence(result, *words)
    assert "memory_budget" in words or "Reading" not in result.stderr
    assert not run.exists()


def test_a_preset_named_as_a_key_is_that_preset(store: CubeStore, tmp_path: Path) -> None:
    options = ["preset=week3", "channels=[2]", "recompute=false", "random_cells=20", "epochs=1"]
    run = tmp_path / "run"
    result = train(store, "--run", str(run), options=[*options, "batch_size=8", "device=cpu"])
    assert result.exit_code == 0, result.output
    assert "Radius lowered from 24 to 7" in result.output
    assert "so R² is optimistic" in result.output
    assert ", leaks  learning rate" in result.output
    assert "(epoch 1 of 1); optimistic: random split" in result.output
    assert "feature_dropout = 0.8" in (run / "config.toml").read_text()
    contradiction = train(store, "--preset", "small", options=options)
    assert_one_sentence(contradiction, "small", "'week3'")


# Slow: workers that are just starting import torch.
def test_interrupted_while_starting_leaves_no_traceback(
    commands: CommandServer, store: CubeStore, tmp_path: Path
) -> None:
    # All at once: each waits for a worker that imports torch.
    starting = [
        start(commands, store, tmp_path / name, options=[*LONG, "num_workers=1"])
        for name in ("first", "second", "third")
    ]
    for process, later_s in zip(starting, (0.0, 0.7, 0.7), strict=True):
        while not psutil.Process(process.pid).children():
            assert not process.has_ended(within_s=0.01), process.wait()
        time.sleep(later_s)  # around the moment when workers start
        os.killpg(process.pid, signal.SIGINT)
    for process in starting:
        exit_code, errors = process.wait()
        assert exit_code != 0
        assert "Traceback" not in errors, errors


def test_a_path_that_is_no_store_is_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.zarr"):
        result = CliRunner().invoke(ionmodel, ["train", "--store", str(path)])
        assert_one_sentence(result, str(path))


def test_keys_are_looked_at_before_stores(tmp_path: Path) -> None:
    missing = ["train", "--store", str(tmp_path / "missing.zarr"), "-o"]
    result = CliRunner().invoke(ionmodel, [*missing, "network=foo"])
    assert_one_sentence(result, "network must be one of pointwise, residual, two_branch, got 'foo'")
    result = CliRunner().invoke(ionmodel, [*missing, "epoch=3"])
    assert_one_sentence(result, "the nearest is 'epochs'")


def start(
    commands: CommandServer, store: CubeStore, run: Path, *more: str, options: list[str]
) -> Forked:
    """Start training as the leader of a process group, as a terminal does."""
    return commands.start("ionmodel", arguments(store, "--run", str(run), *more, options=options))


def wait_for(path: Path, process: Forked) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert not process.has_ended(within_s=0.02), process.wait()
        assert time.monotonic() < deadline


# Slow with workers, whose fork server imports torch.
@pytest.mark.parametrize(
    ("number", "workers", "to_all"),  # any two of them in all combinations
    [
        (signal.SIGINT, 0, False),
        (signal.SIGINT, 1, True),
        (signal.SIGTERM, 0, True),
        (signal.SIGTERM, 1, False),
    ],
)
def test_an_interrupt_leaves_a_run_that_can_be_resumed(
    commands: CommandServer,
    store: CubeStore,
    tmp_path: Path,
    *,
    number: signal.Signals,
    workers: int,
    to_all: bool,
) -> None:
    run = tmp_path / "run"
    process = start(commands, store, run, options=[*LONG, f"num_workers={workers}"])
    wait_for(run / "log.jsonl", process)
    if to_all:
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid, number)
    exit_code, errors = process.wait()
    assert exit_code == 130
    last = errors.strip().splitlines()[-1]
    assert last.startswith("Stopped in epoch ")
    way_on = f"ionmodel train --store {store.path} --run {run} --resume"
    assert last.endswith(f"; continue with: {way_on}")
    assert "Traceback" not in errors
    assert (run / "loss.png").exists()
    epochs = len((run / "log.jsonl").read_text().splitlines())
    resumed = train(store, "--run", str(run), "--resume", options=[f"epochs={epochs + 1}"])
    assert resumed.exit_code == 0, resumed.output
    assert len((run / "log.jsonl").read_text().splitlines()) == epochs + 1


def test_a_kill_at_any_moment_leaves_a_run_that_can_be_resumed(
    commands: CommandServer, store: CubeStore, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for _ in range(3):
        process = start(commands, store, run, "--resume", options=LONG)
        wait_for(run / "log.jsonl", process)
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait()[0] == -signal.SIGKILL
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [entry["epoch"] for entry in entries] == list(range(1, len(entries) + 1))
    resumed = train(store, "--run", str(run), "--resume", options=[f"epochs={len(entries) + 1}"])
    assert resumed.exit_code == 0, resumed.output
    assert len((run / "log.jsonl").read_text().splitlines()) == len(entries) + 1


def test_a_long_batch_is_announced_when_stopping(capfd: pytest.CaptureFixture[str]) -> None:
    for seconds, wait in ((0.0, ""), (4.0, ""), (120.0, ", within about 2 min")):
        stop = _Stop(batch_seconds=seconds)
        with stop.on_signals():
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.asked
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert capfd.readouterr().err == f"\nStopping after this batch{wait} (again: at once) ...\n"


def test_a_stop_at_once_says_how_to_go_on(
    store: CubeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(trainer: Trainer, epoch: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_train_epoch", interrupt)
    run = tmp_path / "a run"
    result = train(store, "--run", str(run))
    assert result.exit_code == 130
    last = result.stderr.splitlines()[-1]
    assert last.startswith(
        "Stopped at once; continue from the last checkpoint with: ionmodel train"
    )
    assert last.endswith(f"--run '{run}' --resume")


def test_what_is_left_of_a_run_is_told_in_epochs(store: CubeStore, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = train(store, "--run", str(run), options=[*TINY[:-2], "epochs=1", "device=cpu"])
    assert " weights, 1 epoch, 160 training and 200 validation cells per epoch, on " in first.stderr
    longer = train(store, "--run", str(run), "--resume", options=["epochs=3"])
    assert " weights, 2 of 3 epochs left, 160 training and " in longer.stderr


@pytest.mark.process
def test_help_shows_an_example_and_imports_no_torch() -> None:
    shown = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\n"
            "from ioncli.main import ionmodel\n"
            "try: ionmodel(['train', '--help'])\n"
            "except SystemExit: pass\n"
            "assert not {'torch', 'zarr', 'numba'} & set(sys.modules)",
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "ionmodel train --store cubes.zarr" in shown.stdout
    words = " ".join(shown.stdout.split())
    assert f"Start from its keys: {' or '.join(preset_names())}." in words


def test_the_default_preset_trains_on_a_small_simulated_box_and_predicts_it(
    tmp_path: Path,
) -> None:
    sim, boxes, run = (str(tmp_path / name) for name in ("sim", "boxes.zarr", "run"))
    predicted = tmp_path / "predicted.zarr"
    short = ["epochs=1", "samples_per_epoch=64", "validation_samples=8", "device=cpu"]
    settings = [word for option in short for word in ("-o", option)]
    for group, words in (
        (ionstore, ["simulate", sim, "--mesh", "32", "--redshift", "8"]),
        (ionstore, ["ingest", sim, boxes]),
        (ionmodel, ["train", "--store", boxes, "--run", run, *settings]),
        (ionmodel, ["predict", "--run", run, "--store", boxes, "--out", str(predicted)]),
    ):
        result = CliRunner().invoke(group, words)
        assert result.exit_code == 0, result.output
    xhii = CubeStore.open(predicted).read_field("xhii_predicted", 8.0)
    assert xhii.shape == (32, 32, 32)
    assert xhii.std() > 0
    assert 'preset = "dense"' in Path(run, "config.toml").read_text()


def test_a_tile_of_a_preset_is_fitted_to_the_mesh(store: CubeStore, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["epochs=1", "device=cpu", "samples_per_epoch=32", "scales=none", "width=4"]
    result = train(store, "--run", str(run), "--preset", "dense", options=options)
    assert result.exit_code == 0, result.output
    assert "Tiles lowered from 8 to 7 cells a side, the largest that fit." in result.output
    assert "tile = 7" in (run / "config.toml").read_text()


def test_a_cycle_of_more_epochs_is_announced(store: CubeStore, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    one_cycle = [*TINY, "scheduler=one_cycle", "learning_rate=0.02"]
    began = train(store, "--run", run, options=one_cycle)
    assert "One cycle" not in began.stderr
    longer = train(store, "--run", run, "--resume", options=["epochs=11"])
    assert (
        "The learning rate cycles once over all 11 epochs; it continues at 2.0e-02."
        in longer.stderr
    )
    assert "epoch   3  " in longer.stderr


def test_keys_that_change_nothing_are_announced(store: CubeStore, tmp_path: Path) -> None:
    short = [*TINY[:-2], "device=cpu", "epochs=1"]
    given = {
        "random_cells=99": "random_cells has no effect: split is 'blocks', not 'random'.",
        "samples_per_opening=9": "samples_per_opening has no effect: all fields fit memory_budge",
        "core=4": "with core = 4 samples come region by region; without core they come in unif",
    }
    for place, (option, told) in enumerate(given.items()):
        result = train(store, "--run", str(tmp_path / str(place)), options=[*short, option])
        assert result.exit_code == 0, result.output
        assert [words in result.output for words in given.values()] == [
            other == told for other in given.values()
        ]


def test_notes_on_stores_come_first(tmp_path: Path) -> None:
    path = tmp_path / "cubes.zarr"
    store = write_store(path, cubes_at(16, (9.0,)), (9.0,), box_length_cmpc=None)
    result = train(store, "--run", str(tmp_path / "run"), options=[*TINY, "scales=[2.0]"])
    assert result.exit_code == 0, result.output
    first = result.stderr.splitlines()[0]
    assert first.startswith("Note: scales are in cells, not in cMpc, because the box length is")
    assert first.endswith(f"`ionstore edit {path} --box-length`.")


def test_scales_that_leak_or_do_not_fit_are_announced(store: CubeStore, tmp_path: Path) -> None:
    options = ["epochs=1", "device=cpu", "tile=4", "samples_per_epoch=32"]
    run = str(tmp_path / "run")
    result = train(store, "--run", run, "--preset", "multiscale", options=options)
    assert result.exit_code == 0, result.output
    assert (
        "Scales above a quarter of the smallest box are left out; kept: 2.4, 3.4, 4.8 cMpc."
        in result.output
    )
    assert "Computing 6 derived channels at 2 redshifts: about " in result.stderr
    assert result.stderr.count("omputing") == 1
    assert "Smoothed inputs reach beyond the guard cells" in result.output
    assert "validation scores are slightly optimistic" in result.output
    assert "(epoch 1 of 1); slightly optimistic: smoothed inputs\n" in result.output
    assert ", leaks" not in result.output
    line = Path(run, "log.jsonl").read_text()
    assert json.loads(line)["leaks"] == "large scales"
