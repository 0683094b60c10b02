"""Checkpoints: nested dicts and lists of tensors, numbers and strings, written atomically."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ionmodel.config.training_config import make_config
from ionmodel.errors import RunFolderError
from ionstore.storage.files import whole_file

FORMAT_VERSION = 4

_PIECE_BYTES = 2**20


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint; a kill leaves the old one or the new one."""
    plain = _plain({"format_version": FORMAT_VERSION, **content}, "checkpoint")
    with whole_file(path) as temporary:
        torch.save(plain, temporary)


def load_checkpoint(
    path: Path, *, on_bytes: Callable[[bytes], object] | None = None
) -> dict[str, Any]:
    """Read a checkpoint on the CPU, and hand on the bytes that were read."""
    try:
        with open(path, "rb") as file:
            # From the open file: a running training may put another one at this path.
            while on_bytes is not None and (piece := file.read(_PIECE_BYTES)):
                on_bytes(piece)
            with zipfile.ZipFile(file) as archive:  # torch does not verify the checksums
                damaged = archive.testzip()
            if damaged is not None:
                raise RunFolderError(f"{path}: damaged at {damaged}; restore it or train again")
            file.seek(0)
            # Plain values alone: a pickle may run any code.
            content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RunFolderError(
            f"{path}: expected a checkpoint of plain values, it holds other Python objects, which "
            "are not loaded; train again"
        ) from error
    except (zipfile.BadZipFile, RuntimeError, EOFError) as error:
        raise RunFolderError(f"{path}: not a checkpoint or damaged ({error})") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise RunFolderError(f"{path}: expected a checkpoint with a format_version, found none")
    if version > FORMAT_VERSION:
        raise RunFolderError(
            f"{path}: format_version {version} is newer than {FORMAT_VERSION}, the newest read "
            "here; update ionmodel"
        )
    # Runs of older versions stay readable.
    for entry in content.get("history", ()):
        if version == 1:  # its epochs count from 0
            entry["epoch"] += 1
        if version <= 2:  # a sample was a cell
            entry["validation_cells"] = entry.pop("validation_samples")
            entry["cells"] = entry.pop("samples")
        if version <= 3:  # it recorded only that neighborhoods leak
            entry["leaks"] = make_config(content["config"]).leaks
    return content


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, dict):
        return {key: _plain(entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, f"{where}[{index}]") for index, entry in enumerate(value)]
    raise TypeError(f"{where}: tensors, numbers, strings, lists or dicts, got {type(value)}")
