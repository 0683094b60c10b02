"""Stores that can be trained on together, and boxes that a trained network can predict."""

import copy
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ionmodel.channels.base import boxes_of
from ionmodel.channels.periodic_field import PeriodicField
from ionmodel.errors import ConfigError
from ionmodel.prediction.predictor import load
from ionmodel.runs.compatibility import check_store, check_stores, check_workers, remarks
from ionmodel.runs.folder import RunFolder
from ionstore.edit import edit_store
from ionstore.errors import NotInStoreError
from ionstore.store.cube_store import CubeStore
from tests.ionmodel.conftest import ConfigMaker
from tests.support.predicted_runs import REDSHIFTS
from tests.support.stores import cubes_at, write_store


@pytest.fixture
def masses(tmp_path: Path) -> CubeStore:
    """A store whose sources are no counts; their unit and the density's frame are unknown."""
    cubes = cubes_at(16, (8.0,), seed=5)
    cubes["n_src"] = cubes["n_src"].astype("f4")
    store = write_store(tmp_path / "masses.zarr", cubes, (8.0,))
    root = store.path / "zarr.json"
    root.write_text(root.read_text().replace('"units": "1"', '"units": "unknown"'))
    return CubeStore.open(store.path)


def test_sources_in_different_units_are_refused(
    store: CubeStore, masses: CubeStore, tiny_config: ConfigMaker
) -> None:
    check_stores(tiny_config(), [masses])
    with pytest.raises(ConfigError) as refused:
        check_stores(tiny_config(), [store, masses])
    assert str(refused.value) == (
        f"n_src must have one unit in all stores, got 1 in {store.path} and unknown in "
        f"{masses.path}; supply it with `ionstore edit {masses.path} --n-src-unit`"
    )
    edited = edit_store(masses.path, n_src_unit="Msun")
    with pytest.raises(ConfigError, match=r"Msun in .* and 1 in .*; train on stores that agree"):
        check_stores(tiny_config(), [edited, store])
    check_stores(tiny_config(), [store, edit_store(masses.path, n_src_unit="1")])
    check_stores(tiny_config(inputs=["n_igm"]), [store, edited])


def test_densities_in_different_frames_are_refused_where_it_matters(
    store: CubeStore, tmp_path: Path, tiny_config: ConfigMaker
) -> None:
    other = write_store(tmp_path / "other.zarr", cubes_at(16, (8.0,)), (8.0,))
    other = edit_store(other.path, density_frame="comoving")
    check_stores(tiny_config(), [store, other])  # overdensities have no frame
    with pytest.raises(ConfigError, match=r"n_igm must have one frame .* --density-frame`$"):
        check_stores(tiny_config(transforms={"n_igm": "log1p"}), [store, other])


def test_a_store_given_twice_is_refused(
    store: CubeStore, tmp_path: Path, tiny_config: ConfigMaker
) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store.path, copy)
    for twin in (store, CubeStore.open(store.path), CubeStore.open(copy)):
        with pytest.raises(ConfigError, match="are the same store; give it once"):
            check_stores(tiny_config(), [store, twin])


def test_a_store_without_the_target_can_only_be_predicted(
    tmp_path: Path, tiny_config: ConfigMaker
) -> None:
    cubes = cubes_at(16, (8.0,))
    del cubes["xhii"]
    path = tmp_path / "boxes.zarr"
    with pytest.raises(ConfigError) as refused:
        check_stores(tiny_config(), [write_store(path, cubes, (8.0,))])
    assert str(refused.value) == (
        f"{path}: xhii is what networks are trained to predict, the store holds n_igm, n_src; "
        "ingest it with xhii, a store without it can only be predicted"
    )


def test_far_more_workers_than_processors_are_refused() -> None:
    most = 4 * (os.cpu_count() or 1)
    check_workers(most)
    with pytest.raises(ConfigError, match=f"^num_workers must be at most {most} here, .*, got 999"):
        check_workers(999)


def test_cells_of_other_sizes_are_remarked_on(tmp_path: Path, tiny_config: ConfigMaker) -> None:
    paths = [tmp_path / f"{name}.zarr" for name in "abc"]
    one, half, unknown = (
        write_store(path, cubes_at(16, (8.0,)), (8.0,), box_length_cmpc=length)
        for path, length in zip(paths, (20.0, 10.0, None), strict=True)
    )
    assert list(remarks(tiny_config(), [one, one])) == []
    assert list(remarks(tiny_config(), [one, half, unknown])) == [
        f"cells differ in size (1.25 cMpc in {paths[0]}, 0.625 cMpc in {paths[1]}, unknown in "
        f"{paths[2]}); the network sees the same number of cells in each store"
    ]
    assert list(remarks(tiny_config(), [unknown])) == []
    assert list(remarks(tiny_config(scales=[2.0]), [unknown])) == [
        "scales are in cells, not in cMpc, because the box length is unknown; supply it with "
        f"`ionstore edit {paths[2]} --box-length`"
    ]


