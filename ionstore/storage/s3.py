"""Objects in buckets of an object store that speaks S3: named, read, put and listed."""

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ionstore.errors import ObjectStoreError

if TYPE_CHECKING:
    from obstore.store import S3Store

Stamp = tuple[Any, ...]  # equal as long as a file or an object is the same

_PIECES = 5000  # half of the 10000 that S3 allows in an upload
_PIECE_BYTES = 2**23
_RETRIES = {"max_retries": 6, "retry_timeout": timedelta(seconds=60)}
_GAP_BYTES = 2**20  # reading these takes about as long as another request
_WORDS = 160  # characters of an answer that messages repeat


@dataclass(frozen=True, slots=True)
class ObjectPath:
    """A key in a bucket, which behaves like a `Path` as far as stores need it.

    It holds no connection, so it can be pickled; each process connects for itself. Address and
    credentials come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and so on), read
    when a bucket is first used.
    """

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def __fspath__(self) -> str:
        return str(self)

    def __truediv__(self, name: str) -> "ObjectPath":
        return ObjectPath(self.bucket, f"{self.key}/{name}")

    @property
    def name(self) -> str:
        """Last part of the key."""
        return self.key.rpartition("/")[2]

    def joinpath(self, *names: str) -> "ObjectPath":
        """Return a key below this one."""
        return ObjectPath(self.bucket, "/".join((self.key, *names)))

    def with_name(self, name: str) -> "ObjectPath":
        """Return the key beside this one."""
        return ObjectPath(self.bucket, self.key[: len(self.key) - len(self.name)] + name)

    def exists(self) -> bool:
        """Return whether there is an object at this key or below it."""
        return self.is_file() or next(self.sizes(), None) is not None

    def is_file(self) -> bool:
        """Return whether there is an object at this very key."""
        try:
            with _asking(self) as client:
                client.head(self.key)
        except FileNotFoundError:
            return False
        return True

    def read_bytes(self) -> bytes:
        """Return all bytes of the object."""
        with _asking(self) as client:
            return bytes(client.get(self.key).bytes())

    def read_text(self) -> str:
        """Return the object as text, as `read_bytes` does."""
        return self.read_bytes().decode()

    def write_bytes(self, content: bytes) -> None:
        """Put an object, which is there whole or not at all."""
        with _asking(self) as client:
            client.put(self.key, content)

    def upload(self, file: Path) -> None:
        """Put a file of any size, read piece by piece; it is there whole or not at all."""
        # Four pieces are in memory at a time. Larger ones only where the file would take too many.
        piece = max(_PIECE_BYTES, file.stat().st_size // _PIECES)
        with _asking(self) as client:
            client.put(self.key, file, chunk_size=piece, max_concurrency=4)

    def create(self, content: bytes) -> str | None:
        """Put an object where there is none; return its stamp, None where there is one."""
        return self._put_if(content, "create")

    def replace(self, content: bytes, stamp: str) -> str | None:
        """Replace the object that has a stamp; return the new stamp, None if it is gone."""
        return self._put_if(content, {"e_tag": stamp})

    def read_stamped(self) -> tuple[bytes, str]:
        """Return all bytes of the object, and its stamp."""
        with _asking(self) as client:
            got = client.get(self.key)
            return bytes(got.bytes()), str(got.meta["e_tag"])

    def modified(self) -> datetime:
        """Return when the object was put, by the clock of the object store."""
        with _asking(self) as client:
            return client.head(self.key)["last_modified"]

    def sizes(self) -> "Iterator[tuple[ObjectPath, int]]":
        """Yield every key below this one with the bytes of its object."""
        with _asking(self) as client:
            for some in client.list(self.key):
                for one in some:
                    yield ObjectPath(self.bucket, one["path"]), one["size"]

    def unlink(self) -> None:
        """Remove the object; there need not be one."""
        with _asking(self) as client:
            client.delete(self.key)

    def remove_below(self) -> None:
        """Remove all objects whose keys lie below this one."""
        keys = [path.key for path, _ in self.sizes()]
        with _asking(self) as client:
            if keys:
                client.delete(keys)

    def _put_if(self, content: bytes, mode: Any) -> str | None:
        with _asking(self) as client:
            from obstore.exceptions import AlreadyExistsError, PreconditionError

            try:
                return str(client.put(self.key, content, mode=mode)["e_tag"])
            except (AlreadyExistsError, PreconditionError):
                return None
            # Servers answer so to a replacement of what was removed meanwhile; a missing bucket is
            # an error of another kind.
            except FileNotFoundError as error:
                if mode == "create" or "NoSuchBucket" in str(error):
                    raise
                return None


class OpenObject:
    """An object that is read piece by piece."""

    # Each request takes as long as reading a megabyte. Asking for the stamp before every piece
    # would double the requests, so the object is doubted only where what it holds is damaged: see
    # `was_replaced`.

    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        self._stamp: Stamp = ()
        self._fetched: dict[tuple[int, int], bytes] = {}

    def __enter__(self) -> "OpenObject":
        return self

    def __exit__(self, *exception: object) -> None:
        self._fetched.clear()

    def is_still(self, stamp: Stamp) -> bool:
        """Assume that the object is the one that had a stamp; `was_replaced` finds out."""
        self._stamp = stamp
        return True

    def was_replaced(self) -> bool:
        """Return whether the object is no longer the one that had the stamp."""
        with _asking(self._path) as client:
            meta = client.head(self._path.key)
        return (meta["e_tag"], meta["size"]) != self._stamp

    def read_end(self, n_bytes: int) -> tuple[bytes, int, Stamp]:
        """Return the last bytes, fewer where there are not as many, the size and a stamp."""
        try:
            with _asking(self._path) as client:
                got = client.get(self._path.key, options={"range": {"suffix": n_bytes}})
                stored, size = bytes(got.bytes()), got.meta["size"]
                self._stamp = (got.meta["e_tag"], size)
        except _OutOfRangeError as error:  # the answer for any part of an empty object
            with _asking(self._path) as client:
                meta = client.head(self._path.key)
            if meta["size"]:
                raise ObjectStoreError(
                    f"{self._path}: the object store does not give parts of objects, which "
                    "reading needs; use another one"
                ) from error
            self._stamp = (meta["e_tag"], 0)
            return b"", 0, self._stamp
        return stored, size, self._stamp

    def fetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Read pieces (first byte, length) ahead for `read_at`, near ones in one request."""
        wanted = sorted(ranges)
        if all(piece in self._fetched for piece in wanted):
            return
        self._fetched.clear()
        spans = _spans(wanted)
        starts, ends = [first for first, _, _ in spans], [end for _, end, _ in spans]
        try:
            # Obstore would join ranges itself, but ends the thread where an object turns out short.
            with _asking(self._path) as client:
                read = client.get_ranges(self._path.key, starts=starts, ends=ends, coalesce=0)
        except _OutOfRangeError:  # the object is shorter than it was, so `read_at` asks one by one
            return
        for (start, _, pieces), span in zip(spans, read, strict=True):
            stored = memoryview(span)
            for first, n_bytes in pieces:
                piece = stored[first - start : first - start + n_bytes]
                self._fetched[first, n_bytes] = bytes(piece)

    def read_at(self, n_bytes: int, first: int) -> bytes:
        """Return bytes from a place on, fewer only where the object ends."""
        fetched = self._fetched.pop((first, n_bytes), None)
        if fetched is not None:
            return fetched
        try:
            with _asking(self._path) as client:
                return bytes(client.get_range(self._path.key, start=first, length=n_bytes))
        except _OutOfRangeError:
            return b""


def _spans(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int, list[tuple[int, int]]]]:
    """Join ranges with gaps below a megabyte; return first byte, end and ranges of each request.

    Examples
    --------
    >>> _spans([(0, 10), (20, 5), (9_000_000, 7)])
    [(0, 25, [(0, 10), (20, 5)]), (9000000, 9000007, [(9000000, 7)])]
    """
    spans: list[tuple[int, int, list[tuple[int, int]]]] = []
    for first, n_bytes in ranges:
        if spans and first - spans[-1][1] < _GAP_BYTES:
            start, end, within = spans[-1]
            within.append((first, n_bytes))
            spans[-1] = (start, max(end, first + n_bytes), within)
        else:
            spans.append((first, first + n_bytes, [(first, n_bytes)]))
    return spans


class _OutOfRangeError(Exception):
    """Bytes were asked for beyond the end of an object."""


@lru_cache(maxsize=16)
def _client(bucket: str, process: int) -> "S3Store":
    """Return the connection of a process to a bucket, set up from the environment."""
    from obstore.store import S3Store

    return S3Store(
        bucket,
        retry_config=_RETRIES,  # type: ignore[arg-type]
    )


@contextmanager
def _asking(path: ObjectPath) -> Iterator["S3Store"]:
    """Yield the connection to a bucket, and turn its errors into sentences."""
    try:
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
    except ImportError as error:
        raise ObjectStoreError(
            f'{path}: object stores need the package obstore; pip install "ionstore[s3]"'
        ) from error
    try:
        yield _client(path.bucket, os.getpid())
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise _no_bucket(path) from error
        raise FileNotFoundError(errno.ENOENT, "no such object", str(path)) from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise ObjectStoreError(
            f"{path}: the object store refuses the credentials{_code(error)}; check "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they may do with the bucket "
            f"{path.bucket}"
        ) from error
    except BaseError as error:
        said = str(error)
        if "NoSuchBucket" in said:
            raise _no_bucket(path) from error
        if "416 Range Not Satisfiable" in said or "non-partial response" in said:
            raise _OutOfRangeError from error
        raise ObjectStoreError(f"{path}: {_what_happened(said)}") from error


def _no_bucket(path: ObjectPath) -> ObjectStoreError:
    return ObjectStoreError(
        f"{path}: there is no bucket {path.bucket} at {_endpoint()}; create it, or check its name "
        "and AWS_ENDPOINT_URL"
    )


def _what_happened(said: str) -> str:
    """Return the second half of a sentence about an error that has no name."""
    if "169.254.169.254" in said:  # the address at which machines in a cloud get credentials
        return (
            "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_SKIP_SIGNATURE=true for a bucket that is open to all"
        )
    if "builder error" in said:
        return (
            f"{_endpoint()} is not encrypted; set AWS_ALLOW_HTTP=true if that is meant, or "
            "AWS_ENDPOINT_URL to an address that begins with https://"
        )
    if "HTTP error" in said:
        return (
            f"{_endpoint()} cannot be reached; check the network and AWS_ENDPOINT_URL, and run "
            "the same command again"
        )
    words = said.split("\n", 1)[0]
    short = words if len(words) <= _WORDS else f"{words[:_WORDS]}…"
    return (
        f"the object store answered with an error ({short}); check AWS_REGION and "
        "AWS_ENDPOINT_URL, or try again later"
    )


def _code(error: Exception) -> str:
    found = re.search(r"<Code>(\w+)</Code>", str(error))
    return f" ({found[1]})" if found else ""


def _endpoint() -> str:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        if os.environ.get(name):
            return os.environ[name]
    return "Amazon S3"
