"""Messages of training to its caller: the plan, the progress, the result."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ionmodel.config.training_config import Leak
from ionstore.reporter import Reporter


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """Where training is.

    Parameters
    ----------
    stage : {"training", "validation"}
        What the batches are for.
    epoch, epochs : int
        Epoch in progress, from 1, and how many there are.
    batch, batches : int
        Batches done in this stage of the epoch, and how many it has.
    loss : float
        Mean training loss of this epoch so far.
    validation_r2 : float
        R² of the last finished epoch; nan before.
    leaks : {"neighborhoods", "large scales"}, optional
        What leaks into that from the training cells.
    cells_per_s : float
        Training cells a second since this call began.
    """

    stage: Literal["training", "validation"]
    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float
    validation_r2: float
    leaks: Leak | None
    cells_per_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is about to do.

    Parameters
    ----------
    n_parameters : int
        Weights of the network.
    n_training_cells, n_validation_cells : int
        Cells that are predicted in one epoch.
    epochs_left : float
        Epochs still to run.
    seconds : float
        Estimated duration on this device.
    batch_seconds : float
        Estimated duration of a training batch, its share of the validation included.
    device : str
        Where it runs.
    core : int, optional
        Cells along a side of the regions that are decoded at a time; None if all fields are.
    """

    n_parameters: int
    n_training_cells: int
    n_validation_cells: int
    epochs_left: float
    seconds: float
    batch_seconds: float
    device: str
    core: int | None


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run.

    Parameters
    ----------
    best_r2 : float
        Validation R² of the best checkpoint, which has the least validation loss.
    best_epoch : int
        Its epoch, from 1.
    n_validation_cells : int
        Validation cells that the score is over.
    history : sequence of dict
        One entry per epoch.
    leaks : {"neighborhoods", "large scales"}, optional
        What leaks into that score from the training cells.
    was_finished : bool
        Whether all epochs were done before, so that nothing was.
    """

    best_r2: float
    best_epoch: int
    n_validation_cells: int
    history: Sequence[dict[str, Any]]
    leaks: Leak | None
    was_finished: bool = False


class TrainingReporter(Reporter):
    """Told by training what it does; this one stays silent and never stops it.

    ``stage`` names what comes before the first step, ``progress`` counts derived channels.
    """

    def plan(self, plan: Plan) -> None:
        """Take what is about to be done, once before the first step."""

    def batch(self, progress: TrainingProgress) -> None:
        """Take where training is, after every batch."""

    def epoch(self, entry: dict[str, Any]) -> None:
        """Take a new line of the log."""

    def should_stop(self) -> bool:
        """Tell whether training is to write its checkpoint and stop; asked after every batch."""
        return False


SILENT = TrainingReporter()
