"""The folder of a run: what is in it, how one is begun and taken up again."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ionmodel.config import TrainingConfig, make_config, read_toml
from ionmodel.errors import RunFolderError


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
    def loss_figure(self) -> Path:
        """Losses and R² by epoch."""
        return self.path / "loss.png"

    @property
    def prediction_figure(self) -> Path:
        """Predicted versus true xHII of the validation cells."""
        return self.path / "predicted_vs_true.png"

    def begin(self, config: TrainingConfig) -> None:
        """Make the folder and write its configuration."""
        self.path.mkdir(parents=True, exist_ok=True)
        _write_whole(self.config, config.to_toml())

    def write_log(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write the log; it is always that of a whole number of epochs."""
        _write_whole(self.log, "".join(json.dumps(entry) + "\n" for entry in history))


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


def resumed_config(run: RunFolder, given: Mapping[str, Any]) -> TrainingConfig:
    """Return a run's configuration, with more epochs where those are given.

    Parameters
    ----------
    run : RunFolder
        A run with a configuration.
    given : mapping
        Keys given anew; they must agree with the run's, except ``epochs``.

    Raises
    ------
    RunFolderError
        If another key differs.
    """
    saved = make_config(read_toml(run.config))
    wanted = make_config({**saved.model_dump(exclude_none=True), **given})
    differing = [
        key for key in given if key != "epochs" and getattr(saved, key) != getattr(wanted, key)
    ]
    if differing:
        key = differing[0]
        raise RunFolderError(
            f"{run.path} was begun with {key} = {getattr(saved, key)!r}, got "
            f"{getattr(wanted, key)!r}; only epochs can change, start a new run instead"
        )
    return wanted


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
