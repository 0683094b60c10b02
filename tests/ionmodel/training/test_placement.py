"""Where fields live while a network trains: the choice, and that it changes no number."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ionmodel.errors import Interrupted
from ionmodel.runs.folder import RunFolder
from ionmodel.training import data
from ionmodel.training.data import open_training_data
from ionmodel.training.events import TrainingProgress, TrainingReporter
from ionmodel.training.placement import FieldPlacement, free_bytes, place_fields
from ionmodel.training.training import train_run
from ionstore.sampling.memory import bytes_for_fields
from ionstore.sampling.settings import LoaderSettings
from ionstore.store.cube_store import CubeStore
from tests.ionmodel.conftest import ConfigMaker
from tests.support.tiny_tiles import tiny

FITS = {"field_bytes": 500, "budget_bytes": 500, "free_device_bytes": 1000, "num_workers": 0}


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_only_cuda_keeps_fields(device: str) -> None:
    assert place_fields(device, **FITS) == FieldPlacement(on_device=False, pin_memory=False)


def test_fields_that_fit_live_on_the_gpu() -> None:
    placed = place_fields("cuda", **FITS)
    assert placed.on_device
    assert not placed.pin_memory
    assert placed.sentence == "all fields are kept in the memory of the GPU and cut there"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("budget_bytes", 499, "they do not fit memory_budget"),
        ("free_device_bytes", 999, "more than half of the 999 B that are free on the GPU"),
        ("num_workers", 2, "num_workers = 2 asks for worker processes"),
    ],
)
def test_other_fields_stay_in_main_memory_and_batches_are_pinned(
    key: str, value: int, reason: str
) -> None:
    placed = place_fields("cuda", **{**FITS, key: value})
    assert placed.pin_memory
    assert not placed.on_device
    assert placed.sentence.startswith("the fields stay in main memory")
    assert reason in placed.sentence


def test_devices_without_memory_of_their_own_have_none_free() -> None:
    assert free_bytes(torch.device("cpu")) == 0


class Notes(TrainingReporter):
    """Keeps notes, and stops in the second epoch where asked to."""

    def __init__(self, *, stops: bool = False) -> None:
        self.notes: list[str] = []
        self._stops, self._epoch = stops, 0

    def note(self, sentence: str) -> None:
        """Keep it."""
        self.notes.append(sentence)

    def batch(self, progress: TrainingProgress) -> None:
        """Keep the epoch."""
        self._epoch = progress.epoch

    def should_stop(self) -> bool:
        """Stop in the second epoch."""
        return self._stops and self._epoch == 2


def place_on_cpu(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Have fields kept "on the device" though it is the CPU; return the numbers asked for."""
    asked: list[dict[str, Any]] = []

    def place(device_type: str, **numbers: int) -> FieldPlacement:
        asked.append(numbers)
        return FieldPlacement(on_device=True, sentence="all fields are kept there")

    monkeypatch.setattr(data, "place_fields", place)
    return asked


def make(kind: str, tiny_config: ConfigMaker) -> Any:
    """Return a configuration of tiles that sees the redshift, or of neighborhoods."""
    return tiny(redshift_input=True) if kind == "tiles" else tiny_config()


@pytest.mark.usefixtures("rendered_figures")
@pytest.mark.parametrize("kind", ["tiles", "neighborhoods"])
def test_where_fields_live_changes_no_number(
    store: CubeStore,
    tiny_config: ConfigMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    config = make(kind, tiny_config)
    host = Notes()
    expected = train_run(config, [store], RunFolder(tmp_path / "host"), reporter=host)
    assert host.notes == []
    # A run may be stopped with its fields in main memory and go on with them on the device.
    run = RunFolder(tmp_path / "moved")
    with pytest.raises(Interrupted):
        train_run(config, [store], run, reporter=Notes(stops=True))
    place_on_cpu(monkeypatch)
    moved = Notes()
    found = train_run(config, [store], run, reporter=moved)
    assert moved.notes == ["all fields are kept there"]
    numbers = ["train_loss", "validation_loss", "validation_r2"]
    assert [[entry[name] for name in numbers] for entry in found.history] == [
        [entry[name] for name in numbers] for entry in expected.history
    ]


@pytest.mark.parametrize("kind", ["tiles", "neighborhoods"])
def test_bytes_are_those_of_the_loaders(
    store: CubeStore, tiny_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    config = make(kind, tiny_config)
    with open_training_data(config, [store]) as on_host:
        assert on_host.train.stats.mode == "resident"
        batch_bytes = on_host.train.stats.batch_bytes // LoaderSettings(1).n_slots
    asked = place_on_cpu(monkeypatch)
    with open_training_data(config, [store]) as on_device:
        assert on_device.train.stats.mode == on_device.validation.stats.mode == "device"
        assert asked[0]["field_bytes"] == on_device.train.stats.decoded_bytes
    assert asked[0]["budget_bytes"] == bytes_for_fields(config.memory_budget, batch_bytes)
    assert asked[0]["num_workers"] == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("rendered_figures")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_gpu_trains_about_as_a_cpu(store: CubeStore, tmp_path: Path, num_workers: int) -> None:
    def result(device: str, reporter: TrainingReporter) -> Any:
        config = tiny(device=device, num_workers=num_workers)
        return train_run(config, [store], RunFolder(tmp_path / device), reporter=reporter)

    notes = Notes()
    on_gpu, on_cpu = result("cuda", notes), result("cpu", Notes())
    where = "the fields stay in main memory" if num_workers else "all fields are kept in the memory"
    assert notes.notes[0].startswith(where)
    assert on_gpu.history[0]["train_loss"] == pytest.approx(
        on_cpu.history[0]["train_loss"], rel=1e-2
    )
