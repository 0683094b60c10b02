"""Free space on a disk: checked before long work, and reported when it runs out."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ionstore.errors import DiskSpaceError
from ionstore.storage.paths import StorePath


def require_space(folder: Path, n_bytes: int, target: StorePath) -> None:
    """Check that the disk of a folder has room for what goes to a target."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise DiskSpaceError(
            f"{target}: about {n_bytes / 1e6:,.1f} MB are needed, "
            f"{free / 1e6:,.1f} MB are free; free some space or choose another store"
        )


@contextmanager
def full_disk_as_message(folder: Path, *, resumes: bool = True) -> Iterator[None]:
    """Turn a full disk into a sentence; `resumes` says if a second run goes on with this one."""
    try:
        yield
    except OSError as error:
        # EDQUOT: the disk has room, but the user's share of it is used up.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskSpaceError(
            f"{folder}: the disk is full; free some space and run the same command again"
            f"{', which resumes' if resumes else ''}"
        ) from error
