"""Where stores lie: in folders, or below keys of object stores (``s3://bucket/key``)."""

import os
import re
from io import FileIO
from pathlib import Path

from ionstore.errors import StoreFormatError
from ionstore.storage.s3 import ObjectPath, OpenObject, Stamp

# Of `s3://bucket`, a `pathlib.Path` on the way here leaves `s3:/bucket`. One letter is a drive.
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(/+(?P<pieces>.*))?", re.DOTALL)

StorePath = Path | ObjectPath
"""Where a store or a part of it lies."""


def parse_place(place: str | os.PathLike[str]) -> StorePath:
    """Return the folder or the key that a user names.

    Parameters
    ----------
    place : str or path-like
        A path, in which a leading ``~`` is the home folder, or ``s3://bucket/key``. What looks
        like another address or a home folder is a path where its first part is a folder.

    Raises
    ------
    StoreFormatError
        If it is an address other than that of a key in a bucket.

    Examples
    --------
    >>> parse_place("s3://box/run 7/cubes.zarr/")
    ObjectPath(bucket='box', key='run 7/cubes.zarr')
    >>> parse_place(Path("s3://box/cubes.zarr"))
    ObjectPath(bucket='box', key='cubes.zarr')
    >>> parse_place("cubes.zarr").name
    'cubes.zarr'
    """
    if isinstance(place, ObjectPath):
        return place
    text = os.fspath(place)
    address = _ADDRESS.fullmatch(text)
    if address is None:
        named = text.startswith("~") and not os.path.isdir(text.split("/")[0])
        return Path(os.path.expanduser(text) if named else text)
    scheme, after = address["scheme"], address["pieces"] or ""
    if scheme.lower() != "s3":
        if os.path.isdir(f"{scheme}:"):
            return Path(text)
        raise StoreFormatError(
            f"{scheme}://{after}: a store must be a folder or s3://bucket/key, got {scheme}://; "
            "other object stores that speak S3 are reached by AWS_ENDPOINT_URL"
        )
    bucket, *pieces = [*filter(None, after.split("/"))] or [""]
    if not bucket or not pieces:
        raise StoreFormatError(
            f"s3://{bucket}: a store must have a key in a bucket, got none; "
            f"name it as in s3://{bucket or 'bucket'}/cubes.zarr"
        )
    return ObjectPath(bucket, "/".join(pieces))


def absolute(place: StorePath) -> StorePath:
    """Return what names a place in every working folder.

    Parameters
    ----------
    place : StorePath
        A folder, or a key, which comes back as it is.
    """
    return place.absolute() if isinstance(place, Path) else place


def bytes_below(place: StorePath) -> int:
    """Return the bytes of all files in a folder, or of all objects below a key.

    Raises
    ------
    OSError
        If they cannot be listed.
    """
    if isinstance(place, ObjectPath):
        return sum(size for _, size in place.sizes())
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


class OpenFile(FileIO):
    """A file that is read piece by piece."""

    def is_still(self, stamp: Stamp) -> bool:
        """Tell whether this is the file that had a stamp."""
        return self._stamp() == stamp

    def was_replaced(self) -> bool:
        """Tell whether another file has taken the place of this one: never, while it is open."""
        return False

    def read_end(self, n_bytes: int) -> tuple[bytes, int, Stamp]:
        """Return the last bytes, fewer where there are not as many, the size and a stamp."""
        stamp = self._stamp()
        size = int(stamp[1])
        first = max(size - n_bytes, 0)
        return self.read_at(size - first, first), size, stamp

    def read_at(self, n_bytes: int, first: int) -> bytes:
        """Return bytes from a place on, fewer only where the file ends."""
        stored = os.pread(self.fileno(), n_bytes, first)
        while len(stored) < n_bytes:  # some file systems give less than they have
            more = os.pread(self.fileno(), n_bytes - len(stored), first + len(stored))
            if not more:
                break
            stored += more
        return stored

    def _stamp(self) -> Stamp:
        status = os.fstat(self.fileno())
        return status.st_ino, status.st_size, status.st_mtime_ns


def open_file(place: StorePath) -> OpenFile | OpenObject:
    """Open a file or an object to be read piece by piece.

    Raises
    ------
    OSError
        If a file cannot be opened; of an object that shows when it is read.
    """
    return OpenObject(place) if isinstance(place, ObjectPath) else OpenFile(place)
