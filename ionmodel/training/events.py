"""Plan, progress and result of a training, and the reporter that receives them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ionmodel.config.training_config import Leak
from ionstore.reporter import Reporter


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Progress of training after a batch."""

    stage: Literal["training", "validation"]
    epoch: int  # from 1
    epochs: int
    batch: int  # done in this stage of the epoch
    batches: int
    loss: float  # mean of this epoch so far
    validation_r2: float  # of the last finished epoch; nan before
    leaks: Leak | None  # what leaks into it from training cells
    cells_per_s: float  # training cells, since this call began


@dataclass(frozen=True, slots=True)
class Plan:
    """Size and estimated duration of the work ahead."""

    n_parameters: int
    n_training_cells: int  # predicted in an epoch
    n_validation_cells: int
    epochs_left: float
    seconds: float
    batch_seconds: float  # of a training batch, its share of the validation included
    device: str
    core: int | None  # cells along a side of regions that are decoded in turn; None if all are


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run."""

    best_r2: float  # validation R² of the checkpoint with the least validation loss
    best_epoch: int  # from 1
    n_validation_cells: int
    history: Sequence[dict[str, Any]]  # one entry an epoch
    leaks: Leak | None  # what leaks into the score from training cells
    was_finished: bool = False  # before, so that nothing was trained now


class TrainingReporter(Reporter):
    """Receive the progress of a training; this one is silent and never stops it.

    ``stage`` names the work before the first step, ``progress`` counts derived channels.
    """

    def plan(self, plan: Plan) -> None:
        """Take size and estimated duration, once before the first step."""

    def batch(self, progress: TrainingProgress) -> None:
        """Take the progress, after every batch."""

    def epoch(self, entry: dict[str, Any]) -> None:
        """Take a new entry of the log."""

    def should_stop(self) -> bool:
        """Return True to write a checkpoint and stop; asked after every batch."""
        return False


SILENT = TrainingReporter()
