"""`ObjectLock`: one writer at a time below a key of an object store, which has no locks of its own.

The lock is an object that only one process can create. Its holder puts it again every half minute.
A holder that has not done so for three minutes, or is a process of this machine that has ended,
loses the lock to the next process that asks for it.

A holder may not notice that it lost the lock, so every write checks it first. Writes that are under
way when the lock changes hands cannot be called back: at most one object of each thread.
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
STALE_S = 180.0  # several refreshes may fail before the lock is lost

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LockClaim:
    """Checks that a lock is still held; pickled for the workers that write under it."""

    path: ObjectPath
    target: ObjectPath  # the store that is locked, for messages
    token: str

    def check(self) -> None:
        """Raise StoreExistsError if another process has taken the lock; takes one request."""
        try:
            held = self.holds(self.path.read_bytes())
        except FileNotFoundError:
            held = False
        if not held:
            raise _lost(self.target)

    def holds(self, content: bytes) -> bool:
        """Return whether this is the content that the holder of the lock puts."""
        return self.token.encode() in content


class ObjectLock:
    """A lock held from entering to leaving."""

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
        # A lock that cannot be given back is taken over by the next process.
        with suppress(ObjectStoreError):
            if self._own_stamp() is not None:
                self._path.unlink()

    def check(self) -> None:
        """Refresh the lock; raise StoreExistsError if another process has taken it."""
        with self._guard:
            if self._stamp is not None:
                # Refused does not mean lost: if the answer to an earlier refresh did not arrive,
                # this process itself has changed the stamp.
                put = self._path.replace(self._encoded(), self._stamp)
                self._stamp = put or self._own_stamp()
            if self._stamp is None:
                raise _lost(self._target)

    def _keep_alive(self) -> None:
        while not self._left.wait(REFRESH_S):
            try:
                self.check()
            except StoreExistsError:
                return  # the next write raises it
            except ObjectStoreError as error:
                _log.warning("%s", error)

    def _own_stamp(self) -> str | None:
        """Return the present stamp of the lock, None if this process does not hold it."""
        try:
            content, stamp = self._path.read_stamped()
        except FileNotFoundError:
            return None
        return stamp if self.claim.holds(content) else None

    def _encoded(self) -> bytes:
        # The time changes the content, and so the stamp, with every refresh.
        now = datetime.now(UTC).isoformat()
        return json.dumps({**self._content, "refreshed": now}).encode()

    def _take_over(self) -> None:
        """Take the lock from a holder that has ended or is silent; refuse if it is alive."""
        try:
            content, stamp = self._path.read_stamped()
            silent_s = self._silent_s()
        except FileNotFoundError:
            return  # given back meanwhile, so it can be created
        try:
            holder = json.loads(content)
            host, pid, since = holder["host"], int(holder["pid"]), holder["since"]
        except (ValueError, KeyError, TypeError):
            holder, host, pid, since = {}, "an unknown host", 0, "an unknown time"
        if silent_s > STALE_S or self._has_ended(holder):
            # By the stamp, so that of several processes only one takes it.
            self._stamp = self._path.replace(self._encoded(), stamp)
            return
        raise StoreExistsError(
            f"{self._target}: process {pid} on {host} has been building this store since {since}; "
            f"wait for it, or end it and run the same command {STALE_S / 60:.0f} minutes after its "
            f"last sign of life, which was {silent_s:.0f} s ago"
        )

    def _silent_s(self) -> float:
        """Return for how many seconds the lock was not refreshed."""
        # By the clock of the object store, as the clocks of machines may differ by minutes.
        probe = self._path.with_name("clock")
        probe.write_bytes(b"")
        return (probe.modified() - self._path.modified()).total_seconds()

    def _has_ended(self, holder: dict[str, Any]) -> bool:
        """Return whether the holder was a process of this machine that has ended."""
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
    """Return the namespace of this process: containers may share a host name, but not processes."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None
