"""What is unlike training is told, or refused."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest

from ionmodel.errors import ConfigError
from ionmodel.prediction.predictor import load
from ionmodel.runs.compatibility import check_store, check_stores
from ionmodel.runs.folder import RunFolder
from ionstore.store.cube_store import CubeStore
from tests.support.predicted_runs import REDSHIFTS
from tests.support.stores import cubes_at, write_store


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
    assert check_store(predictor.config, None, other, [12.0])[0].startswith("the run does not say")


def test_an_empty_box_is_refused(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    predictor = load(runs("residual"), device="cpu")
    cubes = cubes_at(19, REDSHIFTS, seed=5)
    cubes["n_igm"][1] = 0
    empty = write_store(tmp_path / "empty.zarr", cubes, REDSHIFTS)
    check_store(predictor.config, predictor.trained, empty, REDSHIFTS[:1])
    message = r"empty\.zarr: n_igm must not be 0 on average.* an empty box at redshift 7\.5; take"
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
        ("Msun", "got '1'; ingest it so, or train on stores with '1'"),
        ("unknown", "got '1'; supply it for the stores of the training, and train anew"),
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
