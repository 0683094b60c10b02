"""Training a network on neighborhoods: one loop that can stop and go on anywhere."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ionmodel.checkpoint import load_checkpoint, save_checkpoint
from ionmodel.config import TrainingConfig
from ionmodel.cost import estimate_seconds
from ionmodel.datasets import TrainingData, open_training_data
from ionmodel.errors import ConfigError, Interrupted, RunFolderError, TrainingDivergedError
from ionmodel.evaluation import predict_cells
from ionmodel.events import Plan, Progress, Result
from ionmodel.figures import draw_losses, draw_predictions
from ionmodel.losses import make_loss
from ionmodel.networks.base import PatchNetwork, build_network
from ionmodel.run_folder import RunFolder
from ionstore.normalize import Normalization
from ionstore.store import CubeStore

_CHECKPOINT_INTERVAL_S = 300.0


@dataclass(slots=True)
class _State:
    """What changes while training, beside the weights and the optimizer."""

    position: int = 0  # batches since the run began
    loss_sum: float = 0.0  # over the batches of the epoch in progress
    seconds: float = 0.0  # spent on the epoch in progress


def train(
    config: TrainingConfig,
    stores: Sequence[CubeStore],
    run: RunFolder,
    *,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda entry: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train a network, or go on where the run folder's checkpoint stopped.

    Parameters
    ----------
    config : TrainingConfig
        What to train.
    stores : sequence of CubeStore
        What to train on; those of the checkpoint when there is one.
    run : RunFolder
        Where configuration, log and checkpoints go.
    on_plan, on_progress, on_epoch : callable
        Told what will be done, after every batch, and each new line of the log.
    should_stop : callable
        Asked after every batch; training then writes its checkpoint and stops.

    Returns
    -------
    Result
        Scores and history.

    Raises
    ------
    Interrupted
        If ``should_stop`` said so; the run folder can be resumed.
    RunFolderError
        If the run folder's checkpoint belongs to other stores.
    TrainingDivergedError
        If the loss is not finite.

    Notes
    -----
    Dropout draws from a seed made of (seed, batch), so that a resumed run gives the same numbers
    as one that was never interrupted.
    """
    checkpoint = load_checkpoint(run.last) if run.last.exists() else None
    if checkpoint is not None:
        _check_stores(checkpoint, stores, run)
        if len(checkpoint["history"]) >= config.epochs and run.prediction_figure.exists():
            return _result(checkpoint["history"])
    normalization = None
    if checkpoint is not None:
        normalization = Normalization.from_dict(checkpoint["normalization"])
    device = choose_device(config.device)
    with open_training_data(config, stores, normalization=normalization) as data:
        network = _network_of(config).to(device)
        run.begin(config)
        trainer = _Trainer(
            config, data=data, run=run, network=network, device=device, should_stop=should_stop
        )
        if checkpoint is not None:
            trainer.restore(checkpoint)
        on_plan(trainer.plan())
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            try:
                for epoch in range(len(trainer.history), config.epochs):
                    trainer.train_epoch(epoch, on_progress)
                    trainer.finish_epoch(epoch)
                    on_epoch(trainer.history[-1])
            finally:
                if trainer.history:
                    draw_losses(trainer.history, run.loss_figure, loss=config.loss)
        network.load_state_dict(load_checkpoint(run.best)["model"])
        data.validation.position = 0
        predictions = predict_cells(network, data.validation, device)
    draw_predictions(predictions, run.prediction_figure)
    return _result(trainer.history)


def choose_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is cuda, mps or cpu, the first there is.

    Raises
    ------
    RunFolderError
        If this machine has no such device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((device for device, there in available.items() if there), "cpu")
    elif not available.get(name, True):
        raise RunFolderError(f"device {name} is not available here; use -o device=cpu")
    return torch.device(name)


