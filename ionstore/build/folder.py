"""`FolderBuild`: a store built in ``STORE.partial`` beside its place, and swapped in at the end."""

import errno
import fcntl
import os
import shlex
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from ionstore.build.base import Build
from ionstore.build.parts import PARTS, PartRecords, read_record
from ionstore.build.shard_writer import ShardWriter
from ionstore.build.store_writer import StoreWriter
from ionstore.errors import StoreExistsError, StoreFormatError
from ionstore.storage.disk_space import require_space
from ionstore.storage.files import put_back, swap_in, sync, write_json
from ionstore.store.metadata import (
    BUILD_LOCK,
    PLAN,
    ROOT_METADATA,
    parse_attributes,
    partial_folder,
    read_root_metadata,
)


class FolderBuild(Build):
    """A store built in the folder ``STORE.partial``, which holds its lock and its records too.

    They lie beside the store, never in it. Of a symbolic link, the folder that it leads to is
    built or replaced; the link stays.
    """

    target: Path
    place: Path

    def __init__(self, target: Path, *, overwrite: bool = False) -> None:
        self.target = target
        self.overwrite = overwrite
        # Absolute, since the working folder may be the store that is replaced; resolved, since
        # swapping in would otherwise replace a symbolic link and not the folder it leads to.
        self.place = Path(os.path.realpath(target))
        self.folder = partial_folder(target)
        self.store_path = self.folder / "store"
        self.records = PartRecords(self.folder / PARTS)
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Self:
        if not self.folder.exists():
            self.check_target()  # before a folder is made beside what may not be replaced
        elif any(self.folder.iterdir()) and not self._lock_path.exists():
            raise StoreExistsError(
                f"{self.folder}: this folder is in the way and no build of ionstore; "
                "move it or choose another store"
            )
        self._acquire()
        try:
            # In this order: an earlier build may have been killed in the middle of its swap, and
            # only what it left in place tells if it was finished and if the target is free.
            put_back(self.folder, self.place)
            if self._is_leftover():
                self._clear()
            self.check_target()
            self._check_permissions()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._leave()

    def plan(self) -> dict[str, Any] | None:
        """Return the recorded plan, None when there is none."""
        return read_record(self.folder / PLAN)

    def begin(self, plan: dict[str, Any]) -> None:
        """Start afresh with a plan and discard whatever was built before."""
        self.discard()
        (self.folder / PARTS).mkdir()
        # Last: whoever finds a plan resumes, and needs the folder of the records.
        write_json(self.folder / PLAN, plan)

    def discard(self) -> None:
        """Remove the plan and what was built, but keep spooled values."""
        # The plan goes first: a removal that is killed must not look like a build to resume.
        (self.folder / PLAN).unlink(missing_ok=True)
        for name in (PARTS, "store"):
            if (self.folder / name).exists():
                shutil.rmtree(self.folder / name)

    def check(self) -> None:
        """Do nothing: the system keeps the lock of a folder for as long as this process runs."""

    def check_shard_space(self, estimate_bytes: Callable[[], int]) -> None:
        """Check that the disk has room for the shards to come."""
        require_space(self.folder, estimate_bytes(), self.target)

    def spool_path(self, field: str, redshift_index: int) -> Path:
        """Return where the values of a source that cannot be cut are kept."""
        return self.folder / f"{field}-{redshift_index}.spool"

    def share_spool(self, path: Path) -> Path:
        """Return spooled values as they are: the workers of a cluster see the same folder."""
        return path

    def shard_writer(self, skeleton: StoreWriter) -> ShardWriter:
        """Return the writer of the shards of a store that was created at `store_path`."""
        return skeleton.shards

    def folder_beside(self, suffix: str) -> Path:
        """Return a folder beside the store that all machines see."""
        return self.place.with_name(f"{self.place.name}.{suffix}")

    def publish(self) -> None:
        """Swap the finished store into its place and remove the rest."""
        _remove_torn_files(self.store_path)
        # Before the swap: after a power failure, a renamed folder may be there without its content.
        _sync_tree(self.store_path)
        swap_in(self.store_path, self.place)
        self._clear()

    @property
    def _lock_path(self) -> Path:
        return self.folder / BUILD_LOCK

    def check_target(self) -> None:
        """Raise StoreExistsError if something is at the target that may not be replaced."""
        if not os.path.lexists(self.place):
            there = next(one for one in self.place.parents if os.path.lexists(one))
            if not there.is_dir():
                reason = os.strerror(errno.ENOTDIR)
                raise NotADirectoryError(errno.ENOTDIR, reason, str(self.folder))
            return
        try:
            read_root_metadata(self.target)
        except StoreFormatError as error:
            raise StoreExistsError(
                f"{self.target}: already exists and is no store of ionstore, so it is not touched; "
                "move it or choose another store"
            ) from error
        if not self.overwrite:
            raise StoreExistsError(
                f"{self.target}: already exists; choose another store or give --overwrite"
            )

    def _check_permissions(self) -> None:
        # A folder that cannot be written to can neither be swapped out nor be emptied then.
        for folder, _, _ in os.walk(self.place):
            if not os.access(folder, os.W_OK):
                raise StoreExistsError(
                    f"{self.target}: this store is write-protected; make its folders writable "
                    f"(chmod -R u+w {shlex.quote(str(self.target))}) or work on a copy"
                )

    def _acquire(self) -> None:
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock = self._lock_path.open("ab")
            except FileNotFoundError:
                continue  # removed by a build that has just finished
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A build that finished between opening and locking removed this file, and the
                # lock of a removed file excludes nobody: try again with the file that is there.
                if os.path.samestat(os.fstat(lock.fileno()), os.stat(self._lock_path)):
                    self._lock = lock
                    return
                lock.close()
            except BlockingIOError as error:
                lock.close()
                raise StoreExistsError(
                    f"{self.target}: another process is building or editing this store; "
                    "wait for it, or choose another store"
                ) from error
            except FileNotFoundError:
                lock.close()

    def _leave(self) -> None:
        # A plan that cannot be read does not mean that there is none, so nothing is removed then.
        with suppress(OSError):
            put_back(self.folder, self.place)  # after a swap that failed between its two renames
            if self.plan() is None:
                shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _is_leftover(self) -> bool:
        """Return whether an earlier build had swapped its store in when it was killed."""
        plan = self.plan()
        if plan is None:
            return False
        try:
            root = read_root_metadata(self.place)
            return parse_attributes(self.place, root).uuid == plan.get("uuid")
        except StoreFormatError:
            return False

    def _clear(self) -> None:
        self.discard()
        for path in self.folder.iterdir():
            if path == self._lock_path:  # still held; `_leave` removes it with the folder
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _remove_torn_files(store: Path) -> None:
    """Remove the temporary files that Zarr had beside its own when a build was killed."""
    for path in store.rglob("*"):
        if path.is_file() and path.name != ROOT_METADATA and not path.name.isdigit():
            path.unlink()


def _sync_tree(store: Path) -> None:
    """Bring metadata and coordinates to the disk; the shards are there already."""
    for path in (*store.rglob(ROOT_METADATA), *store.glob("*/c/0")):
        sync(path)
    for folder in (store, *(path for path in store.iterdir() if path.is_dir())):
        sync(folder)
