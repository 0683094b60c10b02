"""Training: it learns, depends on the seed alone, and stops and goes on anywhere."""

import itertools
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ionmodel.config.keys import DEFAULT_PRESET, read_preset
from ionmodel.config.training_config import TrainingConfig, make_config
from ionmodel.errors import ConfigError, Interrupted, RunFolderError, TrainingDivergedError
from ionmodel.networks.base import build_network
from ionmodel.networks.two_branch import TwoBranch
from ionmodel.prediction.predictor import load
from ionmodel.runs.checkpoint import load_checkpoint, save_checkpoint
from ionmodel.runs.folder import RunFolder, resumed_config
from ionmodel.runs.splits import fit_to_mesh
from ionmodel.training import trainer, training
from ionmodel.training.data import TrainingData, open_training_data
from ionmodel.training.evaluation import predict_cells
from ionmodel.training.events import Plan, TrainingProgress
from ionmodel.training.losses import make_loss
from ionmodel.training.training import train_run
from ionstore.errors import MemoryBudgetError, UserError
from ionstore.store.cube_store import CubeStore
from tests.ionmodel.conftest import ConfigMaker
from tests.support.reporters import telling
from tests.support.stores import cubes_at, write_store

PNG = b"\x89PNG"


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    model: dict[str, torch.Tensor] = load_checkpoint(run.last)["model"]
    return model


def assert_same_numbers(one: RunFolder, other: RunFolder) -> None:
    def log(run: RunFolder) -> list[dict[str, Any]]:
        entries = [json.loads(line) for line in run.log.read_text().splitlines()]
        return [{k: v for k, v in entry.items() if k != "seconds"} for entry in entries]

    assert log(one) == log(other)
    expected = weights(other)
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, expected[name]), name


