"""Draw the figures of a run: losses by epoch, and predictions against targets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ionmodel.config.training_config import Leak
from ionmodel.training.evaluation import Predictions
from ionstore.storage.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TRAINING, _VALIDATION = "#8fa3b8", "#b5442e"
_N_BINS = 50
# Shortest vertical axes, so that noise does not fill the figure.
_LEAST_R2_SPAN = 0.1
_LEAST_LOSS_SPAN = 0.1  # of the largest loss
_LEAKS: dict[Leak | None, str] = {
    "neighborhoods": "\noptimistic: random split",
    "large scales": "\nslightly optimistic: smoothed inputs",
    None: "",
}
"""Second line of a score; there is no room beside it."""
_LOSS_NAMES = {"mse": "mean squared error", "bce": "binary cross-entropy"}


def draw_losses(history: Sequence[Mapping[str, Any]], path: Path, *, loss: str) -> None:
    """Draw losses and validation R² by epoch."""
    figure = _figure(9.0, 3.6)
    epochs = [entry["epoch"] for entry in history]
    left, right = figure.subplots(1, 2)
    for key, label, color in (
        ("train_loss", "training", _TRAINING),
        ("validation_loss", "validation", _VALIDATION),
    ):
        left.plot(epochs, [entry[key] for entry in history], "o-", ms=3, color=color, label=label)
    left.set(xlabel="epoch", ylabel=_LOSS_NAMES.get(loss, loss))
    left.legend(frameon=False)
    scores = [entry["validation_r2"] for entry in history]
    # The best checkpoint has the least loss, not the highest R².
    best = min(range(len(history)), key=lambda index: history[index]["validation_loss"])
    right.plot(epochs, scores, "o-", ms=3, color=_VALIDATION)
    right.plot(epochs[best], scores[best], "o", ms=9, mfc="none", color="black")
    right.set(xlabel="epoch", ylabel="validation $R^2$")
    score = _score(scores[best], leaks=history[best]["leaks"])
    right.set_title(f"best checkpoint: {score}", fontsize=10)
    largest = max(max(entry["train_loss"], entry["validation_loss"]) for entry in history)
    _widen(left, _LEAST_LOSS_SPAN * largest)
    _widen(right, _LEAST_R2_SPAN)
    for axes in (left, right):
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.25)
    _save(figure, path)


def draw_predictions(predictions: Predictions, path: Path, *, leaks: Leak | None) -> None:
    """Draw predicted against true xHII, and both histograms."""
    from matplotlib.colors import LogNorm

    figure = _figure(9.0, 4.0)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    edges = np.linspace(0, 1, _N_BINS + 1)
    # Without a final activation, predictions may leave the range and the figure.
    target = np.clip(predictions.target, 0, 1)
    prediction = np.clip(predictions.prediction, 0, 1)
    counts, _, _ = np.histogram2d(target, prediction, bins=[edges, edges])
    shown = left.pcolormesh(
        edges, edges, np.ma.masked_less(counts.T, 1), norm=LogNorm(), cmap="viridis"
    )
    left.plot([0, 1], [0, 1], color="black", lw=0.8, ls="--")
    figure.colorbar(shown, ax=left).ax.set_title("cells", fontsize=10)
    left.set(xlabel="true xHII", ylabel="predicted xHII", aspect="equal")
    cells = f"{len(target):,} validation cell{'s' * (len(target) > 1)}"
    left.set_title(f"{cells}, {_score(predictions.r_squared, leaks=leaks)}", fontsize=10)
    for values, label, color in (
        (target, "true", _TRAINING),
        (prediction, "predicted", _VALIDATION),
    ):
        right.hist(values, bins=edges, histtype="step", lw=1.5, label=label, color=color)
    right.set(xlabel="xHII", ylabel="cells", yscale="log", xlim=(0, 1))
    right.legend(frameon=False)
    right.grid(alpha=0.25)
    _save(figure, path)


def _score(r2: float, *, leaks: Leak | None) -> str:
    return f"$R^2$ = {r2:.3f}{_LEAKS[leaks]}"


def _widen(axes: "Axes", least_span: float) -> None:
    """Lengthen the vertical axis to a span, so that noise does not fill it."""
    low, high = axes.get_ylim()
    lacking = max(0.0, least_span - (high - low))
    axes.set_ylim(low - lacking / 2, high + lacking / 2)


def _figure(width_inches: float, height_inches: float) -> "Figure":
    # Not pyplot, which keeps figures and may want a display. Late: matplotlib takes long to import.
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches), layout="constrained")


def _save(figure: "Figure", path: Path) -> None:
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
