"""Paths of stores: folders, or keys of object stores (``s3://bucket/key``)."""

import os
import re
from io import FileIO
from pathlib import Path

from ionstore.errors import StoreFormatError
from ionstore.storage.s3 import ObjectPath, OpenObject, Stamp

# A `pathlib.Path` made of `s3://bucket` is `s3:/bucket`, so one slash is enough. A scheme has two
# letters at least: one letter is a drive.
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(/+(?P<pieces>.*))?", re.DOTALL)

StorePath = Path | ObjectPath


def parse_place(place: str | os.PathLike[str]) -> StorePath:
    """Return the folder or the key that a user names.

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
        # A folder that is really called "~" wins over the home folder.
        named = text.startswith("~") and not os.path.isdir(text.split("/")[0])
        return Path(os.path.expanduser(text) if named else text)
    scheme, after = address["scheme"], address["pieces"] or ""
    if scheme.lower() != "s3":
        if os.path.isdir(f"{scheme}:"):  # a folder that only looks like an address
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
    """Return a path that holds in every working folder; keys come back as they are."""
    return place.absolute() if isinstance(place, Path) else place


def bytes_below(place: StorePath) -> int:
    """Return the bytes of all files in a folder, or of all objects below a key."""
    if isinstance(place, ObjectPath):
        return sum(size for _, size in place.sizes())
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


class OpenFile(FileIO):
    """A file that is read piece by piece."""

    def is_still(self, stamp: Stamp) -> bool:
        """Return whether this is the file that had a stamp."""
        return self._stamp() == stamp

    def was_replaced(self) -> bool:
        """Return False: an open file stays itself, even when its name is given to another."""
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
        while len(stored) < n_bytes:  # a read may return less than is there
            more = os.pread(self.fileno(), n_bytes - len(stored), first + len(stored))
            if not more:
                break
            stored += more
        return stored

    def _stamp(self) -> Stamp:
        status = os.fstat(self.fileno())
        return status.st_ino, status.st_size, status.st_mtime_ns


def open_file(place: StorePath) -> OpenFile | OpenObject:
    """Open a file or an object to be read piece by piece."""
    return OpenObject(place) if isinstance(place, ObjectPath) else OpenFile(place)
