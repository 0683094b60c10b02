"""Train over epochs and batches, in a loop that can be stopped and resumed after any batch."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ionmodel.config.training_config import TrainingConfig
from ionmodel.errors import Interrupted, TrainingDivergedError
from ionmodel.networks.base import PatchNetwork
from ionmodel.runs.checkpoint import load_checkpoint, save_checkpoint
from ionmodel.runs.folder import RunFolder
from ionmodel.training.data import TrainingData
from ionmodel.training.evaluation import Predictions, inputs_of, predict_cells
from ionmodel.training.events import Plan, TrainingProgress, TrainingReporter
from ionmodel.training.learning_rate import one_cycle
from ionmodel.training.losses import make_loss
from ionmodel.training.timing import estimate_seconds
from ionstore.loading.loaders import Batch, TileBatch

_CHECKPOINT_INTERVAL_S = 300.0


@dataclass(slots=True)
class _State:
    """State that changes while training, beside weights and optimizer."""

    position: int = 0  # batches since the run began
    loss_sum: float = 0.0  # over the batches of the epoch in progress
    seconds: float = 0.0  # spent on the epoch in progress


class Trainer:
    """The training loop of a run; everything that it changes is in its checkpoints."""

    def __init__(
        self,
        config: TrainingConfig,
        *,
        data: TrainingData,
        run: RunFolder,
        network: PatchNetwork,
        device: torch.device,
        reporter: TrainingReporter,
    ) -> None:
        self.config, self.data, self.run = config, data, run
        self.network, self.device = network, device
        self.reporter = reporter
        self.loss_of = make_loss(config.loss, final_activation=network.final_activation)
        self.optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
        self.scheduler = ReduceLROnPlateau(
            self.optimizer, factor=config.scheduler_factor, patience=config.scheduler_patience
        )
        self.history: list[dict[str, Any]] = []
        self.state = _State()
        self.cells_per_s = math.nan
        self.best: Predictions | None = None

    def train(self) -> None:
        """Run all epochs that are left."""
        for epoch in range(len(self.history) + 1, self.config.epochs + 1):
            self._train_epoch(epoch)
            self._finish_epoch(epoch)
            self.reporter.epoch(self.history[-1])

    def _train_epoch(self, epoch: int) -> None:
        """Run the remaining steps of an epoch; the first epoch is 1."""
        batches, state = len(self.data.train), self.state
        if state.position == epoch * batches:  # stopped in the validation that follows
            return
        self.network.train()
        self.data.train.position = state.position
        began = saved = time.monotonic()
        before, done = state.seconds, 0
        try:
            for batch in self.data.train:
                state.loss_sum += self._step(batch)
                state.position += 1
                done += batch.target.numel()
                now = time.monotonic()
                state.seconds = before + now - began
                self.cells_per_s = done / (now - began)
                self._report("training", epoch, self._in_epoch(epoch), batches)
                if self.reporter.should_stop():
                    break
                if now - saved > _CHECKPOINT_INTERVAL_S:
                    self._save(self.run.last)
                    saved = now
        except RuntimeError:
            if not self.reporter.should_stop():
                raise  # else the signal that asks for a stop also ended a worker
        if self.reporter.should_stop():
            self._save(self.run.last)
            raise Interrupted(f"stopped in epoch {epoch}, after batch {self._in_epoch(epoch)}")

    def _step(self, batch: Batch | TileBatch) -> float:
        # Dropout draws from (seed, batch) alone, so a resumed run draws the same.
        seed = np.random.SeedSequence([self.config.seed, self.state.position])
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
        inputs = inputs_of(batch, self.device, redshift_input=self.config.redshift_input)
        logits = self.network(inputs, activate=False)
        target = batch.target.to(self.device, non_blocking=batch.target.is_pinned())
        loss = self.loss_of(logits.flatten(), target.flatten())
        value = loss.item()
        if not math.isfinite(value):
            raise self._diverged("loss", value)
        if self.config.scheduler == "one_cycle":
            progress = self.state.position / (self.config.epochs * len(self.data.train))
            rate = self.config.learning_rate * one_cycle(progress)
            self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return value

    def _finish_epoch(self, epoch: int) -> None:
        """Validate, log, and write the checkpoints."""
        state, batches = self.state, len(self.data.train)
        if not self.run.last.exists():
            self._save(self.run.last)  # there is never a log or a best.pt without it
        began = time.monotonic()
        try:
            predictions = self._validate(epoch)
        except Interrupted:
            self._save(self.run.last)
            raise Interrupted(f"stopped in epoch {epoch}, in its validation") from None
        logits, target = torch.from_numpy(predictions.logits), torch.from_numpy(predictions.target)
        loss = float(self.loss_of(logits.double(), target.double()))
        if not math.isfinite(loss):
            raise self._diverged("validation loss", loss)
        least = min((entry["validation_loss"] for entry in self.history), default=math.inf)
        self.history.append(
            {
                "epoch": epoch,
                "train_loss": state.loss_sum / batches,
                "validation_loss": loss,
                "validation_r2": predictions.r_squared,
                "validation_cells": len(predictions.target),
                "leaks": self.config.leaks,
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "cells": epoch * self.data.n_training_cells,
                "seconds": round(state.seconds + time.monotonic() - began, 3),
            }
        )
        if self.config.scheduler == "plateau":
            self.scheduler.step(loss)
        self.state = _State(position=state.position)
        if loss < least:
            self.best = predictions
            self._save(self.run.best)
        # The log first, so that it holds every epoch of the checkpoint, wherever a kill falls.
        self.run.write_log(self.history)
        self._save(self.run.last)

    def _validate(self, epoch: int) -> Predictions:
        return predict_cells(
            self.network,
            self.data.validation,
            self.device,
            regions=[split.validation for split in self.data.splits],
            redshift_input=self.config.redshift_input,
            on_batch=lambda done, total: self._report("validation", epoch, done, total),
            should_stop=self.reporter.should_stop,
        )

    def plan(self) -> Plan:
        """Return size and estimated duration of the work ahead."""
        batches = len(self.data.train)
        batches_left = max(0, self.config.epochs * batches - self.state.position)
        left = batches_left / batches
        n_train, n_validation = self.data.n_training_cells, self.data.n_validation_cells
        seconds = estimate_seconds(
            self.network,
            self.config,
            n_training_cells=round(left * n_train),
            n_validation_cells=math.ceil(left) * n_validation,
        )
        stats = self.data.train.stats
        return Plan(
            n_parameters=sum(weights.numel() for weights in self.network.parameters()),
            n_training_cells=n_train,
            n_validation_cells=n_validation,
            epochs_left=left,
            seconds=seconds,
            batch_seconds=seconds / max(1, batches_left),
            device=self.device.type,
            core=stats.core if stats.mode == "regions" else None,
        )

    def best_predictions(self) -> Predictions:
        """Return the best checkpoint's predictions of the validation cells."""
        if self.best is None:  # it was written before the run was resumed
            self.network.load_state_dict(load_checkpoint(self.run.best)["model"])
            try:
                self.best = self._validate(len(self.history))
            except Interrupted:
                raise Interrupted("all epochs are done, the last figure is not drawn") from None
        return self.best

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Restore weights, optimizer, scheduler and position of a checkpoint."""
        self.network.load_state_dict(checkpoint["model"])
        # Into the state of a new optimizer: settings of torch are not kept in checkpoints.
        optimizer = self.optimizer.state_dict()
        optimizer["state"] = checkpoint["optimizer"]["state"]
        self.optimizer.load_state_dict(optimizer)
        self.optimizer.param_groups[0]["lr"] = checkpoint["optimizer"]["learning_rate"]
        self.scheduler.best = checkpoint["scheduler"]["best"]
        self.scheduler.num_bad_epochs = checkpoint["scheduler"]["num_bad_epochs"]
        self.history = checkpoint["history"]
        self.state = _State(**checkpoint["state"])
        self.run.write_log(self.history)

    def _save(self, path: Path) -> None:
        content = {
            "model": self.network.state_dict(),
            "optimizer": {
                "state": self.optimizer.state_dict()["state"],
                "learning_rate": self.optimizer.param_groups[0]["lr"],
            },
            "scheduler": {
                "best": float(self.scheduler.best),
                "num_bad_epochs": self.scheduler.num_bad_epochs,
            },
            "config": self.config.model_dump(mode="json", exclude_none=True),
            "history": self.history,
            "state": {
                "position": self.state.position,
                "loss_sum": self.state.loss_sum,
                "seconds": self.state.seconds,
            },
            **self.data.describe(),
        }
        save_checkpoint(path, content)

    def _report(
        self, stage: Literal["training", "validation"], epoch: int, batch: int, batches: int
    ) -> None:
        self.reporter.batch(
            TrainingProgress(
                stage=stage,
                epoch=epoch,
                epochs=self.config.epochs,
                batch=batch,
                batches=batches,
                loss=self.state.loss_sum / max(1, self._in_epoch(epoch)),
                validation_r2=self.history[-1]["validation_r2"] if self.history else math.nan,
                leaks=self.config.leaks,
                cells_per_s=self.cells_per_s,
            )
        )

    def _in_epoch(self, epoch: int) -> int:
        """Return the finished batches of an epoch."""
        return self.state.position - (epoch - 1) * len(self.data.train)

    def _diverged(self, what: str, value: float) -> TrainingDivergedError:
        return TrainingDivergedError(
            f"the {what} became {value} after {self.state.position} batches; lower learning_rate, "
            f"it was {self.config.learning_rate}"
        )
