"""Figures of a run: whole PNG files, whatever the numbers."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.image import imread

from ionmodel.config.training_config import Leak
from ionmodel.training.evaluation import Floats, Predictions
from ionmodel.training.figures import draw_losses, draw_predictions

pytestmark = pytest.mark.usefixtures("rendered_figures")

RNG = np.random.default_rng(0)
TARGET = RNG.random(500)
NOISY = TARGET + RNG.normal(scale=0.1, size=500)


def predictions(target: Any, prediction: Any) -> Predictions:
    target, prediction = np.broadcast_arrays(target, prediction)
    wide: Floats = prediction.astype("f4")
    return Predictions(target.astype("f4"), wide, wide)


def history(
    validation_losses: list[float], scores: list[float], *, leaks: Leak | None = None
) -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "train_loss": loss + 0.1,
            "validation_loss": loss,
            "validation_r2": score,
            "leaks": leaks,
        }
        for epoch, (loss, score) in enumerate(zip(validation_losses, scores, strict=True), 1)
    ]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures in the order they are saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def noted(self: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", noted)
    return figures


def assert_whole_png(path: Path) -> None:
    assert list(path.parent.iterdir()) == [path]
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    image = imread(path)
    assert image.shape[:2] >= (400, 800)
    assert (image[..., :3] < 0.5).any()  # something is drawn


@pytest.mark.parametrize(
    ("losses", "scores"),
    [
        ([0.5], [0.3]),
        ([0.5], [math.nan]),
        ([0.5, 0.3, 0.4], [math.nan, math.nan, math.nan]),
        ([0.5, 0.3, 0.4], [math.nan, 0.7, 0.6]),
        ([0.3, 0.3], [0.7, 0.7]),
    ],
    ids=["one epoch", "one without R2", "none with R2", "some with R2", "all equal"],
)
def test_losses_are_drawn_whole(tmp_path: Path, losses: list[float], scores: list[float]) -> None:
    draw_losses(history(losses, scores), tmp_path / "loss.png", loss="mse")
    assert_whole_png(tmp_path / "loss.png")


def test_losses_show_every_epoch_from_one_and_mark_the_best(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    draw_losses(history([0.5, 0.3, 0.4], [0.1, 0.6, 0.7]), tmp_path / "loss.png", loss="bce")
    left, right = drawn[0].axes
    training, validation = left.lines
    assert np.asarray(training.get_xydata()).tolist() == [[1, 0.6], [2, 0.4], [3, 0.5]]
    assert np.asarray(validation.get_xydata()).tolist() == [[1, 0.5], [2, 0.3], [3, 0.4]]
    scores, best = right.lines
    assert np.asarray(scores.get_xydata()).tolist() == [[1, 0.1], [2, 0.6], [3, 0.7]]
    assert np.asarray(best.get_xydata()).tolist() == [[2, 0.6]]  # the least loss, not the best R²
    assert left.get_ylabel() == "binary cross-entropy"
    assert right.get_title().endswith("0.600")


@pytest.mark.parametrize("scores", [[math.nan], [math.nan, math.nan, 0.5], [0.5] * 40])
def test_both_panels_show_the_same_whole_epochs(
    tmp_path: Path, drawn: list[Figure], scores: list[float]
) -> None:
    draw_losses(history([0.5] * len(scores), scores), tmp_path / "loss.png", loss="mse")
    for axes in drawn[0].axes:
        low, high = axes.get_xlim()
        assert 0 < low < 1
        assert len(scores) < high < len(scores) + 1
        shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert shown
        assert all(tick == round(tick) for tick in shown)


def test_an_axis_is_not_stretched_over_next_to_nothing(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_losses(history([0.5], [0.42]), tmp_path / "loss.png", loss="mse")
    draw_losses(history([0.5, 0.4], [0.1, 0.9]), tmp_path / "loss.png", loss="mse")
    one, two = ([axes.get_ylim() for axes in figure.axes] for figure in drawn)
    assert one[1] == pytest.approx((0.37, 0.47))
    assert one[0][1] - one[0][0] >= 0.05
    assert two[1] == pytest.approx((0.06, 0.94))


@pytest.mark.parametrize(
    ("target", "prediction"),
    [
        (TARGET, NOISY),
        (np.full(50, 0.25), 0.75),
        (TARGET, 0.5),
        (0.25, NOISY),
        (TARGET, 3 * NOISY - 1),
        (TARGET, -5.0),
        (TARGET[:1], NOISY[:1]),
    ],
    ids=[
        "usual", "all equal", "predictions equal", "targets equal", "some outside", "all outside",
        "one cell",
    ],
)  # fmt: skip
def test_predictions_are_drawn_whole_and_no_cell_is_left_out(
    tmp_path: Path, drawn: list[Figure], target: Any, prediction: Any
) -> None:
    cells = predictions(target, prediction)
    draw_predictions(cells, tmp_path / "predicted_vs_true.png", leaks=None)
    assert_whole_png(tmp_path / "predicted_vs_true.png")
    left = drawn[0].axes[0]
    shown = next(artist for artist in left.collections if isinstance(artist, QuadMesh))
    assert np.ma.sum(shown.get_array()) == len(cells.target)
    n_cells = len(cells.target)
    assert left.get_title().startswith(f"{n_cells} validation cell" + "s, " * (n_cells > 1))


def test_true_values_run_to_the_right_and_predicted_ones_up(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    cells = predictions([0.1, 0.1], [0.9, 0.9])
    draw_predictions(cells, tmp_path / "predicted_vs_true.png", leaks=None)
    shown = drawn[0].axes[0].collections[0]
    counts = np.ma.filled(shown.get_array(), 0).reshape(50, 50)
    row, column = np.unravel_index(counts.argmax(), counts.shape)
    assert row > 40
    assert column < 10


def test_no_two_labels_stand_between_the_panels(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_predictions(predictions(TARGET, NOISY), tmp_path / "predicted_vs_true.png", leaks=None)
    left, right, colors = drawn[0].axes
    assert [axes.get_ylabel() for axes in (left, right, colors)] == ["predicted xHII", "cells", ""]
    assert colors.get_title() == "cells"


def test_a_figure_that_cannot_be_saved_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "loss.png"
    draw_losses(history([0.5], [0.3]), path, loss="mse")
    before = path.read_bytes()

    def break_off(self: Figure, file: Path, **options: Any) -> None:
        file.write_bytes(b"half a figure")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", break_off)
    with pytest.raises(OSError, match="disk full"):
        draw_losses(history([0.5, 0.4], [0.3, 0.4]), path, loss="mse")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("leaks", "mark"),
    [
        (None, ""),
        ("neighborhoods", "\noptimistic: random split"),
        ("large scales", "\nslightly optimistic: smoothed inputs"),
    ],
)
def test_scores_that_leak_are_marked_where_there_is_room(
    tmp_path: Path, drawn: list[Figure], leaks: Leak | None, mark: str
) -> None:
    draw_losses(history([0.5], [0.4], leaks=leaks), tmp_path / "loss.png", loss="mse")
    many = predictions(np.tile(TARGET, 2000), np.tile(NOISY, 2000))
    draw_predictions(many, tmp_path / "predicted.png", leaks=leaks)
    right, (left, _, colors) = drawn[0].axes[1], drawn[1].axes
    for axes in (right, left):
        assert axes.get_title().endswith(mark)
        assert ("optimistic" in axes.get_title()) == bool(mark)
    drawn[1].draw_without_rendering()
    title, unit = left.title.get_window_extent(), colors.title.get_window_extent()
    assert title.x1 < unit.x0
