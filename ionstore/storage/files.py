"""Changes of files and folders that a kill leaves either done or undone."""

import ctypes
import errno
import json
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ionstore.errors import ObjectStoreError

STREAM_BYTES = 1 << 23

OnBytes = Callable[[bytes], object]

# A folder in place of a file, or a file in place of a folder above it: the file itself is missing.
NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""Errors of reading a file where there is none."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give errors of reading a file its name, which the system leaves out once it is open."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def require_file(path: Path) -> None:
    """Raise OSError for a pipe, socket or device, which reading may wait on for ever."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is a pipe, socket or device, no file", str(path))


def why_unreadable(error: OSError) -> str:
    """Return an error of reading a file as the predicate of a sentence."""
    # An object store that does not answer says nothing about the object, so that is not damage.
    if isinstance(error, ObjectStoreError):
        raise error
    if isinstance(error, NOT_THERE):
        return "is missing"
    return f"cannot be read ({error.strerror or error})"


def read_pieces(path: Path, on_bytes: OnBytes) -> None:
    """Hand all bytes of a file to `on_bytes`."""
    require_file(path)
    with naming(path), path.open("rb") as file:
        for piece in pieces(file):
            on_bytes(piece)


def pieces(file: IO[bytes], n_bytes: int | None = None) -> Iterator[bytes]:
    """Yield the next bytes of a file, as many as asked for or are there, in pieces."""
    left = n_bytes
    while left is None or left > 0:
        piece = file.read(STREAM_BYTES if left is None else min(STREAM_BYTES, left))
        if not piece:
            return
        if left is not None:
            left -= len(piece)
        yield piece


_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_REPLACED = "replaced"


def sync(path: Path) -> None:
    """Bring a file or the entries of a folder to the disk."""
    # A folder too can be opened for reading, and only its own fsync keeps a rename inside it.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path, *, mark: str = "") -> Iterator[Path]:
    """Yield a path to write to; when the block ends well, the file there becomes ``path``.

    At every moment ``path`` is the old file or the new one, whole. Processes that may write it at
    the same time give different marks.
    """
    temporary = path.with_name(f"{path.name}{mark}.tmp")
    try:
        yield temporary
        # Before the rename: after a power failure, the name could lead to an empty file.
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that is there whole or not at all, even if several write it at once."""
    with whole_file(path, mark=uuid.uuid4().hex) as temporary:
        temporary.write_text(json.dumps(content))


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name by a hard link, or copy it where the file system has no links."""
    # A build that is resumed may have left a file there, perhaps half a copy.
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
        sync(target)


def swap_in(new: Path, target: Path) -> None:
    """Put a folder in its place; the folder that was there ends up beside where the new one was."""
    # One atomic exchange where the system has it (Linux on most file systems), else two renames,
    # between which the target is missing: `put_back` undoes the first.
    if target.exists() and not _exchange(new, target):
        os.rename(target, new.with_name(_REPLACED))
    if not target.exists():
        os.rename(new, target)
    sync(target.parent)


def put_back(folder: Path, target: Path) -> None:
    """Undo the first of two renames of `swap_in`, if it was stopped between them."""
    if not target.exists() and (folder / _REPLACED).exists():
        os.rename(folder / _REPLACED, target)
        sync(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    paths = (os.fsencode(one), os.fsencode(other))
    return bool(rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0)
