"""`StoreBuild`: a store being built beside its place, to be resumed and swapped in."""

import fcntl
import os
import shlex
import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from ionstore.build.parts import PARTS, PartBooks, read_record
from ionstore.errors import StoreExistsError, StoreFormatError
from ionstore.storage.files import put_back, swap_in, sync, write_json
from ionstore.store.metadata import (
    BUILD_LOCK,
    PLAN,
    ROOT_METADATA,
    parse_attributes,
    partial_folder,
    read_root_metadata,
)


class StoreBuild:
    """The folder ``STORE.partial`` while a store is built in it, locked against other builds.

    Parameters
    ----------
    target : Path
        Where the finished store goes. Of a symbolic link, the folder that it leads to is built
        or replaced; the link stays.
    overwrite : bool
        Whether a store there may be replaced.

    Raises
    ------
    StoreExistsError
        On entering: if something stands there already that is no store, may not be replaced or is
        write-protected, or if another build of it is running.

    Notes
    -----
    The books (`plan.json`, `parts/`, `lock`) lie beside the store, never in it. Leaving keeps the
    folder when a plan has been recorded, so that the build can be resumed, and removes it else.
    """

    def __init__(self, target: Path, *, overwrite: bool = False) -> None:
        self.target = target
        self.overwrite = overwrite
        # Absolute: the working folder may be the store that is replaced.
        self.place = Path(os.path.realpath(target))
        self.folder = partial_folder(target)
        self.store_path = self.folder / "store"
        self.books = PartBooks(self.folder / PARTS)
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Self:
        if not self.folder.exists():
            self.check_target()
        elif any(self.folder.iterdir()) and not self._lock_path.exists():
            raise StoreExistsError(
                f"{self.folder}: this folder is in the way and no build of ionstore; "
                "move it or choose another store"
            )
        self._acquire()
        try:
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
        """Return the recorded plan, None when there is none.

        Raises
        ------
        OSError
            If it cannot be read.
        """
        return read_record(self.folder / PLAN)

    def begin(self, plan: dict[str, Any]) -> None:
        """Start afresh with a plan: whatever was built before is discarded.

        Raises
        ------
        OSError
            If something cannot be removed or written.
        """
        self.discard()
        (self.folder / PARTS).mkdir()
        write_json(self.folder / PLAN, plan)

    def discard(self) -> None:
        """Remove the plan and what was built, but keep spooled values.

        Raises
        ------
        OSError
            If something cannot be removed.
        """
        (self.folder / PLAN).unlink(missing_ok=True)
        for name in (PARTS, "store"):
            if (self.folder / name).exists():
                shutil.rmtree(self.folder / name)

    def spool_path(self, field: str, redshift_index: int) -> Path:
        """Return where the values of a source that cannot be cut are kept."""
        return self.folder / f"{field}-{redshift_index}.spool"

    def publish(self) -> None:
        """Swap the finished store into its place and remove the rest.

        Raises
        ------
        OSError
            If it cannot be brought to the disk or into its place, where the old store then stays,
            or if something cannot be removed.
        """
        _remove_torn_files(self.store_path)
        _sync_tree(self.store_path)
        swap_in(self.store_path, self.place)
        self._clear()

    @property
    def _lock_path(self) -> Path:
        return self.folder / BUILD_LOCK

    def check_target(self) -> None:
        """Check that a store may come to its place.

        Raises
        ------
        StoreExistsError
            If something is there that may not be replaced.
        """
        if not os.path.lexists(self.place):
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
        # What cannot be read is no reason to remove it.
        with suppress(OSError):
            put_back(self.folder, self.place)  # of a swap that failed in the midst
            if self.plan() is None:
                shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _is_leftover(self) -> bool:
        """Tell whether this build had swapped its store in when it was killed."""
        plan = self.plan()
        if plan is None:
            return False
        try:
            root = read_root_metadata(self.place)
            return parse_attributes(self.place, root).uuid == plan.get("uuid")
        except StoreFormatError:
            return False

    def _clear(self) -> None:
        # The plan goes first: without it, a killed removal is not taken for a build to resume.
        self.discard()
        for path in self.folder.iterdir():
            if path == self._lock_path:
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _remove_torn_files(store: Path) -> None:
    """Remove what Zarr was writing beside its files when a build was killed."""
    for path in store.rglob("*"):
        if path.is_file() and path.name != ROOT_METADATA and not path.name.isdigit():
            path.unlink()


def _sync_tree(store: Path) -> None:
    """Bring metadata and coordinates to the disk; the shards are there already."""
    for path in (*store.rglob(ROOT_METADATA), *store.glob("*/c/0")):
        sync(path)
    for folder in (store, *(path for path in store.iterdir() if path.is_dir())):
        sync(folder)
