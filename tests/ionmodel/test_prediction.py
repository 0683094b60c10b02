"""Whole boxes, predicted as their cells would be one by one."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ionmodel.channels.cache import with_channels
from ionmodel.config import make_config
from ionmodel.config_keys import over_preset, read_preset
from ionmodel.errors import ConfigError, RunFolderError
from ionmodel.network_memory import largest_tile, tile_bytes
from ionmodel.predicted_store import predict_store
from ionmodel.prediction import Predictor, load
from ionmodel.prediction_plan import plan_prediction
from ionmodel.redshift_input import with_redshift
from ionmodel.run_folder import RunFolder
from ionmodel.trained_range import check_store
from ionmodel.training import train
from ionstore.errors import MemoryBudgetError, NotInStoreError, StoreExistsError
from ionstore.layout import Layout
from ionstore.loading import NeighborhoodLoader
from ionstore.objects import ObjectPath
from ionstore.store import CubeStore
from tests.conftest import cubes_at, write_store
from tests.object_server import upload

REDSHIFTS = (9.0, 7.5)
FAMILIES: dict[str, dict[str, Any]] = {
    "residual": {"network": "residual", "width": 5, "tile": 4, "radius": 2},
    "pointwise": {"network": "pointwise", "tile": 4, "radius": 0, "head_widths": [4]},
    "valid": {
        "network": "two_branch",
        "padding": False,
        "channels": [3],
        "kernel": 3,
        "radius": 2,
        "head_widths": [4],
        "samples_per_epoch": 512,
    },
    "multiscale": {
        "network": "pointwise",
        "tile": 4,
        "radius": 0,
        "head_widths": [8],
        "scales": [2.0, 4.5],
        "mean_free_path": "constant",
        "mean_free_path_cmpc": 3.0,
        "redshift_input": True,
    },
    "wide": {
        "network": "residual",
        "width": 5,
        "tile": 4,
        "radius": 2,
        "scales": [3.0],
        "redshift_input": True,
    },
    "padded": {
        "network": "two_branch",
        "channels": [3],
        "kernel": 3,
        "radius": 2,
        "head_widths": [4],
        "samples_per_epoch": 512,
    },
}


@pytest.fixture(scope="module")
def odd_store(tmp_path_factory: pytest.TempPathFactory) -> CubeStore:
    """A store whose mesh is no multiple of chunks, shards or tiles."""
    path = tmp_path_factory.mktemp("odd") / "cubes.zarr"
    cubes = cubes_at(19, REDSHIFTS, seed=5)
    return write_store(path, cubes, REDSHIFTS, layout=Layout(19, 4, 12))


@pytest.fixture(scope="module")
def runs(
    odd_store: CubeStore, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], RunFolder]:
    """A short run of a family."""
    folder = tmp_path_factory.mktemp("runs")

    def run(family: str) -> RunFolder:
        made = RunFolder(folder / family)
        if not made.best.exists():
            keys = {"epochs": 1, "device": "cpu", "scales": "none", "samples_per_epoch": 64}
            config = make_config(over_preset(read_preset("dense"), {**keys, **FAMILIES[family]}))
            train(config, [odd_store], made)
        return made

    return run


def lively(predictor: Predictor) -> Predictor:
    """The same with weights that tell cells apart, and with the mean of the whole box for any."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in predictor.network.parameters():
            weights.copy_(0.3 * torch.randn(weights.shape, generator=generator))
    anywhere = replace(predictor.normalization, cube_means={})
    return replace(predictor, normalization=anywhere)


