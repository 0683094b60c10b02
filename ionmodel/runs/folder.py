"""The folder of a run: what is in it, how one is begun and taken up again."""

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
"""Keys that a run may go on with otherwise than it was begun; they do not change its samples."""
_CHANGEABLE_IN_WORDS = f"{', '.join(CHANGEABLE[:-1])} and {CHANGEABLE[-1]}"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run.

    Parameters
    ----------
    path : Path
        The folder.
    """

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
        """Checkpoint to go on from."""
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
        """Keep other processes from training in the folder, which must exist.

        Raises
        ------
        RunFolderError
            If one does so already.
        """
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
                _log.warning("%s: this file system has no locks", self.path)
            yield
        finally:
            os.close(descriptor)

    def read_last(self) -> dict[str, Any] | None:
        """Read the checkpoint to go on from; None where there is none.

        Raises
        ------
        RunFolderError
            If it is damaged.
        ConfigError
            If it is older, and of a configuration that is not known here.
        """
        return load_checkpoint(self.last) if self.last.exists() else None

    def write_config(self, config: TrainingConfig) -> None:
        """Write the resolved configuration."""
        with whole_file(self.config) as temporary:
            temporary.write_text(config.to_toml(), encoding="utf-8")

    def write_log(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write the log, of a whole number of epochs; what is undefined (nan) becomes null."""
        lines = [
            {
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
    """Refuse a folder that holds anything.

    Raises
    ------
    RunFolderError
        If the path exists and is not an empty folder.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunFolderError(
            f"{path} exists and is not an empty folder; go on with --resume or name another --run"
        )


def check_begun(path: Path) -> None:
    """Refuse to go on in a folder that is not there.

    Raises
    ------
    RunFolderError
        If the path is no folder.
    """
    if not path.is_dir():
        raise RunFolderError(f"{path}: there is no run to resume; leave out --resume to start one")


def open_trained_stores(run: RunFolder, checkpoint: Mapping[str, Any]) -> list[CubeStore]:
    """Open the stores that a run was trained on, where they lay then.

    Raises
    ------
    RunFolderError
        If one does not lie there any more.
    """
    opened = []
    for entry in checkpoint["stores"]:
        try:
            opened.append(CubeStore.open(entry["path"]))
        except (UserError, OSError) as error:
            raise RunFolderError(
                f"{run.path} was trained on {entry['path']}, which cannot be opened ({error}); "
                "give --store where it lies now"
            ) from error
    return opened


def begun_config(run: RunFolder, checkpoint: Mapping[str, Any] | None) -> TrainingConfig | None:
    """Return the configuration that a run is to go on with, None where none was begun.

    Parameters
    ----------
    run : RunFolder
        The run.
    checkpoint : mapping, optional
        Its checkpoint, None where it ended before the first one.

    Returns
    -------
    TrainingConfig or None
        That of ``config.toml``, or of the checkpoint where the file is gone.

    Raises
    ------
    ConfigError
        If the file is no configuration.
    RunFolderError
        If the file says otherwise than the checkpoint (except `CHANGEABLE`, which it may know
        better), or the checkpoint is gone and what the run has learned is not.
    """
    written = _written_config(run)
    if checkpoint is None:
        left = [file.name for file in (run.best, run.log) if file.exists() and file.stat().st_size]
        if left:
            raise RunFolderError(
                f"{run.path} holds {' and '.join(left)} of a run, but not {run.last.name}, the "
                "checkpoint to go on from; put it back, or name another --run to start anew"
            )
        return written
    saved = make_config(checkpoint["config"])
    if written is None:
        return saved
    edited = [
        f"{key} = {now!r} (was {before!r})"
        for key, now in written
        if key not in CHANGEABLE and now != (before := getattr(saved, key))
    ]
    if edited:
        raise RunFolderError(
            f"{run.config} must be as the run was begun but for {_CHANGEABLE_IN_WORDS}, got "
            f"{', '.join(edited)}; undo that, or start a new run with --config {run.config}"
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
    """Return a run's configuration with what is given anew.

    Parameters
    ----------
    run : RunFolder
        The run.
    saved : TrainingConfig
        Configuration from `begun_config`.
    given : mapping
        Keys given anew; they must agree with it, except `CHANGEABLE`.

    Raises
    ------
    ConfigError
        If a key is unknown or its value does not fit.
    RunFolderError
        If another key than `CHANGEABLE` differs.
    """
    wanted = make_config({**saved.model_dump(exclude_none=True), **given})
    for key in given:
        before, now = getattr(saved, key), getattr(wanted, key)
        if key not in CHANGEABLE and before != now:
            raise RunFolderError(
                f"{run.path} was begun with {key} = {before!r}, got {now!r}; only "
                f"{_CHANGEABLE_IN_WORDS} can change, start a new run instead"
            )
    return wanted