def test_one_batch_is_learned_by_heart(store: CubeStore, tiny_config: ConfigMaker) -> None:
    config = tiny_config(head_dropout=0.0, channels=[32], head_widths=[64])
    with open_training_data(config, [store]) as data:
        batch = next(iter(data.train))
    network = build_network("two_branch", radius=1, channels=2, seed=0, **config.network_options())
    loss_of = make_loss("bce", final_activation=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    entropy = float(loss_of(torch.logit(batch.target, eps=1e-6), batch.target))  # the least
    for _ in range(200):
        optimizer.zero_grad()
        loss = loss_of(network(batch.inputs, activate=False), batch.target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < entropy + 0.005


@pytest.mark.usefixtures("rendered_figures")
def test_a_run_folder_holds_everything(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    run, config = RunFolder(tmp_path / "run"), tiny_config()
    result = train_run(config, [store], run)
    assert {path.name for path in run.path.iterdir()} == {
        "config.toml", "log.jsonl", "last.pt", "best.pt", "loss.png", "predicted_vs_true.png",
    }  # fmt: skip
    log = [json.loads(line) for line in run.log.read_text().splitlines()]
    assert log == list(result.history)
    assert [entry["epoch"] for entry in log] == [1, 2]
    assert run.loss_figure.read_bytes().startswith(PNG)
    assert run.prediction_figure.read_bytes().startswith(PNG)
    best = torch.load(run.best, weights_only=True)
    assert best["stores"][0]["uuid"] == store.uuid
    assert best["split"][0]["leaks"] is False
    assert set(best["normalization"]["fields"]) == {"n_igm", "n_src"}
    assert all(isinstance(value, torch.Tensor) for value in best["model"].values())
    assert result.best_r2 == log[result.best_epoch - 1]["validation_r2"]
    assert log[result.best_epoch - 1]["validation_loss"] == min(e["validation_loss"] for e in log)


def test_the_predictions_of_the_best_checkpoint_are_its_own(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    config, run = tiny_config(), RunFolder(tmp_path / "run")
    result = train_run(config, [store], run)
    network = build_network("two_branch", radius=1, channels=2, seed=0, **config.network_options())
    network.load_state_dict(load_checkpoint(run.best)["model"])
    with open_training_data(config, [store]) as data:
        predictions = predict_cells(network, data.validation, torch.device("cpu"))
        by_hand = [network.eval()(batch.inputs) for batch in data.validation]
    assert network.training is False
    assert predictions.r_squared == result.best_r2
    np.testing.assert_array_equal(predictions.prediction, torch.cat(by_hand).detach().numpy())


@pytest.mark.slow  # a score takes 600 steps
def test_it_learns(store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path) -> None:
    config = tiny_config(
        epochs=6, samples_per_epoch=3200, channels=[16], head_dropout=0.0, learning_rate=0.01
    )
    result = train_run(config, [store], RunFolder(tmp_path / "run"))
    assert result.best_r2 > 0.6


def test_equal_seeds_give_equal_numbers_and_others_do_not(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    runs = [RunFolder(tmp_path / name) for name in "abc"]
    for run, seed in zip(runs, (1, 1, 2**63 - 1), strict=True):
        train_run(tiny_config(seed=seed), [store], run)
    assert_same_numbers(runs[0], runs[1])
    assert runs[0].log.read_text() != runs[2].log.read_text()


def test_training_leaves_the_global_random_state_alone(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002 - the global state is what must not change
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train_run(tiny_config(epochs=1), [store], RunFolder(tmp_path / "run"))
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


@pytest.fixture(scope="module")
def undisturbed(
    store: CubeStore, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[TrainingConfig], RunFolder]:
    """Train a whole run with a configuration, once."""
    runs: dict[str, RunFolder] = {}

    def train(config: TrainingConfig) -> RunFolder:
        key = config.to_toml()
        if key not in runs:
            runs[key] = RunFolder(tmp_path_factory.mktemp("undisturbed") / "run")
            train_run(config, [store], runs[key])
        return runs[key]

    return train


@pytest.mark.parametrize("n_workers", [0, 1])
@pytest.mark.parametrize("stop_after", [1, 3, 5, 7])
def test_a_run_stopped_anywhere_goes_on_to_the_same_numbers(
    store: CubeStore,
    tiny_config: ConfigMaker,
    undisturbed: Callable[[TrainingConfig], RunFolder],
    tmp_path: Path,
    *,
    stop_after: int,
    n_workers: int,
) -> None:
    config = tiny_config(num_workers=n_workers, scheduler_patience=0)  # 5 batches an epoch
    stopped = RunFolder(tmp_path / "run")
    asked = itertools.count(1)
    with pytest.raises(Interrupted):
        train_run(
            config,
            [store],
            stopped,
            reporter=telling(should_stop=lambda: next(asked) >= stop_after),
        )
    train_run(config, [store], stopped)
    assert_same_numbers(undisturbed(config), stopped)


@pytest.mark.parametrize("n_workers", [0, 1])
def test_fields_larger_than_the_memory_budget_train_region_by_region(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path, n_workers: int
) -> None:
    # Fields take 98 kB, regions of 4 cells 32 kB, four or five batches 33 to 42 kB.
    config = tiny_config(memory_budget="110kB", symmetries="all", num_workers=n_workers)
    with open_training_data(config, [store]) as data:
        assert data.train.stats.mode == data.validation.stats.mode == "regions"
    undisturbed, stopped = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    train_run(config, [store], undisturbed)
    asked = itertools.count(1)
    with pytest.raises(Interrupted):
        train_run(config, [store], stopped, reporter=telling(should_stop=lambda: next(asked) >= 7))
    train_run(config, [store], stopped)
    assert_same_numbers(undisturbed, stopped)


@pytest.mark.usefixtures("rendered_figures")
def test_more_epochs_continue_a_finished_run(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    long, extended = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    train_run(tiny_config(epochs=3), [store], long)
    train_run(tiny_config(epochs=1), [store], extended)
    figure = extended.prediction_figure.read_bytes()
    train_run(resumed_config(extended, tiny_config(epochs=1), {"epochs": 3}), [store], extended)
    assert_same_numbers(long, extended)
    assert extended.prediction_figure.read_bytes() != figure


def test_a_finished_run_is_left_as_it_is(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    first = train_run(tiny_config(), [store], run)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.path.iterdir()}
    again = train_run(tiny_config(), [store], run)
    assert again.best_r2 == first.best_r2
    assert before == {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.path.iterdir()
    }


def test_a_run_whose_epochs_count_from_0_is_read_and_goes_on_from_1(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    run, whole = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    train_run(tiny_config(epochs=3), [store], whole)
    train_run(tiny_config(), [store], run)
    for path in (run.last, run.best):
        old = torch.load(path, weights_only=True)
        old["format_version"] = 1
        for entry in old["history"]:
            entry["epoch"] -= 1
            entry["validation_samples"] = entry.pop("validation_cells")
            entry["samples"] = entry.pop("cells")
            del entry["leaks"]
        torch.save(old, path)
    finished = train_run(tiny_config(), [store], run)
    assert [entry["epoch"] for entry in finished.history] == [1, 2]
    assert finished.history[finished.best_epoch - 1]["validation_r2"] == finished.best_r2
    train_run(tiny_config(epochs=3), [store], run)
    assert_same_numbers(run, whole)


def test_a_checkpoint_is_written_within_a_long_epoch(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "_CHECKPOINT_INTERVAL_S", 0.0)
    run, positions = RunFolder(tmp_path / "run"), []

    def look(progress: TrainingProgress) -> None:
        if progress.stage == "training" and run.last.exists():
            positions.append(load_checkpoint(run.last)["state"]["position"])

    train_run(tiny_config(epochs=1), [store], run, reporter=telling(batch=look))
    assert positions == [1, 2, 3, 4]


def test_another_store_is_refused_on_resuming(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    train_run(tiny_config(epochs=1), [store], run)
    other = write_store(tmp_path / "other.zarr", cubes_at(16, (9.0, 7.5)), (9.0, 7.5))
    with pytest.raises(RunFolderError, match=r"was trained on .*cubes.zarr, got .*other.zarr"):
        train_run(tiny_config(epochs=2), [other], run)


def test_resuming_with_another_value_is_refused(tiny_config: ConfigMaker, tmp_path: Path) -> None:
    run, saved = RunFolder(tmp_path), tiny_config()
    assert resumed_config(run, saved, {"radius": 1, "epochs": 9}).epochs == 9
    with pytest.raises(RunFolderError, match="begun with radius = 1, got 2"):
        resumed_config(run, saved, {"radius": 2})


def test_the_checkpoint_decides_what_may_be_resumed(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    train_run(tiny_config(epochs=1), [store], run)
    with pytest.raises(RunFolderError, match="begun with batch_size = 32, got 64"):
        train_run(tiny_config(batch_size=64, epochs=2), [store], run)
    run.write_config(tiny_config(batch_size=64, epochs=1))  # edited by hand
    for batch_size in (32, 64):
        with pytest.raises(RunFolderError, match=r"got batch_size = 64 \(was 32\); undo that"):
            train_run(tiny_config(batch_size=batch_size, epochs=2), [store], run)


@pytest.mark.process
def test_a_run_goes_on_with_other_processes_to_the_same_numbers(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    config = tiny_config()
    undisturbed, stopped = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    train_run(config, [store], undisturbed)
    asked = itertools.count(1)
    with pytest.raises(Interrupted):
        train_run(config, [store], stopped, reporter=telling(should_stop=lambda: next(asked) >= 3))
    other = resumed_config(stopped, config, {"num_workers": 1})
    train_run(other, [store], stopped)
    assert_same_numbers(undisturbed, stopped)
    assert "num_workers = 1\n" in stopped.config.read_text()


def test_a_run_whose_checkpoint_is_gone_is_left_as_it_is(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    train_run(tiny_config(epochs=1), [store], run)
    run.last.unlink()
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(RunFolderError, match=r"best.pt and log.jsonl of a run, but not last.pt"):
        train_run(tiny_config(), [store], run)
    assert before == {path: path.read_bytes() for path in run.path.iterdir()}


def test_what_a_first_epoch_leaves_can_always_be_resumed(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    train_run(tiny_config(), [store], whole)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_log", lambda run, history: 1 / 0)  # best.pt is there
        with pytest.raises(ZeroDivisionError):
            train_run(tiny_config(), [store], killed)
    assert killed.best.exists()
    train_run(tiny_config(), [store], killed)
    assert_same_numbers(whole, killed)


def test_the_file_decides_where_there_is_no_checkpoint(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path)
    run.write_config(tiny_config())
    before = run.config.read_bytes()
    with pytest.raises(RunFolderError, match="begun with seed = 2021, got 1"):
        train_run(tiny_config(seed=1), [store], run)
    assert run.config.read_bytes() == before


def test_fewer_epochs_than_are_trained_are_refused(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    done: list[dict[str, Any]] = []
    with pytest.raises(Interrupted, match="stopped in epoch 3, after batch 1"):
        train_run(
            tiny_config(epochs=9),
            [store],
            run,
            reporter=telling(epoch=done.append, should_stop=lambda: len(done) == 2),
        )
    with pytest.raises(RunFolderError, match=r"epochs must be at least 2, .* got 1; leave"):
        train_run(tiny_config(epochs=1), [store], run)
    plans: list[Plan] = []
    result = train_run(tiny_config(epochs=2), [store], run, reporter=telling(plan=plans.append))
    assert (len(result.history), result.was_finished, plans[0].epochs_left) == (2, False, 0)
    assert train_run(tiny_config(epochs=2), [store], run).was_finished


@pytest.mark.parametrize(
    "changes",
    [
        {"radius": 7},
        {"channels": [8, 8]},
        {"network": "transformer"},
        {"inputs": ["n_igm", "dust"]},
        {"redshifts": [5.0]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_does_not_fit_is_noticed_before_fields_are_read(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path, changes: dict[str, Any]
) -> None:
    stages: list[str] = []
    with pytest.raises(UserError):
        train_run(
            tiny_config(**changes),
            [store],
            RunFolder(tmp_path / "run"),
            reporter=telling(stage=stages.append),
        )
    assert stages == []


def test_a_second_training_in_one_folder_is_refused(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    with run.locked(), pytest.raises(RunFolderError, match="another process"):
        train_run(tiny_config(), [store], run)
    assert not any(run.path.iterdir())
    train_run(tiny_config(epochs=1), [store], run)


@pytest.mark.parametrize(
    ("is_training", "fails", "refused"),
    [
        (True, False, "another process is training in this folder"),
        (False, False, "exists and is not an empty folder"),
        (False, True, "does not fit"),
    ],
)
def test_a_folder_that_another_process_begins_meanwhile_is_left_to_it(
    store: CubeStore,
    tiny_config: ConfigMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_training: bool,
    fails: bool,
    refused: str,
) -> None:
    run = RunFolder(tmp_path / "run")
    with ExitStack() as others:

        def open_slowly(*arguments: Any, **options: Any) -> TrainingData:
            run.path.mkdir()
            run.write_config(tiny_config(seed=7))
            if is_training:
                others.enter_context(run.locked())
            if fails:
                raise MemoryBudgetError("what was read does not fit")
            return open_training_data(*arguments, **options)

        monkeypatch.setattr(training, "open_training_data", open_slowly)
        with pytest.raises(UserError, match=refused):
            train_run(tiny_config(), [store], run)
    assert [path.name for path in run.path.iterdir()] == ["config.toml"]
    assert run.config.read_text() == tiny_config(seed=7).to_toml()


@pytest.mark.usefixtures("rendered_figures")
def test_a_validation_region_without_variance_is_no_error(
    tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    cubes = cubes_at(16, (8.0,))
    cubes["xhii"][:] = 0
    store = write_store(tmp_path / "cubes.zarr", cubes, (8.0,))
    run = RunFolder(tmp_path / "run")
    assert np.isnan(train_run(tiny_config(), [store], run).best_r2)
    log = [
        json.loads(line, parse_constant=pytest.fail) for line in run.log.read_text().splitlines()
    ]
    assert [entry["validation_r2"] for entry in log] == [None, None]


@pytest.mark.usefixtures("rendered_figures")
def test_stopping_before_the_last_figure_is_resumed(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    whole = train_run(tiny_config(), [store], run)
    figure = run.prediction_figure.read_bytes()
    run.prediction_figure.unlink()
    with pytest.raises(Interrupted, match="figure"):
        train_run(tiny_config(), [store], run, reporter=telling(should_stop=lambda: True))
    assert train_run(tiny_config(), [store], run).best_r2 == whole.best_r2
    assert run.prediction_figure.read_bytes() == figure


def test_several_stores_with_other_meshes_train_together(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    other = write_store(tmp_path / "other.zarr", cubes_at(19, (8.0,), seed=5), (8.0,))
    stages: list[tuple[str, int]] = []
    result = train_run(
        tiny_config(),
        [store, other],
        RunFolder(tmp_path / "run"),
        reporter=telling(batch=lambda progress: stages.append((progress.stage, progress.batch))),
    )
    assert result.n_validation_cells == 3 * 67  # 200 shared by three cubes, rounded up
    assert stages[:6] == [("training", batch) for batch in range(1, 6)] + [("validation", 1)]


def test_what_is_remarked_on_is_told_before_fields_are_read(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    other = write_store(tmp_path / "other.zarr", cubes_at(19, (8.0,)), (8.0,))
    told: list[str] = []
    train_run(
        tiny_config(epochs=1),
        [store, other],
        RunFolder(tmp_path / "run"),
        reporter=telling(note=told.append, stage=told.append),
    )
    assert told[0].startswith("cells differ in size (1.25 cMpc in ")
    assert told[1].startswith("reading ")
    with pytest.raises(ConfigError, match="num_workers must be at most"):
        train_run(
            tiny_config(num_workers=999),
            [store],
            RunFolder(tmp_path / "no"),
            reporter=telling(note=told.append),
        )
    assert not (tmp_path / "no").exists()


def test_a_diverging_loss_stops_with_a_sentence(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    config = tiny_config(final_activation=False, loss="mse")
    config = config.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(TrainingDivergedError, match="lower learning_rate"):
        train_run(config, [store], RunFolder(tmp_path / "run"))


@pytest.mark.parametrize("name", [DEFAULT_PRESET, "small"])
def test_a_preset_fits_a_box_of_32_cells_with_one_redshift(tmp_path: Path, name: str) -> None:
    store = write_store(tmp_path / "cubes.zarr", cubes_at(32, (8.0,)), (8.0,))
    preset = make_config({**read_preset(name), "device": "cpu"})
    config = fit_to_mesh(preset, [store]).model_copy(
        update={"epochs": 1, "samples_per_epoch": 512, "validation_samples": 100}
    )
    result = train_run(config, [store], RunFolder(tmp_path / "run"))
    assert np.isfinite(result.best_r2)


@pytest.mark.parametrize("n_steps", [0, 9])
def test_a_batch_that_does_not_fit_the_device_is_one_sentence(
    store: CubeStore,
    tiny_config: ConfigMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n_steps: int,
) -> None:
    steps = iter(range(n_steps))
    forward = TwoBranch.forward

    def of_a_full_device(self: TwoBranch, x: torch.Tensor, **options: bool) -> torch.Tensor:
        if next(steps, None) is None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return forward(self, x, **options)

    monkeypatch.setattr(TwoBranch, "forward", of_a_full_device)
    with pytest.raises(MemoryBudgetError, match=r"got 32 neighborhoods a step, .*er batch_size$"):
        train_run(tiny_config(), [store], RunFolder(tmp_path / "run"))


@pytest.mark.parametrize("name", ["gpu", "cuda:0", "none"])
def test_a_device_of_no_known_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^device must be 'auto', .*, got '{name}'; one of"):
        training.choose_device(name)


def test_a_run_begun_on_another_device_goes_on_and_predicts_here(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    run, config = RunFolder(tmp_path / "run"), tiny_config(epochs=1)
    train_run(config, [store], run)
    elsewhere = config.model_copy(update={"device": "cuda"})
    run.write_config(elsewhere)
    keys = elsewhere.model_dump(mode="json", exclude_none=True)
    for path in (run.last, run.best):  # as that machine leaves them
        save_checkpoint(path, {**load_checkpoint(path), "config": keys})
    assert load(run).device.type == "cpu"
    longer = resumed_config(run, elsewhere, {"epochs": 2})
    with pytest.raises(ConfigError, match="this machine has no device 'cuda'"):
        train_run(longer, [store], run)
    here = resumed_config(run, elsewhere, {"epochs": 2, "device": "cpu"})
    assert len(train_run(here, [store], run).history) == 2


def test_an_absent_device_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ConfigError, match=r"-o device=cpu of a training .*, --device cpu of a p"):
        training.choose_device("cuda")
    assert training.choose_device("cpu").type == "cpu"
