"""disk_space."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ionstore.errors import DiskSpaceError


@contextmanager
def full_disk_as_message(folder: Path, *, resumes: bool = True) -> Iterator[None]:
    """Turn a disk that ran full into an error that a user can mend.

    Parameters
    ----------
    folder : Path
        Where it ran full.
    resumes : bool
        Whether what was written is kept for the next time.

    Raises
    ------
    DiskSpaceError
        If the disk, or the user's share of it, is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskSpaceError(
            f"{folder}: the disk is full; free some space and run the same command again"
            f"{', which resumes' if resumes else ''}"
        ) from error
