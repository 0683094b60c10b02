"""``ionmodel predict`` as a user meets it."""

import itertools
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from ioncli.main import ionmodel, ionstore
from ioncli.predict import predict
from ionmodel.prediction.plan import DEFAULT_MEMORY_BYTES
from ionmodel.prediction.predictor import load
from ionstore.build.parts import write_part
from ionstore.ingest.ingest import ingest_cubes
from ionstore.store.cube_store import CubeStore
from tests.support.stores import cubes_at, write_store
from tests.support.three_file_sets import PREFIXES, write_set
from tests.support.told import Told

TINY = ["radius=1", "width=4", "tile=4", "samples_per_epoch=64", "epochs=1", "device=cpu"]
SCALES = "scales=[2.0, 4.5]"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CubeStore:
    path = tmp_path_factory.mktemp("stores") / "cubes.zarr"
    return write_store(path, cubes_at(19, (9.0, 7.5), seed=3), (9.0, 7.5))


@pytest.fixture(scope="module")
def run(store: CubeStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "tiny"
    options = [word for option in (*TINY, SCALES) for word in ("-o", option)]
    trained = invoke("train", "--store", str(store.path), "--run", str(path), *options)
    assert trained.exit_code == 0, trained.output
    return path


def invoke(*arguments: str, program: click.Command = ionmodel) -> Result:
    return CliRunner().invoke(program, arguments)


def test_a_box_is_announced_predicted_and_summed_up(
    run: Path, store: CubeStore, tmp_path: Path
) -> None:
    out = tmp_path / "predicted.zarr"
    arguments = ("predict", "--run", str(run), "--store", str(store.path), "--out", str(out))
    result = invoke(*arguments, "--redshift", "7.5")
    assert result.exit_code == 0, result.output
    assert "6,859 cells at 1 redshift in tiles of 19³ cells, on cpu: about" in result.stderr
    assert "Predicting: 100 %" in result.stderr
    values = CubeStore.open(out).read_field("xhii_predicted", 7.5)
    assert f"redshift 7.5: mean predicted xHII by volume {values.mean():.4f}" in result.stdout
    assert result.stdout.endswith(f"Next: ionstore view {out} --field xhii_predicted\n")
    again = invoke(*arguments)
    assert again.exit_code == 1
    assert again.stderr.startswith("Error: ")
    assert "already exists" in again.stderr
    both = invoke(*arguments, "--overwrite")
    words = shlex.split(both.stdout.splitlines()[-1].removeprefix("Next: ionstore "))
    shown = invoke(*words, "--output", str(tmp_path / "slice.png"), program=ionstore)
    assert shown.exit_code == 0, shown.output


def test_what_is_left_is_announced_and_counted(
    run: Path, store: CubeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "predicted.zarr"
    arguments = ("predict", "--run", str(run), "--store", str(store.path), "--out", str(out))
    n_written = itertools.count(1)

    def stop_after_one(*told: Any) -> None:
        write_part(*told)
        if next(n_written) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("ionmodel.prediction.store.write_part", stop_after_one)
    stopped = invoke(*arguments)
    assert stopped.exit_code == 130
    assert "13,718 cells at 2 redshifts in tiles" in stopped.stderr
    clock = iter([0.0, 6859.0])  # a second for each cell that is left
    monkeypatch.setattr("ioncli.predict.time", SimpleNamespace(monotonic=lambda: next(clock)))
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert "6,859 of 13,718 cells left at 2 redshifts in tiles" in result.stderr
    assert "6,859 of 13,718 cells in 1.9 h, 1,000,000 µs a cell; peak memory" in result.stdout


def test_a_prediction_that_was_stopped_at_its_end_has_no_pace(
    run: Path, store: CubeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "predicted.zarr"
    arguments = ("predict", "--run", str(run), "--store", str(store.path), "--out", str(out))

    def stop(*told: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ionmodel.prediction.store.merge_parts", stop)
        assert invoke(*arguments).exit_code == 130
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert "0 of 13,718 cells left at 2 redshifts in tiles" in result.stderr
    assert re.search(r"0 of 13,718 cells in \d+ s; peak memory", result.stdout)


def test_only_predictions_are_replaced(run: Path, store: CubeStore, tmp_path: Path) -> None:
    simulated, out = tmp_path / "sim", tmp_path / "cubes.zarr"
    write_set(simulated, 9)
    assert invoke("ingest", str(simulated), str(out), program=ionstore).exit_code == 0
    arguments = ("predict", "--run", str(run), "--store", str(store.path), "--out", str(out))
    refused = invoke(*arguments, "--overwrite")
    assert refused.exit_code == 1
    assert "--overwrite replaces predictions, this store holds n_igm, n_src, xhii" in refused.stderr
    assert "xhii" in CubeStore.open(out).field_names

    root = json.loads((out / "zarr.json").read_text())
    for change in ({"format_version": 99}, {"status": "building"}):
        changed = {**root, "attributes": {"ionstore": {**root["attributes"]["ionstore"], **change}}}
        (out / "zarr.json").write_text(json.dumps(changed))
        refused = invoke(*arguments, "--overwrite")
        assert refused.exit_code == 1
        assert "--overwrite replaces predictions, this store cannot be read" in refused.stderr
        assert (out / "xhii").exists()

    def kill(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest_cubes(simulated, tmp_path / "other.zarr", reporter=Told(on_progress=kill))
    refused = invoke(*arguments[:-1], str(tmp_path / "other.zarr"), "--overwrite")
    assert "an ingest into this store was not finished; finish it, or choose" in refused.stderr


def test_what_is_unlike_training_is_said_before_and_after(run: Path, tmp_path: Path) -> None:
    cubes = cubes_at(19, (12.0,), seed=4)
    other = write_store(tmp_path / "other.zarr", cubes, (12.0,), box_length_cmpc=25.0)
    out = tmp_path / "predicted.zarr"
    result = invoke("predict", "--run", str(run), "--store", str(other.path), "--out", str(out))
    assert result.exit_code == 0, result.output
    line = "redshift 12 is far from those of the training, 7.5 to 9"
    assert f"Note: {line}" in result.stderr
    assert f"  {line}\n" in result.stdout.split("Outside the training range:\n")[1]


def test_averages_of_another_box_show_their_progress(run: Path, tmp_path: Path) -> None:
    other = write_store(tmp_path / "other.zarr", cubes_at(19, (7.5,), seed=4), (7.5,))
    out = tmp_path / "predicted.zarr"
    result = invoke("predict", "--run", str(run), "--store", str(other.path), "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "Note: 4 derived channels, means within balls, are computed" in result.stderr
    assert "Derived channels: 50 %" in result.stderr
    assert list(tmp_path.glob("predicted.zarr?*")) == []
    fields = {name: other.read_field(name, 7.5) for name in ("n_igm", "n_src")}
    expected = load(run, device="cpu")(fields, box_length_cmpc=20.0)
    values = CubeStore.open(out).read_field("xhii_predicted", 7.5)
    np.testing.assert_allclose(values, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--memory", "1kB"], "takes 1.05 MB at least"),
        (["--redshift", "8"], "redshift"),
        (["--run", "nothing"], "expected a run with at least one finished epoch"),
        (["--store", "nothing.zarr"], "nothing.zarr"),
        (["--memory", "much"], "expected a size such as 800MB or 2GiB, got 'much'"),
    ],
)
def test_mistakes_are_one_sentence(
    options: list[str], message: str, run: Path, store: CubeStore, tmp_path: Path
) -> None:
    out = tmp_path / "predicted.zarr"
    arguments = ["--run", str(run), "--store", str(store.path), "--out", str(out)]
    result = invoke("predict", *arguments, *options)
    assert result.exit_code in {1, 2}
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_the_memory_of_the_command_is_that_of_the_library() -> None:
    context = predict.make_context("predict", ["--run", "runs/first"])
    assert context.params["memory"] == DEFAULT_MEMORY_BYTES


@pytest.mark.parametrize("inputs", [["n_igm", "n_src"], ["n_igm"]], ids="-".join)
def test_boxes_without_ionized_fractions_are_predicted_as_those_with_them(
    tmp_path: Path, inputs: list[str]
) -> None:
    write_set(tmp_path / "sim", 19)
    given = ("--box-length", "20", "--h", "0.7")
    whole, boxes = tmp_path / "whole.zarr", tmp_path / "boxes.zarr"
    ingest = ("ingest", str(tmp_path / "sim"))
    assert invoke(*ingest, str(whole), *given, program=ionstore).exit_code == 0
    lacking = {name: prefix for name, prefix in PREFIXES.items() if name not in inputs}
    for prefix in lacking.values():
        for path in (tmp_path / "sim").glob(f"{prefix}_*"):
            path.unlink()
    without = [word for name in lacking for word in ("--without", name)]
    made = invoke(*ingest, str(boxes), *given, *without, program=ionstore)
    assert made.exit_code == 0, made.output
    assert CubeStore.open(boxes).field_names == tuple(inputs)

    options = [word for one in (*TINY, SCALES, f"inputs={inputs}") for word in ("-o", one)]
    run = tmp_path / "run"
    refused = invoke("train", "--store", str(boxes), "--run", str(run), *options)
    assert refused.exit_code == 1
    assert refused.stderr.startswith("Error: ")
    assert "xhii" in refused.stderr
    trained = invoke("train", "--store", str(whole), "--run", str(run), *options)
    assert trained.exit_code == 0, trained.output
    predicted = []
    for store in (whole, boxes):
        out = store.with_suffix(".predicted")
        result = invoke("predict", "--run", str(run), "--store", str(store), "--out", str(out))
        assert result.exit_code == 0, result.output
        predicted.append([CubeStore.open(out).read_field("xhii_predicted", z) for z in (9.0, 7.5)])
    np.testing.assert_array_equal(predicted[0], predicted[1])
    assert np.ptp(predicted[0]) > 0
