"""The folder of a run: its files, and how a run is begun and resumed."""

import fcntl
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ionmodel.config.keys import read_toml
from ionmodel.config.training_config import TrainingConfig, make_config
from ionmodel.errors import ConfigError, RunFolderError
from ionmodel.runs.checkpoint import load_checkpoint
from ionstore.errors import UserError
from ionstore.storage.files import whole_file
from ionstore.store.cube_store import CubeStore

_log = logging.getLogger(__name__)

CHANGEABLE = ("epochs", "device", "num_workers")
"""Keys that may change when a run is resumed, because they do not change its samples."""
_CHANGEABLE_IN_WORDS = f"{', '.join(CHANGEABLE[:-1])} and {CHANGEABLE[-1]}"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """Resolved configuration, TOML."""
        return self.path / "config.toml"

    @property
    def log(self) -> Path:
        """One JSON line per finished epoch."""
        return self.path / "log.jsonl"

    @property
    def last(self) -> Path:
        """Checkpoint to resume from."""
        return self.path / "last.pt"

    @property
    def best(self) -> Path:
        """Checkpoint of the best validation loss."""
        return self.path / "best.pt"

    @property
    def channels(self) -> Path:
        """Stores of derived channels, computed before the first step."""
        return self.path / "channels"

    @property
    def loss_figure(self) -> Path:
        """Losses and R² by epoch."""
        return self.path / "loss.png"

    @property
    def prediction_figure(self) -> Path:
        """Predicted versus true xHII of the validation cells."""
        return self.path / "predicted_vs_true.png"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in the folder, which must exist."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunFolderError(
                    f"{self.path}: another process is training in this folder; wait for it or "
                    "name another --run"
                ) from error
            except OSError:
                # Some network file systems: better unlocked than no training at all.
                _log.warning("%s: this file system has no locks", self.path)
            yield
        finally:
            os.close(descriptor)

    def read_last(self) -> dict[str, Any] | None:
        """Read the checkpoint to resume from; None where there is none."""
        return load_checkpoint(self.last) if self.last.exists() else None

    def write_config(self, config: TrainingConfig) -> None:
        """Write the resolved configuration."""
        with whole_file(self.config) as temporary:
            temporary.write_text(config.to_toml(), encoding="utf-8")

    def write_log(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write one line of JSON for each finished epoch."""
        lines = [
            {
                # JSON has no nan.
                key: None if isinstance(value, float) and math.isnan(value) else value
                for key, value in entry.items()
            }
            for entry in history
        ]
        with whole_file(self.log) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))


def default_run_folder(preset: str, parent: Path = Path("runs")) -> Path:
    """Return ``runs/<date>-<preset>``, numbered where that exists already."""
    name = f"{date.today().isoformat()}-{preset}"
    folder, number = parent / name, 2
    while folder.exists():
        folder, number = parent / f"{name}-{number}", number + 1
    return folder


def check_new(path: Path) -> None:
    """Refuse a folder that holds anything."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunFolderError(
            f"{path} exists and is not an empty folder; resume it with --resume or choose another "
            "--run"
        )


def check_begun(path: Path) -> None:
    """Refuse to resume in a folder that does not exist."""
    if not path.is_dir():
        raise RunFolderError(f"{path}: there is no run to resume; leave out --resume to begin one")


def open_trained_stores(run: RunFolder, checkpoint: Mapping[str, Any]) -> list[CubeStore]:
    """Open the stores of a run at the paths where they were."""
    opened = []
    for entry in checkpoint["stores"]:
        try:
            opened.append(CubeStore.open(entry["path"]))
        except (UserError, OSError) as error:
            raise RunFolderError(
                f"{run.path} was trained on {entry['path']}, which cannot be opened ({error}); "
                "give its present path with --store"
            ) from error
    return opened


def begun_config(run: RunFolder, checkpoint: Mapping[str, Any] | None) -> TrainingConfig | None:
    """Return the configuration to resume with; None where no run was begun."""
    written = _written_config(run)
    if checkpoint is None:
        left = [file.name for file in (run.best, run.log) if file.exists() and file.stat().st_size]
        if left:
            raise RunFolderError(
                f"{run.path} holds {' and '.join(left)} of a run, but not {run.last.name}, the "
                "checkpoint to resume from; put it back, or choose another --run for a new one"
            )
        return written
    saved = make_config(checkpoint["config"])
    if written is None:  # somebody deleted the file
        return saved
    edited = [
        f"{key} = {now!r} (was {before!r})"
        for key, now in written
        if key not in CHANGEABLE and now != (before := getattr(saved, key))
    ]
    if edited:
        raise RunFolderError(
            f"{run.config} must be as it was when the run began, except for "
            f"{_CHANGEABLE_IN_WORDS}, got {', '.join(edited)}; undo that, or start a new run "
            f"with --config {run.config}"
        )
    return written


def _written_config(run: RunFolder) -> TrainingConfig | None:
    if not run.config.exists():
        return None
    keys = read_toml(run.config)
    try:
        return make_config(keys)
    except ConfigError as error:
        raise ConfigError(f"{run.config}: {error}") from error


def resumed_config(
    run: RunFolder, saved: TrainingConfig, given: Mapping[str, Any]
) -> TrainingConfig:
    """Return the configuration of a run with the given keys; only `CHANGEABLE` may differ."""
    wanted = make_config({**saved.model_dump(exclude_none=True), **given})
    for key in given:
        before, now = getattr(saved, key), getattr(wanted, key)
        if key not in CHANGEABLE and before != now:
            raise RunFolderError(
                f"{run.path} was begun with {key} = {before!r}, got {now!r}; only "
                f"{_CHANGEABLE_IN_WORDS} can change, begin a new run instead"
            )
    return wanted