def test_scales_that_repeat_the_field_are_remarked_on(
    store: CubeStore, tmp_path: Path, tiny_config: ConfigMaker
) -> None:
    config = tiny_config(inputs=["n_src"], scales=[0.3, 0.62, 0.7, 4.0])  # a cell is 1.25 cMpc
    field = store.read_field("n_src", 9.0).astype("f4")
    (box, _) = boxes_of(store)
    alone = [
        channel.name
        for channel in config.derived_channels
        if np.allclose(channel.compute(PeriodicField(field), box), field, atol=1e-5)
    ]
    assert alone == ["n_src_top_hat_0.3", "n_src_top_hat_0.62"]
    assert list(remarks(config, [store])) == [
        f"n_src_top_hat_0.3, n_src_top_hat_0.62 only repeat their field in {store.path}: balls of "
        "a radius up to half a cell, 0.625 cMpc, hold one cell; leave them out"
    ]


def test_missing_fields_and_redshifts_are_named(store: CubeStore, tiny_config: ConfigMaker) -> None:
    with pytest.raises(ConfigError, match=r"fields dust are needed, .*; change inputs"):
        check_stores(tiny_config(inputs=["n_igm", "dust"]), [store])
    with pytest.raises(NotInStoreError, match=r"one of 9, 7\.5"):
        check_stores(tiny_config(redshifts=[8.0]), [store])


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
    assert "redshift 12 is far from those of the training, 7.5 to 9" in text
    assert "the mean of n_src at redshift 12 is" in text
    assert check_store(predictor.config, None, other, [12.0])[0].startswith(
        "the run does not record"
    )


def test_an_empty_box_is_refused(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    predictor = load(runs("residual"), device="cpu")
    cubes = cubes_at(19, REDSHIFTS, seed=5)
    cubes["n_igm"][1] = 0
    empty = write_store(tmp_path / "empty.zarr", cubes, REDSHIFTS)
    check_store(predictor.config, predictor.trained, empty, REDSHIFTS[:1])
    message = r"empty\.zarr: n_igm must not be 0 on average.* an empty box at redshift 7\.5; choose"
    with pytest.raises(ConfigError, match=message):
        check_store(predictor.config, predictor.trained, empty, REDSHIFTS)
    with pytest.raises(ConfigError, match=message):
        check_stores(predictor.config, [empty])
    seen_as_it_is = predictor.config.model_copy(update={"transforms": {"n_igm": "identity"}})
    check_stores(seen_as_it_is, [empty])
    averages = {
        "scales": (2.0,),
        "transforms": {"n_igm": "identity", "n_igm_top_hat_2": "overdensity"},
    }
    with pytest.raises(ConfigError, match=message):
        check_stores(predictor.config.model_copy(update=averages), [empty])


@pytest.mark.parametrize(
    ("trained_with", "way_on"),
    [
        ("Msun", "got '1'; ingest it with that unit, or train on stores with '1'"),
        ("unknown", "got '1'; supply the unit of the training stores, and train again"),
    ],
)
def test_sources_in_another_unit_are_refused(
    trained_with: str, way_on: str, runs: Callable[[str], RunFolder], odd_store: CubeStore
) -> None:
    predictor = load(runs("residual"), device="cpu")
    trained = copy.deepcopy(dict(predictor.trained or {}))
    for name in ("n_igm", "n_src"):
        trained["fields"][name]["units"] = trained_with
    with pytest.raises(ConfigError, match=f"n_src must have the unit '{trained_with}' .*{way_on}"):
        check_store(predictor.config, trained, odd_store, REDSHIFTS)
    seen_as_it_is = predictor.config.model_copy(update={"transforms": {"n_igm": "identity"}})
    trained["fields"]["n_src"]["units"] = "1"
    check_store(predictor.config, trained, odd_store, REDSHIFTS)  # overdensities have no unit
    with pytest.raises(ConfigError, match=f"n_igm must have the unit '{trained_with}'"):
        check_store(seen_as_it_is, trained, odd_store, REDSHIFTS)
