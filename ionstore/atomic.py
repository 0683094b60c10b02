"""Changes on the disk that a kill leaves either done or undone."""

import ctypes
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def sync(path: Path) -> None:
    """Bring a file or the entries of a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; when the block ends well, the file there becomes ``path``.

    At every moment ``path`` is the old file or the new one, whole.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that is there as a whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content))


def swap_in(new: Path, target: Path) -> None:
    """Put a folder in its place; what was there before ends up beside the place of the new one.

    Notes
    -----
    One atomic exchange where the system has it (Linux on most file systems), else two renames,
    between which `target` is missing.
    """
    if target.exists() and not _exchange(new, target):
        os.rename(target, new.with_name("replaced"))
    if not target.exists():
        os.rename(new, target)
    sync(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    paths = (os.fsencode(one), os.fsencode(other))
    return bool(rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0)
