"""Whole boxes from store to store, predicted as their cells would be one by one."""

import shutil
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from xxhash import xxh3_128

from ionmodel.errors import RunFolderError
from ionmodel.prediction.predictor import load
from ionmodel.prediction.store import predict_store
from ionmodel.ranks import Ranks
from ionmodel.runs.folder import RunFolder
from ionstore.edit import edit_store
from ionstore.errors import StoreExistsError
from ionstore.storage.s3 import ObjectPath
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Layout
from tests.support.object_server import upload
from tests.support.predicted_runs import FAMILIES, REDSHIFTS, Told, cell_by_cell, lively
from tests.support.stores import cubes_at, write_store


@pytest.mark.parametrize("family", FAMILIES)
def test_a_predicted_store_holds_what_each_cell_would_be_alone(
    family: str, runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    predictor = lively(load(runs(family), device="cpu"))
    target = tmp_path / "predicted.zarr"
    told = Told()
    predict_store(predictor, odd_store, str(target), reporter=told)
    seen = told.done
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


def test_the_store_that_is_predicted_from_is_never_replaced(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    (tmp_path / "link.zarr").symlink_to(odd_store.path)
    predictor = load(runs("residual"), device="cpu")
    inside = Path(odd_store.path, "xhii", "predicted.zarr")
    for target in (Path(odd_store.path), tmp_path / "link.zarr", inside):
        with pytest.raises(StoreExistsError, match="the store that is predicted from"):
            predict_store(predictor, odd_store, target, overwrite=True)
    assert "n_igm" in CubeStore.open(odd_store.path).field_names


def test_a_run_of_more_redshifts_than_the_store_holds_predicts_it(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    predictor = load(runs("multiscale"), device="cpu")
    config = predictor.config.model_copy(update={"redshifts": REDSHIFTS})
    cubes = {name: odd_store.read_field(name, 9.0)[None] for name in ("n_igm", "n_src", "xhii")}
    one = write_store(tmp_path / "one.zarr", cubes, (9.0,), layout=Layout(19, 4, 12))
    predict_store(replace(predictor, config=config), one.path, tmp_path / "predicted.zarr")
    assert CubeStore.open(tmp_path / "predicted.zarr").redshifts == (9.0,)


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
        predict_store(predictor, odd_store, target, reporter=Told(on_progress=stop))
    assert not target.exists()
    other = load(runs("pointwise"), device="cpu")
    with pytest.raises(StoreExistsError, match="an unfinished prediction is there"):
        predict_store(other, odd_store, target)
    told = Told()
    predict_store(predictor, odd_store, target, reporter=told)
    first_done, (plan,) = told.done[0][0], told.plans
    assert 0 < first_done < 2 * 19**3
    assert (plan.n_cells, plan.n_cells_left) == (2 * 19**3, 2 * 19**3 - first_done)
    for redshift in REDSHIFTS:
        np.testing.assert_array_equal(
            CubeStore.open(target).read_field("xhii_predicted", redshift),
            CubeStore.open(tmp_path / "whole.zarr").read_field("xhii_predicted", redshift),
        )
    with pytest.raises(StoreExistsError, match="already exists"):
        predict_store(predictor, odd_store, target)
    predict_store(other, odd_store, target, overwrite=True, redshifts=[7.5])
    assert CubeStore.open(target).redshifts == (7.5,)


def test_a_network_that_is_replaced_meanwhile_is_neither_recorded_nor_gone_on_with(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    run, target = RunFolder(tmp_path / "run"), tmp_path / "predicted.zarr"
    run.path.mkdir()
    content = runs("residual").best.read_bytes()
    run.best.write_bytes(content)
    predictor = load(run, device="cpu")
    run.best.write_bytes(runs("pointwise").best.read_bytes())  # a training goes on

    def stop(done: int, total: int) -> None:
        if done > total // 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_store(predictor, odd_store, target, reporter=Told(on_progress=stop))
    with pytest.raises(StoreExistsError, match="unfinished prediction is there, of another"):
        predict_store(load(run, device="cpu"), odd_store, target)
    predict_store(predictor, odd_store, target)
    files = {source.name: source for source in CubeStore.open(target).attributes.sources}
    assert files["best.pt"].digest == f"xxh3_128:{xxh3_128(content).hexdigest()}"
    assert files["best.pt"].size_bytes == len(content)


def test_several_shards_take_the_memory_of_one(
    runs: Callable[[str], RunFolder], tmp_path: Path
) -> None:
    redshifts = (9.0, 8.0, 7.5)
    store = write_store(tmp_path / "cubes.zarr", cubes_at(48, redshifts), redshifts)
    predictor = load(runs("residual"), device="cpu")

    def peak_bytes(name: str, redshifts: Sequence[float]) -> int:
        tracemalloc.start()
        try:
            predict_store(predictor, store, tmp_path / name, redshifts=redshifts)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    predict_store(predictor, store, tmp_path / "before.zarr")  # compiles what is compiled once
    assert peak_bytes("all.zarr", redshifts) < 1.2 * peak_bytes("one.zarr", [9.0])


def test_processes_that_loaded_different_networks_do_not_share_a_store(
    runs: Callable[[str], RunFolder],
    odd_store: CubeStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Second(Ranks):
        def from_first(self, make: Callable[[], Any]) -> Any:
            return "xxh3_128:0"

    monkeypatch.setattr("ionmodel.prediction.store.joined_ranks", lambda: nullcontext(Second(1, 2)))
    with pytest.raises(RunFolderError, match=r"best\.pt: all processes must predict with the same"):
        predict_store(load(runs("residual"), device="cpu"), odd_store, tmp_path / "predicted.zarr")
    assert list(tmp_path.iterdir()) == []


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
        patch.setattr("ionmodel.prediction.store.create_store", stop)
        with pytest.raises(KeyboardInterrupt):
            predict_store(predictor, odd_store, target)
    predict_store(predictor, odd_store, target)
    assert CubeStore.open(target).redshifts == odd_store.redshifts


def test_a_prediction_does_not_go_on_after_the_box_was_edited(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    path, target = tmp_path / "cubes.zarr", tmp_path / "predicted.zarr"
    shutil.copytree(odd_store.path, path)
    predictor = load(runs("multiscale"), device="cpu")

    def stop(done: int, total: int) -> None:
        if done > total // 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_store(predictor, CubeStore.open(path), target, reporter=Told(on_progress=stop))
    edit_store(path, box_length_cmpc=30.0)
    edited = CubeStore.open(path)
    assert edited.uuid == odd_store.uuid
    with pytest.raises(StoreExistsError, match="or from before the store was edited"):
        predict_store(predictor, edited, target)
    predict_store(predictor, edited, target, overwrite=True)
    predict_store(predictor, edited, tmp_path / "whole.zarr")
    for redshift in REDSHIFTS:
        np.testing.assert_array_equal(
            CubeStore.open(target).read_field("xhii_predicted", redshift),
            CubeStore.open(tmp_path / "whole.zarr").read_field("xhii_predicted", redshift),
        )
