"""What training shows: a bar below its notes in a terminal, lines anywhere else."""

import math
import re
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from ioncli import training_display as epochs
from ioncli.training_display import TrainingDisplay
from ionmodel.config.training_config import Leak
from ionmodel.training.events import TrainingProgress
from tests.support.terminal import ENVIRONMENT, run_in_terminal

SHOW = """
from math import nan
from ioncli.training_display import TrainingDisplay
from ionmodel.training.events import TrainingProgress
with TrainingDisplay() as display:
"""
ENTRY = {
    "epoch": 1, "train_loss": 0.25, "validation_loss": 0.5, "validation_r2": 0.75,
    "leaks": None, "learning_rate": 1e-3, "seconds": 12.4,
}  # fmt: skip
EPOCH_LINE = (
    "epoch   1  training loss 0.2500  validation loss 0.5000  R² 0.7500  "
    "learning rate 1.0e-03  12 s"
)


@pytest.fixture(autouse=True)
def _no_terminal_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ENVIRONMENT:
        monkeypatch.delenv(variable, raising=False)


def at(
    batch: int,
    stage: Literal["training", "validation"] = "training",
    *,
    epoch: int = 1,
    epochs: int = 2,
    r2: float = math.nan,
    leaks: Leak | None = None,
    cells_per_s: float = 1234.4,
) -> TrainingProgress:
    return TrainingProgress(stage, epoch, epochs, batch, 4, 0.125, r2, leaks, cells_per_s)


def in_terminal(*events: tuple[str, Any], columns: int = 80) -> str:
    """What a terminal gets when the display is told of events."""
    calls = [
        f"    display.{name}{event!r}"
        if isinstance(event, tuple)
        else f"    display.{name}({event!r})"
        for name, event in events
    ]
    return run_in_terminal(SHOW + "\n".join(calls), columns=columns)


def last_bar(output: str) -> str:
    """Text that is left on the line of the bar."""
    last = output.rsplit("\r\x1b[2K", maxsplit=1)[-1]
    return re.sub(r"\x1b\[[0-9?;]*[a-zA-Z]", "", last).rstrip("\r\n")


@pytest.mark.process
@pytest.mark.parametrize(
    ("progress", "texts"),
    [
        (at(1), ["epoch 1/2", " 12%", "loss 0.1250  R² -  1,234 cells/s"]),
        (at(2, epoch=2, r2=0.98765), ["epoch 2/2", " 75%", "R² 0.988  1,234 cells/s"]),
        (at(4, epoch=2, r2=-0.5), ["epoch 2/2", "100%", "R² -0.500"]),
        (at(4, epoch=2, r2=0.5, leaks="neighborhoods"), ["R² 0.500, leaks  1,234 cells/s"]),
        (at(1, leaks="neighborhoods", cells_per_s=0.21), ["R² -  0.21 cells/s"]),
        (at(1, cells_per_s=5.67), ["R² -  5.7 cells/s"]),
        (at(1, cells_per_s=math.nan), ["R² -  - cells/s"]),
    ],
    ids=["first batch", "second epoch", "last batch", "leaking", "slow", "few", "rate unknown"],
)
def test_a_terminal_shows_how_far_all_epochs_are(
    progress: TrainingProgress, texts: list[str]
) -> None:
    bar = last_bar(in_terminal(("batch", progress)))
    for text in texts:
        assert text in bar
    assert "━" in bar


@pytest.mark.process
def test_a_terminal_shows_validation_without_moving_the_bar() -> None:
    bar = last_bar(in_terminal(("batch", at(4)), ("batch", at(3, "validation"))))
    assert "validating 75%" in bar
    assert " 50%" in bar  # one epoch of two: all its training is done