def cell_by_cell(predictor: Predictor, store: CubeStore, redshift: float) -> np.ndarray:
    """The box as the loader of training cuts it, neighborhood by neighborhood."""
    n = store.mesh.cells_per_side
    out = np.empty((n, n, n), np.float32)
    config = predictor.config
    channels = RunFolder(predictor.path.parent).channels
    with (
        NeighborhoodLoader(
            with_channels(store, config.derived_channels, channels),
            inputs=config.channel_names,
            redshifts=[redshift],
            radius=predictor.radius,
            batch_size=500,
            normalization=predictor.normalization,
            shuffle=False,
        ) as loader,
        torch.inference_mode(),
    ):
        for batch in loader:
            x, y, z = batch.centers.T.numpy()
            inputs = batch.inputs
            if config.redshift_input:
                inputs = with_redshift(inputs, batch.redshift)
            out[x, y, z] = predictor.network(inputs).flatten().numpy()
    return out


@pytest.mark.parametrize("family", FAMILIES)
def test_a_predicted_store_holds_what_each_cell_would_be_alone(
    family: str, runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    predictor = lively(load(runs(family), device="cpu"))
    target = tmp_path / "predicted.zarr"
    seen: list[tuple[int, int]] = []
    predict_store(predictor, odd_store, target, on_progress=lambda *done: seen.append(done))
    predicted = CubeStore.open(target)
    assert predicted.field_names == ("xhii_predicted",)
    assert (predicted.redshifts, predicted.mesh) == (odd_store.redshifts, odd_store.mesh)
    assert predicted.layout == odd_store.layout
    for redshift in REDSHIFTS:
        values = predicted.read_field("xhii_predicted", redshift)
        expected = cell_by_cell(predictor, odd_store, redshift)
        assert expected.std() > 0.01
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
        assert predicted.statistics("xhii_predicted", redshift).mean == pytest.approx(
            values.mean(dtype="f8"), rel=1e-12
        )
    assert seen[0] == (0, 2 * 19**3)
    assert seen[-1] == (2 * 19**3, 2 * 19**3)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert not (tmp_path / "predicted.zarr.partial").exists()
    files = {source.name: source for source in predicted.attributes.sources}
    assert files["best.pt"].folder == str(runs(family).path)
    assert files["zarr.json"].folder == str(odd_store.path)


def test_arrays_in_array_out(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    predict = lively(load(str(runs("residual").path), device="cpu"))
    fields = {name: odd_store.read_field(name, 7.5) for name in ("n_igm", "n_src")}
    xhii = predict(fields)
    assert xhii.shape == (19, 19, 19)
    assert xhii.dtype == np.float32
    np.testing.assert_allclose(xhii, cell_by_cell(predict, odd_store, 7.5), atol=1e-5)
    shift = {"shift": (5, -3, 9), "axis": (0, 1, 2)}
    rolled = predict({name: np.roll(values, **shift) for name, values in fields.items()})
    np.testing.assert_allclose(rolled, np.roll(xhii, **shift), atol=1e-5)
    with pytest.raises(ConfigError, match="needs the fields n_igm, n_src, got n_igm; give n_src"):
        predict({"n_igm": fields["n_igm"]})
    with pytest.raises(ConfigError, match="cubes of one mesh"):
        predict({"n_igm": fields["n_igm"], "n_src": fields["n_src"][1:]})


@pytest.mark.parametrize("family", ["padded", "valid"])
def test_pooled_networks_take_arrays(
    family: str, runs: Callable[[str], RunFolder], odd_store: CubeStore
) -> None:
    predict = lively(load(runs(family), device="cpu"))
    fields = {name: odd_store.read_field(name, 7.5) for name in ("n_igm", "n_src")}
    xhii = predict(fields)
    shift = {"shift": (5, -3, 9), "axis": (0, 1, 2)}
    rolled = predict({name: np.roll(values, **shift) for name, values in fields.items()})
    np.testing.assert_allclose(rolled, np.roll(xhii, **shift), atol=1e-5)
    np.testing.assert_allclose(xhii, cell_by_cell(predict, odd_store, 7.5), atol=1e-5)


def test_the_store_that_is_predicted_from_is_never_replaced(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    (tmp_path / "link.zarr").symlink_to(odd_store.path)
    predictor = load(runs("residual"), device="cpu")
    for target in (Path(odd_store.path), tmp_path / "link.zarr"):
        with pytest.raises(StoreExistsError, match="the store that is predicted from"):
            predict_store(predictor, odd_store, target, overwrite=True)
    assert "n_igm" in CubeStore.open(odd_store.path).field_names


@pytest.mark.parametrize("family", ["residual", "multiscale"])
def test_nothing_but_what_was_made_here_is_removed(
    family: str, runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    path = tmp_path / "same.zarr"
    shutil.copytree(odd_store.path, path)
    root = path / "zarr.json"
    root.write_text(root.read_text().replace(odd_store.uuid, "another"))
    mine = tmp_path / "predicted.zarr.channels" / "mine"
    mine.mkdir(parents=True)
    predictor = load(runs(family), device="cpu")
    predict_store(predictor, CubeStore.open(path), tmp_path / "predicted.zarr")
    assert list(mine.parent.iterdir()) == [mine]


def test_a_run_of_more_redshifts_than_the_store_holds_predicts_it(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    predictor = load(runs("multiscale"), device="cpu")
    config = predictor.config.model_copy(update={"redshifts": REDSHIFTS})
    cubes = {name: odd_store.read_field(name, 9.0)[None] for name in ("n_igm", "n_src", "xhii")}
    one = write_store(tmp_path / "one.zarr", cubes, (9.0,), layout=Layout(19, 4, 12))
    predict_store(replace(predictor, config=config), one, tmp_path / "predicted.zarr")
    assert CubeStore.open(tmp_path / "predicted.zarr").redshifts == (9.0,)


def test_arrays_are_averaged_in_memory(
    runs: Callable[[str], RunFolder], odd_store: CubeStore
) -> None:
    predict = lively(load(runs("multiscale"), device="cpu"))
    fields = {name: odd_store.read_field(name, 7.5) for name in ("n_igm", "n_src")}
    told = {"redshift": 7.5, "box_length_cmpc": 20.0}
    xhii = predict(fields, **told)
    np.testing.assert_allclose(xhii, cell_by_cell(predict, odd_store, 7.5), atol=1e-4)
    shift = {"shift": (5, -3, 9), "axis": (0, 1, 2)}
    rolled = predict({name: np.roll(values, **shift) for name, values in fields.items()}, **told)
    np.testing.assert_allclose(rolled, np.roll(xhii, **shift), atol=1e-4)
    assert np.abs(predict(fields, **{**told, "redshift": 12.0}) - xhii).max() > 1e-4
    assert np.abs(predict(fields, **{**told, "box_length_cmpc": 30.0}) - xhii).max() > 1e-4
    with pytest.raises(ConfigError, match="the network sees the redshift, got none; give redshift"):
        predict(fields, box_length_cmpc=20.0)
    with pytest.raises(
        ConfigError, match=r"averages over balls \(n_igm_top_hat_2\).* give box_len"
    ):
        predict(fields, redshift=7.5)
    with pytest.raises(ConfigError, match="at most a quarter of the box"):
        predict(fields, redshift=7.5, box_length_cmpc=10.0)


def test_averages_of_another_store_lie_beside_the_prediction_until_it_is_done(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    predictor = lively(load(runs("multiscale"), device="cpu"))
    notes: list[str] = []
    predict_store(predictor, odd_store, tmp_path / "own.zarr", on_note=notes.append)
    assert not any("averages" in note for note in notes)  # the run has them
    path = tmp_path / "same.zarr"
    shutil.copytree(odd_store.path, path)
    root = path / "zarr.json"
    root.write_text(root.read_text().replace(odd_store.uuid, "another"))
    same = CubeStore.open(path)
    target = tmp_path / "predicted.zarr"

    def stop(done: int, total: int) -> None:
        if done > total // 3:
            assert (tmp_path / "predicted.zarr.channels").is_dir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_store(predictor, same, target, on_progress=stop, on_note=notes.append)
    assert any("5 averages over balls are computed first" in note for note in notes)
    predict_store(predictor, same, target)
    assert not (tmp_path / "predicted.zarr.channels").exists()
    for redshift in REDSHIFTS:
        one, other = (
            CubeStore.open(place).read_field("xhii_predicted", redshift)
            for place in (target, tmp_path / "own.zarr")
        )
        np.testing.assert_array_equal(one, other)
    alone = tmp_path / "alone.zarr"
    predict_store(predictor, same, alone, redshifts=[7.5])
    np.testing.assert_array_equal(
        CubeStore.open(alone).read_field("xhii_predicted", 7.5),
        CubeStore.open(target).read_field("xhii_predicted", 7.5),
    )


@pytest.mark.usefixtures("server")
def test_a_prediction_goes_from_an_object_store_into_another(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    upload(odd_store.path, ObjectPath("box", "odd/cubes.zarr"))
    predictor = load(runs("multiscale"), device="cpu")
    predict_store(
        predictor,
        CubeStore.open("s3://box/odd/cubes.zarr"),
        ObjectPath("box", "odd/predicted.zarr"),
    )
    predict_store(predictor, odd_store, tmp_path / "predicted.zarr")
    for redshift in REDSHIFTS:
        np.testing.assert_array_equal(
            CubeStore.open("s3://box/odd/predicted.zarr").read_field("xhii_predicted", redshift),
            CubeStore.open(tmp_path / "predicted.zarr").read_field("xhii_predicted", redshift),
        )


def test_averages_need_a_box_of_known_length_as_in_training(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    predictor = load(runs("wide"), device="cpu")
    cubes = cubes_at(19, (7.5,), seed=5)
    unknown = write_store(tmp_path / "unknown.zarr", cubes, (7.5,), box_length_cmpc=None)
    with pytest.raises(ConfigError, match="in cMpc, but the length of this box is unknown; supply"):
        predict_store(predictor, unknown, tmp_path / "predicted.zarr")
    small = write_store(tmp_path / "small.zarr", cubes, (7.5,), box_length_cmpc=11.0)
    with pytest.raises(ConfigError, match=r"at most a quarter of the box, 2\.75 cMpc, got 3 cMpc"):
        predict_store(predictor, small, tmp_path / "predicted.zarr")
    in_cells = {**(predictor.trained or {}), "cell_sizes_cmpc": [0.0]}
    with pytest.raises(ConfigError, match="in cells, on boxes of unknown length"):
        check_store(predictor.config, in_cells, odd_store, [7.5])
    assert not (tmp_path / "predicted.zarr").exists()
    fits = write_store(tmp_path / "fits.zarr", cubes, (7.5,), layout=Layout(19, 4, 12))
    pointwise = load(runs("multiscale"), device="cpu")
    with pytest.raises(MemoryBudgetError, match="smoothing a box of 19 cells"):
        predict_store(pointwise, fits, tmp_path / "predicted.zarr", memory_bytes=130_000)


def test_a_stopped_prediction_goes_on_where_it_was(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    predictor = load(runs("residual"), device="cpu")
    predict_store(predictor, odd_store, tmp_path / "whole.zarr")
    target = tmp_path / "predicted.zarr"

    def stop(done: int, total: int) -> None:
        if done > total // 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_store(predictor, odd_store, target, on_progress=stop)
    assert not target.exists()
    other = load(runs("pointwise"), device="cpu")
    with pytest.raises(StoreExistsError, match="another build of this store was not finished"):
        predict_store(other, odd_store, target)
    seen: list[int] = []
    predict_store(predictor, odd_store, target, on_progress=lambda done, _: seen.append(done))
    assert 0 < seen[0] < 2 * 19**3
    for redshift in REDSHIFTS:
        np.testing.assert_array_equal(
            CubeStore.open(target).read_field("xhii_predicted", redshift),
            CubeStore.open(tmp_path / "whole.zarr").read_field("xhii_predicted", redshift),
        )
    with pytest.raises(StoreExistsError, match="already exists"):
        predict_store(predictor, odd_store, target)
    predict_store(other, odd_store, target, overwrite=True, redshifts=[7.5])
    assert CubeStore.open(target).redshifts == (7.5,)


def test_a_prediction_killed_before_its_first_part_begins_anew(
    runs: Callable[[str], RunFolder],
    odd_store: CubeStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predictor, target = load(runs("residual"), device="cpu"), tmp_path / "predicted.zarr"

    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ionmodel.predicted_store.create_store", stop)
        with pytest.raises(KeyboardInterrupt):
            predict_store(predictor, odd_store, target)
    predict_store(predictor, odd_store, target)
    assert CubeStore.open(target).redshifts == odd_store.redshifts


def test_ranks_share_out_the_shards(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    command = ["predict", "--run", str(runs("wide").path), "--store", str(odd_store.path)]
    script = tmp_path / "command.py"
    script.write_text("from ioncli.main import ionmodel\nionmodel()\n")
    shared = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    result = subprocess.run(
        [
            *shared,
            "--",
            str(script),
            *command,
            "--out",
            str(tmp_path / "two.zarr"),
            "--device",
            "cpu",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Wrote") == 1
    refused = subprocess.run(
        [*shared, "--", str(script), *command, "--out", str(tmp_path / "two.zarr")],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert refused.returncode != 0
    assert "two.zarr: already exists" in refused.stderr
    assert "broadcast_object_list" not in refused.stderr  # no rank waits in vain for the first
    predict_store(load(runs("wide"), device="cpu"), odd_store, tmp_path / "one.zarr")
    for redshift in REDSHIFTS:
        one, two = (
            CubeStore.open(tmp_path / f"{name}.zarr").read_field("xhii_predicted", redshift)
            for name in ("one", "two")
        )
        np.testing.assert_allclose(two, one, atol=1e-6)


def test_memory_decides_the_tile(runs: Callable[[str], RunFolder], odd_store: CubeStore) -> None:
    predictor = load(runs("residual"), device="cpu")
    plan = plan_prediction(predictor, odd_store)
    assert plan.tile == 64
    tight = plan_prediction(predictor, odd_store, memory_bytes=plan.memory_bytes - 1)
    assert tight.tile < plan.tile
    assert tight.memory_bytes < plan.memory_bytes
    with pytest.raises(MemoryBudgetError, match=r"takes 1 MB at least.*got 0 MB; raise the mem"):
        plan_prediction(predictor, odd_store, memory_bytes=1)
    assert largest_tile(predictor.network, tile_bytes(predictor.network, 32)) == 32
    with pytest.raises(NotInStoreError):
        plan_prediction(predictor, odd_store, redshifts=[8.0])


def test_what_is_unlike_training_is_told_with_numbers(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    predictor = load(runs("residual"), device="cpu")
    assert check_store(predictor.config, predictor.trained, odd_store, REDSHIFTS) == []
    cubes = cubes_at(19, (12.0,), seed=5)
    cubes["n_src"] = (cubes["n_src"] * 4).astype(cubes["n_src"].dtype)
    other = write_store(tmp_path / "other.zarr", cubes, (12.0,), box_length_cmpc=100.0)
    told = check_store(predictor.config, predictor.trained, other, [12.0])
    text = "\n".join(told)
    assert "a cell is 5.263 cMpc; the network was trained with" in text
    assert "redshift 12 lies outside of 7.5 to 9" in text
    assert "the mean of n_src at redshift 12 is" in text
    assert check_store(predictor.config, None, other, [12.0])[0].startswith("the run does not say")


def test_a_folder_without_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="expected a run with at least one finished epoch"):
        load(tmp_path)
