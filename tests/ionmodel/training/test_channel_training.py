"""Training with averages over balls and with the redshift as inputs."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ionmodel.channels.periodic_field import PeriodicField
from ionmodel.channels.redshift import redshift_value, with_redshift
from ionmodel.config.keys import over_preset, read_preset, read_toml
from ionmodel.config.training_config import TrainingConfig, make_config
from ionmodel.errors import ConfigError, Interrupted, RunFolderError
from ionmodel.runs.folder import RunFolder
from ionmodel.runs.network import network_of
from ionmodel.runs.splits import fit_to_mesh
from ionmodel.training.data import open_training_data
from ionmodel.training.evaluation import predict_cells
from ionmodel.training.events import TrainingReporter
from ionmodel.training.training import train_run
from ionstore.edit import edit_store
from ionstore.errors import MemoryBudgetError, UserError
from ionstore.store.cube_store import CubeStore
from tests.ionmodel.conftest import ConfigMaker
from tests.ionmodel.training.test_training import assert_same_numbers
from tests.support.reporters import telling
from tests.support.stores import cubes_at, write_store

CHANNELS: dict[str, Any] = {
    "scales": [2.0, 4.0],
    "mean_free_path": "constant",
    "mean_free_path_cmpc": 3.0,
    "redshift_input": True,
}
POINTWISE: dict[str, Any] = {
    "network": "pointwise",
    "radius": 0,
    "tile": 4,
    "scales": "none",
    "samples_per_epoch": "none",
    "validation_samples": "none",
    "scheduler": "plateau",
    "head_widths": [16],
    "batch_size": 8,
    "epochs": 2,
    "learning_rate": 0.01,
    "device": "cpu",
}


def pointwise(**changes: Any) -> TrainingConfig:
    return make_config(over_preset(read_preset("dense"), {**POINTWISE, **changes}))


@pytest.mark.parametrize(("stop_after", "n_workers"), [(3, 0), (12, 1), (15, 0)])
def test_a_run_stopped_anywhere_goes_on_to_the_same_numbers(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path, stop_after: int, n_workers: int
) -> None:
    # Ten channels are computed first, five at each redshift; an epoch has five batches.
    config = tiny_config(**CHANNELS, num_workers=n_workers)
    undisturbed, stopped = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    train_run(config, [store], undisturbed)
    asked = itertools.count(1)
    with pytest.raises(Interrupted):
        train_run(
            config,
            [store],
            stopped,
            reporter=telling(should_stop=lambda: next(asked) >= stop_after),
        )
    assert make_config(read_toml(stopped.config)) == config
    computed: list[tuple[int, int]] = []
    train_run(
        config, [store], stopped, reporter=telling(progress=lambda *counts: computed.append(counts))
    )
    assert computed == [(done, 10) for done in range(min(stop_after - 1, 10), 11)]
    assert_same_numbers(undisturbed, stopped)


@pytest.mark.parametrize(
    ("channels", "before", "after", "told"),
    [
        (
            {"scales": [2.0]},
            {},
            {"box_length_cmpc": 96.0},
            "n_igm_top_hat_2 of 2 cells in .*, got 0.5 cells",
        ),
        (
            {"mean_free_path": "choudhury2009", "scales": "none"},
            {"box_length_cmpc": 480.0, "h": 0.7, "omega_m": 0.3},
            {"h": 0.5},
            r"n_src_mean_free_path of \S+ cells in .*, got \S+ cells",
        ),
    ],
)
def test_a_run_does_not_go_on_with_other_channels(
    tmp_path: Path,
    channels: dict[str, Any],
    before: dict[str, float],
    after: dict[str, float],
    told: str,
) -> None:
    path = tmp_path / "cubes.zarr"
    write_store(path, cubes_at(24, (8.0,)), (8.0,), box_length_cmpc=None)
    if before:
        edit_store(path, **before)  # type: ignore[arg-type]
    run, config = RunFolder(tmp_path / "run"), pointwise(**channels, epochs=1)
    train_run(config, [CubeStore.open(path)], run)
    held = sorted(run.channels.iterdir())
    edit_store(path, **after)  # type: ignore[arg-type]
    more = config.model_copy(update={"epochs": 2})
    with pytest.raises(RunFolderError, match=told):
        train_run(more, [CubeStore.open(path)], run)
    assert sorted(run.channels.iterdir()) == held
    without_channels = RunFolder(tmp_path / "other")
    plain = pointwise(epochs=1)
    train_run(plain, [CubeStore.open(path)], without_channels)
    edit_store(path, box_length_cmpc=200.0)
    train_run(plain.model_copy(update={"epochs": 2}), [CubeStore.open(path)], without_channels)


def test_channels_larger_than_the_memory_budget_train_region_by_region(
    store: CubeStore, tmp_path: Path
) -> None:
    config = pointwise(**CHANNELS, memory_budget="250kB")
    folder = tmp_path / "channels"
    with open_training_data(config, [store], channels_folder=folder) as data:
        assert data.train.stats.mode == "regions"
        (batch, *_) = data.train
        assert batch.inputs.shape[1] == 7
    one, other = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    train_run(config, [store], one)
    train_run(config, [store], other)
    assert_same_numbers(one, other)


@pytest.mark.slow  # a score near 1 takes 20 epochs
def test_the_surroundings_are_learned_from_averages(tmp_path: Path) -> None:
    cubes = cubes_at(24, (8.0,), seed=4)
    around = PeriodicField(cubes["n_src"][0]).smoothed(3.0)
    cubes["xhii"][0] = 1 / (1 + np.exp(-8 * (around - around.mean())))
    store = write_store(tmp_path / "cubes.zarr", cubes, (8.0,), box_length_cmpc=48.0)
    config = pointwise(epochs=20, scales=[6.0])
    assert train_run(config, [store], RunFolder(tmp_path / "with")).best_r2 > 0.97
    config = pointwise(epochs=5)
    assert train_run(config, [store], RunFolder(tmp_path / "without")).best_r2 < 0.3


@pytest.mark.slow  # a score near 1 takes 20 epochs
def test_the_redshift_is_learned_from(tmp_path: Path) -> None:
    redshifts = (9.0, 7.0)
    cubes = cubes_at(16, redshifts, seed=4)
    cubes["n_igm"][1], cubes["n_src"][1] = cubes["n_igm"][0], cubes["n_src"][0]
    cubes["xhii"][0], cubes["xhii"][1] = 0.2, 0.9
    store = write_store(tmp_path / "cubes.zarr", cubes, redshifts)
    config = pointwise(epochs=20, redshift_input=True)
    run = RunFolder(tmp_path / "with")
    assert train_run(config, [store], run).best_r2 > 0.99
    assert train_run(pointwise(epochs=3), [store], RunFolder(tmp_path / "without")).best_r2 < 0.05
    with open_training_data(config, [store]) as data:
        of_tiles = {"regions": [split.validation for split in data.splits]}
        with pytest.raises(ValueError, match="x must have"):
            predict_cells(network_of(config), data.validation, torch.device("cpu"), **of_tiles)


def test_the_redshift_is_the_last_channel() -> None:
    inputs = torch.randn(3, 2, 4, 5, 6)
    redshift = torch.tensor([7.0, 9.0, 12.0], dtype=torch.float64)
    batch = with_redshift(inputs, redshift)
    assert batch.shape == (3, 3, 4, 5, 6)
    assert batch.dtype == torch.float32
    assert torch.equal(batch[:, :2], inputs)
    for sample, z in zip(batch, redshift.tolist(), strict=True):
        assert torch.equal(sample[2], torch.full((4, 5, 6), redshift_value(z)))


def test_normalization_is_that_of_the_parent_with_numbers_of_its_own(
    store: CubeStore, tmp_path: Path
) -> None:
    config = pointwise(**CHANNELS)
    with open_training_data(config, [store], channels_folder=tmp_path / "channels") as data:
        fields = data.normalization.fields
        batch = next(iter(data.train))
    assert {name: field.transform for name, field in fields.items()} == {
        "n_igm": "overdensity",
        "n_igm_top_hat_2": "overdensity",
        "n_igm_top_hat_4": "overdensity",
        "n_src": "log1p",
        "n_src_top_hat_2": "log1p",
        "n_src_top_hat_4": "log1p",
        "n_src_mean_free_path": "log1p",
    }
    assert fields["n_igm_top_hat_4"].std < fields["n_igm_top_hat_2"].std < fields["n_igm"].std
    assert 0.5 < float(batch.inputs.std()) < 2


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"scales": [5.1]}, ConfigError, "at most a quarter of the box, 5 cMpc, got 5.1 cMpc"),
        ({"mean_free_path": "choudhury2009"}, ConfigError, "needs h and omega_m"),
        ({"mean_free_path": "worseck2014"}, ConfigError, "worseck2014.* at redshift 9 must be at"),
        ({"scales": [2.0], "memory_budget": "80kB"}, MemoryBudgetError, "smoothing a box of 16"),
        ({"scales": [2.0], "memory_budget": "100kB", "batch_size": 500}, UserError, "memory"),
    ],
)
def test_what_does_not_fit_leaves_nothing(
    store: CubeStore, tmp_path: Path, changes: dict[str, Any], error: type[UserError], told: str
) -> None:
    run, empty = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "empty")
    empty.path.mkdir()
    for folder in (run, empty):
        with pytest.raises(error, match=told):
            train_run(pointwise(**changes), [store], folder)
    assert not run.path.exists()
    assert list(empty.path.iterdir()) == []


def test_channels_of_several_stores_are_counted_together(
    store: CubeStore, odd_store: CubeStore, tmp_path: Path
) -> None:
    config = pointwise(scales=[2.0])
    told: list[tuple[int, int]] = []

    class Counts(TrainingReporter):
        def progress(self, done: int, total: int) -> None:
            told.append((done, total))

    for stores in ([odd_store], [store, odd_store]):
        told.clear()
        with open_training_data(config, stores, channels_folder=tmp_path, reporter=Counts()):
            pass
    n = 2 * len(store.redshifts)
    assert told == [*((done, n + 4) for done in range(n + 1)), (n + 4, n + 4)]


def test_channels_need_a_folder(store: CubeStore) -> None:
    with pytest.raises(ValueError, match="channels_folder must be given"):
        open_training_data(pointwise(scales=[2.0]), [store])


def test_boxes_of_unknown_length_are_averaged_in_cells(tmp_path: Path) -> None:
    cubes = cubes_at(16, (8.0,))
    unknown = write_store(tmp_path / "cubes.zarr", cubes, (8.0,), box_length_cmpc=None)
    folder = tmp_path / "channels"
    with open_training_data(pointwise(scales=[3.0]), [unknown], channels_folder=folder) as data:
        assert data.trained["cell_sizes_cmpc"] == [0.0]
    known = write_store(tmp_path / "known.zarr", cubes, (8.0,))
    with pytest.raises(ConfigError, match="must mean the same in all boxes"):
        train_run(pointwise(scales=[3.0]), [unknown, known], RunFolder(tmp_path / "run"))


def test_the_multiscale_preset_trains_on_a_box_of_32_cells(tmp_path: Path) -> None:
    store = write_store(tmp_path / "cubes.zarr", cubes_at(32, (8.0,)), (8.0,), box_length_cmpc=76.0)
    keys = {**read_preset("multiscale"), "epochs": 1, "device": "cpu"}
    config = fit_to_mesh(make_config(keys), [store])
    assert config.scales == (2.4, 3.4, 4.8, 6.8, 9.6, 13.6)
    result = train_run(config, [store], RunFolder(tmp_path / "run"))
    assert result.n_validation_cells > 0
    transforms = {f"n_igm_top_hat_{scale:g}": "log1p" for scale in (2.4, 54.4)}
    fitted = fit_to_mesh(make_config({**keys, "transforms": transforms}), [store])
    assert fitted.transforms == {"n_igm_top_hat_2.4": "log1p"}
    assert make_config(fitted.model_dump(exclude_none=True)) == fitted
    no_room = fit_to_mesh(make_config({**keys, "scales": [50.0]}), [store])
    assert no_room.scales is None