@pytest.mark.process
def test_a_terminal_shows_how_many_channels_are_computed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    counts = [(0, 12), (3, 12)]
    bar = last_bar(in_terminal(*(("progress", count) for count in counts)))
    assert bar.startswith("derived channels ")
    assert " 25%" in bar
    done = in_terminal(("progress", (3, 12)), ("progress", (12, 12)), ("batch", at(1)))
    assert last_bar(done).startswith("epoch 1/2 ")
    with TrainingDisplay() as display:
        display.progress(3, 12)
    assert capsys.readouterr().err == ""


@pytest.mark.process
def test_the_bar_fits_a_narrow_terminal_whole() -> None:
    for stage in ("training", "validation"):
        progress = at(4, stage, epoch=100, epochs=100, r2=-0.123, leaks="neighborhoods")
        output = in_terminal(("batch", progress))
        assert "…" not in output
        assert output.count("\n") == 1


@pytest.mark.process
def test_notes_stand_whole_above_the_bar() -> None:
    note = "Run runs/a[bce]b:cat:: " + 100 * "x"
    output = in_terminal(
        ("stage", "timing a step"),
        ("batch", at(1)),
        ("say", note),
        ("epoch", ENTRY),
        ("batch", at(2)),
    )
    for line in ("Timing a step ...", note, EPOCH_LINE):
        assert f"\r\x1b[2K{line}\r\n" in output
    assert output.index(note) < output.index(EPOCH_LINE) < output.rindex("cells/s")


def test_other_outputs_get_a_line_an_epoch_and_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingDisplay() as display:
        display.stage("reading n_igm")
        for batch in range(1, 5):
            display.batch(at(batch))
        for batch in range(1, 5):
            display.batch(at(batch, "validation"))
        display.epoch(ENTRY)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["Reading n_igm ...", EPOCH_LINE]
    assert captured.out == ""


@pytest.mark.parametrize(
    ("r2", "leaks", "told"),
    [
        (0.75, "neighborhoods", "R² 0.7500, leaks  "),
        (0.75, "large scales", "R² 0.7500  "),
        (math.nan, "neighborhoods", "R² -  "),
    ],
)
def test_a_score_that_leaks_is_marked(
    capsys: pytest.CaptureFixture[str], r2: float, leaks: Leak, told: str
) -> None:
    with TrainingDisplay() as display:
        display.epoch({**ENTRY, "validation_r2": r2, "leaks": leaks})
    assert capsys.readouterr().err.splitlines() == [EPOCH_LINE.replace("R² 0.7500  ", told)]


def test_notes_elsewhere_are_whole_unwrapped_and_uncolored(
    capsys: pytest.CaptureFixture[str],
) -> None:
    note = "Run /runs/a[bce]b:cat: 3,000 'x' " + 300 * "x"
    with TrainingDisplay() as display:
        display.say(note)
    assert capsys.readouterr().err == note + "\n"


def test_a_long_epoch_gets_lines_of_its_batches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 0.0
    monkeypatch.setattr(epochs, "time", SimpleNamespace(monotonic=lambda: seconds))
    with TrainingDisplay() as display:
        for number in range(8):  # 20 s each
            stage: Literal["training", "validation"] = "training" if number < 4 else "validation"
            display.batch(at(number % 4 + 1, stage, r2=0.5))
            seconds += 20
    numbers = "loss 0.1250  R² 0.500  1,234 cells/s"
    assert capsys.readouterr().err.splitlines() == [
        f"epoch 1/2  training batch 3/4  {numbers}",
        f"epoch 1/2  validation batch 1/4  {numbers}",
        f"epoch 1/2  validation batch 3/4  {numbers}",
    ]


@pytest.mark.process
def test_an_error_passes_through_and_ends_the_bar() -> None:
    code = SHOW.replace("with TrainingDisplay", "try:\n  with TrainingDisplay").rstrip() + (
        "\n    raise ZeroDivisionError\nexcept ZeroDivisionError:\n  pass\n"
    )
    assert run_in_terminal(code).endswith("\x1b[?25h")  # the cursor is back
