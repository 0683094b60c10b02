"""Free space on a disk: checked before long work, and reported when it runs out."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ionstore.errors import DiskSpaceError, bytes_in_words
from ionstore.storage.paths import StorePath


def require_space(
    folder: Path, n_bytes: int, target: StorePath, *, way_on: str = "choose another store"
) -> None:
    """Check that the disk of a folder has room for what goes to a target."""
    # Before the work, so that a full disk costs no minutes; the disk may still fill up meanwhile.
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise DiskSpaceError(
            f"{target}: about {bytes_in_words(n_bytes)} are needed, "
            f"{bytes_in_words(free)} are free; free some space or {way_on}"
        )


def is_full_disk(error: OSError) -> bool:
    """Tell whether an error of writing says that the disk is full."""
    # EDQUOT: the disk has room, but the user's share of it is used up.
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def full_disk_as_message(folder: Path, *, resumes: bool = True) -> Iterator[None]:
    """Turn a full disk into a sentence; `resumes` says if a second run resumes this one."""
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise DiskSpaceError(
            f"{folder}: the disk is full; free some space and run the same command again"
            f"{', which resumes' if resumes else ''}"
        ) from error
