"""`ObjectLock`: one writer at a time below a key of an object store, which has no locks of its own.

An object that only one can create holds who has the lock. Its holder puts it again every half
minute; one that has shown no such sign of life for three minutes, or is a process of this machine
that has ended, has lost the lock to whoever asks for it next.

Who has lost the lock may not know it: whatever is put under it is put after a look at the lock.
What is under way when the lock changes hands cannot be called back: one object of each thread.
"""

import json
import logging
import os
import socket
import threading
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from ionstore.errors import ObjectStoreError, StoreExistsError
from ionstore.storage.s3 import ObjectPath

REFRESH_S = 30.0
STALE_S = 180.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LockClaim:
    """Tells whether a lock is held for a process or its helpers: light, and pickled for these.

    Parameters
    ----------
    path : ObjectPath
        Key of the object that holds who has the lock.
    target : ObjectPath
        Key of the store that is locked, for messages.
    token : str
        What the object holds while the lock is held.
    """

    path: ObjectPath
    target: ObjectPath
    token: str

    def check(self) -> None:
        """Make sure that the lock is still held; takes one request.

        Raises
        ------
        StoreExistsError
            If another process has taken it over, be it done with it already.
        ObjectStoreError
            If the object store does not answer.
        """
        try:
            held = self.holds(self.path.read_bytes())
        except FileNotFoundError:
            held = False
        if not held:
            raise _lost(self.target)

    def holds(self, content: bytes) -> bool:
        """Tell whether this is the lock as its holder puts it."""
        return self.token.encode() in content


class ObjectLock:
    """A lock held from entering to leaving.

    Parameters
    ----------
    path : ObjectPath
        Key of the object that holds who has the lock.
    target : ObjectPath
        Key of the store that is locked, for messages.

    Attributes
    ----------
    claim : LockClaim
        For whatever puts objects under the lock to ask.

    Raises
    ------
    StoreExistsError
        On entering: if another process has the lock.
    ObjectStoreError
        On entering: if the object store does not answer.
    """

    def __init__(self, path: ObjectPath, target: ObjectPath) -> None:
        self._path = path
        self._target = target
        self._stamp: str | None = None
        self._content: dict[str, Any] = {}
        self.claim = LockClaim(path, target, uuid.uuid4().hex)
        self._guard = threading.Lock()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name="ionstore-lock", daemon=True)

    def __enter__(self) -> Self:
        self._content = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "pid_namespace": _pid_namespace(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "token": self.claim.token,
        }
        while self._stamp is None:
            self._stamp = self._path.create(self._encoded())
            if self._stamp is None:
                self._take_over()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._left.set()
        self._thread.join()
        # What is not given back here is taken over later.
        with suppress(ObjectStoreError):
            if self._own_stamp() is not None:
                self._path.unlink()

    def check(self) -> None:
        """Show a sign of life, and make sure that the lock is still held.

        Raises
        ------
        StoreExistsError
            If another process has taken it over.
        ObjectStoreError
            If the object store does not answer.
        """
        with self._guard:
            if self._stamp is not None:
                # A sign of life whose answer was lost has changed the stamp as well.
                put = self._path.replace(self._encoded(), self._stamp)
                self._stamp = put or self._own_stamp()
            if self._stamp is None:
                raise _lost(self._target)

    def _keep_alive(self) -> None:
        while not self._left.wait(REFRESH_S):
            try:
                self.check()
            except StoreExistsError:
                return  # said when something is to be put
            except ObjectStoreError as error:
                _log.warning("%s", error)

    def _own_stamp(self) -> str | None:
        """Return the stamp of the lock as it is now, None if another holds it or nobody."""
        try:
            content, stamp = self._path.read_stamped()
        except FileNotFoundError:
            return None
        return stamp if self.claim.holds(content) else None

    def _encoded(self) -> bytes:
        # The time makes every sign of life another object.
        now = datetime.now(UTC).isoformat()
        return json.dumps({**self._content, "refreshed": now}).encode()

    def _take_over(self) -> None:
        """Take a lock whose holder is gone; leave one that is gone itself to be created."""
        try:
            content, stamp = self._path.read_stamped()
            silent_s = self._silent_s()
        except FileNotFoundError:
            return
        try:
            holder = json.loads(content)
            host, pid, since = holder["host"], int(holder["pid"]), holder["since"]
        except (ValueError, KeyError, TypeError):
            holder, host, pid, since = {}, "an unknown host", 0, "an unknown time"
        if silent_s > STALE_S or self._has_ended(holder):
            self._stamp = self._path.replace(self._encoded(), stamp)
            return
        raise StoreExistsError(
            f"{self._target}: process {pid} on {host} has been building this store since {since}; "
            f"wait for it, or end it and run the same command {STALE_S / 60:.0f} minutes after its "
            f"last sign of life, which was {silent_s:.0f} s ago"
        )

    def _silent_s(self) -> float:
        """Return how long the lock has not been put again, by the clock of the object store."""
        probe = self._path.with_name("clock")
        probe.write_bytes(b"")
        return (probe.modified() - self._path.modified()).total_seconds()

    def _has_ended(self, holder: dict[str, Any]) -> bool:
        """Tell whether the holder was a process of this machine that is there no more."""
        same = ("host", "pid_namespace")
        if any(holder.get(key) != self._content[key] for key in same):
            return False
        try:
            os.kill(int(holder["pid"]), 0)
        except ProcessLookupError:
            return True
        except (OSError, ValueError, KeyError, OverflowError):
            pass
        return False


def _lost(target: ObjectPath) -> StoreExistsError:
    return StoreExistsError(
        f"{target}: this process showed no sign of life for {STALE_S:.0f} s, and another one took "
        "the store over; see whether that one finishes it"
    )


def _pid_namespace() -> int | None:
    """Return what tells apart containers that share the name of their host."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None
