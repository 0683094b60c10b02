"""Fields in, a predicted box out: as cell by cell, wherever the box is cut."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ionmodel.errors import ConfigError, RunFolderError, UnlikeTrainingWarning
from ionmodel.prediction.predictor import load
from ionmodel.prediction.store import predict_store
from ionmodel.runs.checkpoint import load_checkpoint, save_checkpoint
from ionmodel.runs.folder import RunFolder
from ionstore.errors import MemoryBudgetError
from ionstore.store.cube_store import CubeStore
from tests.support.predicted_runs import cell_by_cell, lively

TOLD = {"box_length_cmpc": 20.0}  # as the store that was trained on


def test_arrays_in_array_out(
    runs: Callable[[str], RunFolder], odd_store: CubeStore, tmp_path: Path
) -> None:
    predict = lively(load(str(runs("residual").path), device="cpu"))
    fields = {name: odd_store.read_field(name, 7.5) for name in ("n_igm", "n_src")}
    xhii = predict(fields, **TOLD)
    assert xhii.shape == (19, 19, 19)
    assert xhii.dtype == np.float32
    np.testing.assert_allclose(xhii, cell_by_cell(predict, odd_store, 7.5), atol=1e-5)
    shift = {"shift": (5, -3, 9), "axis": (0, 1, 2)}
    rolled = predict({name: np.roll(values, **shift) for name, values in fields.items()}, **TOLD)
    np.testing.assert_allclose(rolled, np.roll(xhii, **shift), atol=1e-5)
    with pytest.raises(ConfigError, match="needs the fields n_igm, n_src, got n_igm; add n_src"):
        predict({"n_igm": fields["n_igm"]})
    with pytest.raises(ConfigError, match="cubes of one mesh"):
        predict({"n_igm": fields["n_igm"], "n_src": fields["n_src"][1:]})


@pytest.mark.parametrize("family", ["padded", "valid"])
def test_pooled_networks_take_arrays(
    family: str, runs: Callable[[str], RunFolder], odd_store: CubeStore
) -> None:
    predict = lively(load(runs(family), device="cpu"))
    fields = {name: odd_store.read_field(name, 7.5) for name in ("n_igm", "n_src")}
    xhii = predict(fields, **TOLD)
    shift = {"shift": (5, -3, 9), "axis": (0, 1, 2)}
    rolled = predict({name: np.roll(values, **shift) for name, values in fields.items()}, **TOLD)
    np.testing.assert_allclose(rolled, np.roll(xhii, **shift), atol=1e-5)
    np.testing.assert_allclose(xhii, cell_by_cell(predict, odd_store, 7.5), atol=1e-5)


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
    with pytest.warns(
        UnlikeTrainingWarning, match=r"redshift 12 is far from those of the training, 7\.5 to 9"
    ):
        other = predict(fields, **{**told, "redshift": 12.0})
    assert np.abs(other - xhii).max() > 1e-4
    with pytest.warns(UnlikeTrainingWarning, match=r"this box: a cell is 1\.579 cMpc; the network"):
        other = predict(fields, **{**told, "box_length_cmpc": 30.0})
    assert np.abs(other - xhii).max() > 1e-4
    with pytest.raises(ConfigError, match="the network sees the redshift, got none; give redshift"):
        predict(fields, box_length_cmpc=20.0)
    with pytest.raises(
        ConfigError, match=r"averages over balls \(n_igm_top_hat_2\).* give box_len"
    ):
        predict(fields, redshift=7.5)
    with pytest.raises(ConfigError, match="needs boxes of at least 18 cMpc, got 10 cMpc"):
        predict(fields, redshift=7.5, box_length_cmpc=10.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_predicts_as_a_cpu(runs: Callable[[str], RunFolder], odd_store: CubeStore) -> None:
    fields = {name: odd_store.read_field(name, 7.5) for name in ("n_igm", "n_src")}
    on_gpu, on_cpu = (lively(load(runs("residual"), device=name)) for name in ("cuda", "cpu"))
    np.testing.assert_allclose(on_gpu(fields, **TOLD), on_cpu(fields, **TOLD), atol=1e-5)


def test_precision_is_full_while_predicting_and_as_it_was_after(
    runs: Callable[[str], RunFolder],
) -> None:
    predict = load(runs("residual"), device="cpu")
    seen = []
    predict.network.register_forward_pre_hook(
        lambda module, inputs: seen.append(torch.backends.cudnn.conv.fp32_precision)
    )
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    try:
        predict._run(predict.network, np.zeros((1, 2, 5, 5, 5), np.float32))
        assert torch.backends.cudnn.conv.fp32_precision == "tf32"
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
    assert seen == ["ieee"]


def test_a_folder_without_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="expected a run with at least one finished epoch"):
        load(tmp_path)
    (tmp_path / "best.pt").touch()
    with pytest.raises(RunFolderError, match=r"best\.pt: expected the folder of a run, got a file"):
        load(tmp_path / "best.pt")


def test_whatever_numpy_makes_cubes_of_is_taken(
    runs: Callable[[str], RunFolder], odd_store: CubeStore
) -> None:
    predict = lively(load(runs("residual"), device="cpu"))
    fields = {name: odd_store.read_field(name, 7.5) for name in ("n_igm", "n_src")}
    expected = predict(fields, **TOLD)
    others = {"n_igm": torch.from_numpy(fields["n_igm"]), "n_src": fields["n_src"].tolist()}
    np.testing.assert_array_equal(predict({**others, "unused": "text"}, **TOLD), expected)
    wide = {name: np.asfortranarray(field, np.float64) for name, field in fields.items()}
    np.testing.assert_allclose(predict(wide, **TOLD), expected, atol=1e-6)
    swapped = {name: field.astype(field.dtype.newbyteorder()) for name, field in fields.items()}
    np.testing.assert_array_equal(predict(swapped, **TOLD), expected)  # as FITS files hold them
    short = {**fields, "n_src": np.ma.masked_array(fields["n_src"].astype(np.float16))}
    np.testing.assert_array_equal(predict(short, **TOLD), expected)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("n_igm", lambda field: field + 0j, "n_igm must hold real numbers, got complex64"),
        ("n_src", lambda field: field.astype(str), "n_src must hold real numbers, got <U"),
        (
            "n_igm",
            lambda field: np.where(field > field.mean(), field, np.nan),
            r"n_igm must be finite everywhere, got [\d,]+ of 6,859 cells that are not; fill them",
        ),
        ("n_igm", lambda field: 0 * field, "n_igm must not be 0 on average.*; give a box with gas"),
        ("n_igm", lambda field: field[:0, :0, :0], "cubes of one mesh"),
        ("n_src", lambda field: field[0], "cubes of one mesh"),
        (
            "n_igm",
            lambda field: field / field.mean() - 1,
            r"n_igm must not be negative, got values down to -0\.\d+; .*, not as overdensity",
        ),
        (
            "n_src",
            lambda field: -field.astype(float),
            "n_src must not be negative, got .*training$",
        ),
        (
            "n_src",
            lambda field: np.ma.masked_array(field, field == 0),
            "n_src must be given everywhere, got an array with masked cells",
        ),
        (
            "n_igm",
            lambda field: torch.ones(field.shape, dtype=torch.bfloat16),
            "n_igm must be an array of numbers: Got unsupported ScalarType BFloat16",
        ),
    ],
)
def test_fields_that_are_none_are_refused(
    name: str,
    change: Callable[[np.ndarray], np.ndarray],
    message: str,
    runs: Callable[[str], RunFolder],
    odd_store: CubeStore,
) -> None:
    predict = load(runs("residual"), device="cpu")
    fields = {name: odd_store.read_field(name, 7.5) for name in ("n_igm", "n_src")}
    with pytest.raises(ConfigError, match=message), np.errstate(all="ignore"):
        predict({**fields, name: change(fields[name])}, **TOLD)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"box_length_cmpc": 0.0}, "box_length_cmpc must be one positive number, got 0"),
        ({"box_length_cmpc": np.inf}, "box_length_cmpc must be one positive number, got inf"),
        ({"box_length_cmpc": "19"}, "box_length_cmpc must be one positive number, got '19'"),
        ({"box_length_cmpc": np.array([1.0, 2.0])}, "box_length_cmpc must be one positive number"),
        ({"box_length_cmpc": True}, "box_length_cmpc must be one positive number, got True"),
        ({"redshift": -2.0}, "redshift must be one number from 0 on, got -2"),
        ({"redshift": np.nan}, "redshift must be one number from 0 on, got nan"),
        ({"redshift": [7.5]}, r"redshift must be one number from 0 on, got \[7.5\]"),
        ({"box_length_cmpc": 11.0}, "this box: the network .* of at least 12 cMpc, got 11 cMpc"),
    ],
)
def test_what_no_box_has_is_refused(
    told: dict[str, Any], message: str, runs: Callable[[str], RunFolder], odd_store: CubeStore
) -> None:
    predict = load(runs("wide"), device="cpu")
    fields = {name: odd_store.read_field(name, 7.5) for name in ("n_igm", "n_src")}
    with pytest.raises(ConfigError, match=message):
        predict(fields, **{"redshift": 7.5, **TOLD, **told})


def test_what_is_unlike_training_is_a_warning(
    runs: Callable[[str], RunFolder], odd_store: CubeStore
) -> None:
    predict = load(runs("residual"), device="cpu")
    fields = {name: odd_store.read_field(name, 7.5) for name in ("n_igm", "n_src")}
    with pytest.warns(UnlikeTrainingWarning, match="the size of a cell is unknown; the network"):
        predict(fields)
    with pytest.warns(UnlikeTrainingWarning) as told:
        predict({**fields, "n_src": fields["n_src"] * 1e10}, redshift=7.5, **TOLD)
    assert [str(one.message).split(" is ")[0] for one in told] == [
        "the mean of n_src at redshift 7.5",
        "the scatter of n_src at redshift 7.5",
    ]
    assert told[0].filename == __file__
    with pytest.warns(UnlikeTrainingWarning, match="the relative scatter of n_igm is"):
        predict({**fields, "n_igm": fields["n_src"]}, **TOLD)


def test_a_length_is_not_taken_where_radii_are_in_cells(
    runs: Callable[[str], RunFolder], odd_store: CubeStore
) -> None:
    known = load(runs("wide"), device="cpu")
    assert known.trained is not None
    predict = replace(known, trained={**known.trained, "cell_sizes_cmpc": [0.0]})
    fields = {name: odd_store.read_field(name, 7.5) for name in ("n_igm", "n_src")}
    with pytest.raises(ConfigError, match=r"top_hat_3 in cells, on boxes of unknown.*leave it out"):
        predict(fields, redshift=7.5, **TOLD)


def test_a_checkpoint_without_all_weights_is_refused(
    runs: Callable[[str], RunFolder], tmp_path: Path
) -> None:
    content = load_checkpoint(runs("residual").best)
    content["model"].popitem()
    content.pop("format_version")
    save_checkpoint(tmp_path / "best.pt", content)
    with pytest.raises(RunFolderError, match="expected the weights and the normalization"):
        load(tmp_path)


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_as_it_was(
    runs: Callable[[str], RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best, newer = tmp_path / "best.pt", tmp_path / "newer.pt"
    best.write_bytes(runs("residual").best.read_bytes())
    newer.write_bytes(runs("pointwise").best.read_bytes())

    def load_meanwhile(path: Path, *, on_bytes: Callable[[bytes], object]) -> dict[str, Any]:
        def take(piece: bytes) -> None:
            on_bytes(piece)
            if newer.exists():
                newer.replace(path)  # as training does

        return load_checkpoint(path, on_bytes=take)

    monkeypatch.setattr("ionmodel.prediction.predictor.load_checkpoint", load_meanwhile)
    predictor, other = load(tmp_path, device="cpu"), load(runs("residual"), device="cpu")
    assert not newer.exists()
    assert predictor.config == other.config
    assert (predictor.digest, predictor.size_bytes) == (other.digest, other.size_bytes)


def _full(*arguments: object, **options: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_device_without_memory_for_a_tile_is_one_sentence(
    runs: Callable[[str], RunFolder],
    odd_store: CubeStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predict = load(runs("residual"), device="cpu")
    monkeypatch.setattr(torch.nn.Conv3d, "_conv_forward", _full)
    fields = {name: odd_store.read_field(name, 7.5) for name in ("n_igm", "n_src")}
    with pytest.raises(MemoryBudgetError, match=r"free memory of device cpu.*lower the memory of"):
        predict(fields, **TOLD)
    with pytest.raises(MemoryBudgetError, match=r"free memory of device cpu.*lower the memory of"):
        predict_store(predict, odd_store, tmp_path / "predicted.zarr")
    assert list(tmp_path.iterdir()) == []


def test_a_device_without_memory_for_the_network_is_one_sentence(
    runs: Callable[[str], RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs("residual")
    monkeypatch.setattr(torch.nn.Module, "to", _full)
    with pytest.raises(MemoryBudgetError, match=r"must fit the free memory of device cpu"):
        load(run, device="cpu")


@pytest.mark.parametrize(("seconds", "timed"), [(0.1, [8, 8, 256, 256]), (10.0, [8, 8])])
def test_as_many_neighborhoods_are_timed_as_are_predicted_together_unless_they_take_long(
    seconds: float,
    timed: list[int],
    runs: Callable[[str], RunFolder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predictor = load(runs("padded"), device="cpu")
    batches: list[int] = []
    predictor.network.register_forward_pre_hook(
        lambda module, inputs: batches.append(len(inputs[0]))
    )
    clock = itertools.count(step=seconds)
    monkeypatch.setattr(
        "ionmodel.prediction.predictor.time", SimpleNamespace(perf_counter=lambda: next(clock))
    )
    per_cell = predictor.seconds_per_cell(64)
    assert batches == timed
    assert per_cell == pytest.approx(seconds / timed[-1])


def test_predictions_that_are_no_numbers_are_refused(
    runs: Callable[[str], RunFolder], odd_store: CubeStore
) -> None:
    predict = load(runs("residual"), device="cpu")
    with torch.no_grad():
        next(predict.network.parameters()).fill_(np.nan)
    fields = {name: odd_store.read_field(name, 7.5) for name in ("n_igm", "n_src")}
    with pytest.raises(ConfigError, match="finite numbers, got others in this box; the fields are"):
        predict(fields, **TOLD)


def test_fields_come_by_name(runs: Callable[[str], RunFolder]) -> None:
    predict = load(runs("residual"), device="cpu")
    with pytest.raises(ConfigError, match=r"got list; give \{'n_igm': \.\.\., 'n_src': \.\.\.\}"):
        predict([np.ones((8, 8, 8))] * 2)  # type: ignore[arg-type]