class _Trainer:
    """The loop and what it works on."""

    def __init__(
        self,
        config: TrainingConfig,
        *,
        data: TrainingData,
        run: RunFolder,
        network: PatchNetwork,
        device: torch.device,
        should_stop: Callable[[], bool],
    ) -> None:
        self.config, self.data, self.run = config, data, run
        self.network, self.device, self.should_stop = network, device, should_stop
        self.loss_of = make_loss(config.loss, final_activation=network.final_activation)
        self.optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
        self.scheduler = ReduceLROnPlateau(
            self.optimizer, factor=config.scheduler_factor, patience=config.scheduler_patience
        )
        self.history: list[dict[str, Any]] = []
        self.state = _State()

    def plan(self) -> Plan:
        """Say what will be done and how long it will take."""
        batches = len(self.data.train)
        left = self.config.epochs - self.state.position / batches
        n_train, n_validation = self.data.train.n_samples, self.data.validation.n_samples
        seconds = estimate_seconds(
            self.network,
            self.config,
            n_training_samples=round(left * n_train),
            n_validation_samples=math.ceil(left) * n_validation,
        )
        return Plan(
            n_parameters=sum(weights.numel() for weights in self.network.parameters()),
            n_training_samples=n_train,
            n_validation_samples=n_validation,
            epochs_left=left,
            seconds=seconds,
            device=self.device.type,
            leaks=any(split.leaks for split in self.data.splits),
        )

    def train_epoch(self, epoch: int, on_progress: Callable[[Progress], None]) -> None:
        """Run what is left of an epoch's steps."""
        batches, state = len(self.data.train), self.state
        self.network.train()
        self.data.train.position = state.position
        began = saved = time.monotonic()
        before, done = state.seconds, 0
        last_r2 = self.history[-1]["validation_r2"] if self.history else float("nan")
        if state.position == (epoch + 1) * batches:
            return
        for batch in self.data.train:
            state.loss_sum += self._step(batch.inputs, batch.target)
            state.position += 1
            done += len(batch)
            now = time.monotonic()
            state.seconds = before + now - began
            in_epoch = state.position - epoch * batches
            on_progress(
                Progress(
                    epoch=epoch,
                    epochs=self.config.epochs,
                    batch=in_epoch,
                    batches=batches,
                    loss=state.loss_sum / in_epoch,
                    validation_r2=last_r2,
                    samples_per_s=done / (now - began),
                )
            )
            if self.should_stop():
                self._save(self.run.last)
                raise Interrupted(f"stopped in epoch {epoch + 1}, after batch {in_epoch}")
            if now - saved > _CHECKPOINT_INTERVAL_S:
                self._save(self.run.last)
                saved = now

    def finish_epoch(self, epoch: int) -> None:
        """Validate, log, and write the checkpoints."""
        state, batches = self.state, len(self.data.train)
        began = time.monotonic()
        try:
            self.data.validation.position = 0
            predictions = predict_cells(
                self.network, self.data.validation, self.device, should_stop=self.should_stop
            )
        except Interrupted:
            self._save(self.run.last)
            raise Interrupted(f"stopped in epoch {epoch + 1}, before its validation") from None
        logits, target = torch.from_numpy(predictions.logits), torch.from_numpy(predictions.target)
        loss = float(self.loss_of(logits.double(), target.double()))
        least = min((entry["validation_loss"] for entry in self.history), default=math.inf)
        self.history.append(
            {
                "epoch": epoch,
                "train_loss": state.loss_sum / batches,
                "validation_loss": loss,
                "validation_r2": predictions.r_squared,
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "samples": (epoch + 1) * self.data.train.n_samples,
                "seconds": round(state.seconds + time.monotonic() - began, 3),
            }
        )
        if self.config.scheduler == "plateau":
            self.scheduler.step(loss)
        self.state = _State(position=state.position)
        if loss < least:
            self._save(self.run.best)
        # The log first: a checkpoint never knows of an epoch that the log does not.
        self.run.write_log(self.history)
        self._save(self.run.last)

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Take up weights, optimizer, scheduler and position of a checkpoint."""
        self.network.load_state_dict(checkpoint["model"])
        optimizer = self.optimizer.state_dict()
        optimizer["state"] = checkpoint["optimizer"]["state"]
        self.optimizer.load_state_dict(optimizer)
        self.optimizer.param_groups[0]["lr"] = checkpoint["optimizer"]["learning_rate"]
        self.scheduler.best = checkpoint["scheduler"]["best"]
        self.scheduler.num_bad_epochs = checkpoint["scheduler"]["num_bad_epochs"]
        self.history = checkpoint["history"]
        self.state = _State(**checkpoint["state"])
        self.run.write_log(self.history)

    def _step(self, inputs: torch.Tensor, target: torch.Tensor) -> float:
        seed = np.random.SeedSequence([self.config.seed, self.state.position])
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
        logits = self.network(inputs.to(self.device, non_blocking=True), activate=False)
        loss = self.loss_of(logits, target.to(self.device, non_blocking=True))
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingDivergedError(
                f"the loss became {value} after {self.state.position} batches; lower "
                f"learning_rate, now {self.config.learning_rate}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return value

    def _save(self, path: Any) -> None:
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


def _network_of(config: TrainingConfig) -> PatchNetwork:
    try:
        return build_network(
            config.network,
            radius=config.radius,
            channels=len(config.inputs),
            seed=config.seed,
            **config.network_options(),
        )
    except ValueError as error:
        raise ConfigError(f"network {config.network!r}: {error}") from error


def _check_stores(checkpoint: dict[str, Any], stores: Sequence[CubeStore], run: RunFolder) -> None:
    trained = [entry["uuid"] for entry in checkpoint["stores"]]
    if trained != [store.uuid for store in stores]:
        paths = ", ".join(entry["path"] for entry in checkpoint["stores"])
        raise RunFolderError(
            f"{run.path} was trained on {paths}, got {', '.join(str(s.path) for s in stores)} "
            "(or a store ingested anew); give the same stores or start a new run"
        )


def _result(history: Sequence[dict[str, Any]]) -> Result:
    best = min(history, key=lambda entry: entry["validation_loss"])
    return Result(best["validation_r2"], best["epoch"], history)
