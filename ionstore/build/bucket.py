"""`ObjectBuild`: a store being built below a key of an object store, where nothing is renamed.

Keys are final: shards are put where they belong, and the metadata of the root, which say that the
store is complete, are put last. Until then readers find no store. The books lie beside it, below
``STORE.partial/``.

All is put and removed under a lock, which is looked at each time before. A process that was silent
for so long that another took over can spoil what that one makes only by what it was just at then.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from ionstore.build.folder import StoreBuild
from ionstore.build.parts import PARTS, ObjectBooks, read_record
from ionstore.build.shard_writer import ShardWriter
from ionstore.build.store_writer import StoreWriter
from ionstore.errors import StoreExistsError, StoreFormatError
from ionstore.storage.paths import parse_place
from ionstore.storage.s3 import ObjectPath
from ionstore.storage.s3_lock import ObjectLock
from ionstore.store.metadata import (
    BUILD_LOCK,
    PLAN,
    ROOT_METADATA,
    parse_attributes,
    partial_folder,
    read_root_metadata,
)

_SKELETON = "store"
_SPOOLS = "spools"


class ObjectBuild:
    """The objects below ``STORE.partial/`` while a store is built, locked against other builds.

    Parameters
    ----------
    target : ObjectPath
        Key of the store.
    overwrite : bool
        Whether a store there may be replaced.
    on_note : callable, optional
        Called with each line that the user should read.

    Raises
    ------
    StoreExistsError
        On entering: if something stands there already, or another build of it is running.
    ObjectStoreError
        On entering: if the object store does not answer.

    Notes
    -----
    A store without values is made in a temporary folder of this machine, `store_path`, by the same
    code as any other; its metadata and coordinates are what is put. Spooled values lie there too,
    unless they are shared. Leaving keeps the books when a plan has been recorded, so that the build
    can be resumed.
    """

    def __init__(
        self,
        target: ObjectPath,
        *,
        overwrite: bool = False,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        self.target = self.place = target
        self.overwrite = overwrite
        self._note = on_note or (lambda line: None)
        self._partial = partial_folder(target)
        self._lock = ObjectLock(self._partial / BUILD_LOCK, target)
        self._claim = self._lock.claim
        self.books = ObjectBooks(self._partial / PARTS, self._claim)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            temporary = tempfile.TemporaryDirectory(
                prefix="ionstore-ingest-", ignore_cleanup_errors=True
            )
            self.folder = Path(stack.enter_context(temporary))
            self.store_path = self.folder / _SKELETON
            if self.plan() is None:
                self.check_target()  # before anything is put
            stack.enter_context(self._lock)
            stack.callback(self._tidy)
            if self._is_leftover():
                self._clear()
            self.check_target()
            self._fetch_skeleton()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def plan(self) -> dict[str, Any] | None:
        """Return the recorded plan, None when there is none.

        Raises
        ------
        ObjectStoreError
            If the object store does not answer.
        """
        return read_record(self._partial / PLAN)

    def begin(self, plan: dict[str, Any]) -> None:
        """Start afresh with a plan: whatever was built before, and an old store, is removed.

        Raises
        ------
        StoreExistsError
            If another process has taken the build over.
        ObjectStoreError
            If the object store does not do it.
        """
        # The plan stands before anything is removed: what a killed removal leaves is a build.
        self._put(self._partial / PLAN, json.dumps(plan).encode())
        self._remove_built()

    def discard(self) -> None:
        """Remove the plan and what was built, but keep spooled values.

        Raises
        ------
        StoreExistsError
            If another process has taken the build over.
        ObjectStoreError
            If the object store does not do it.
        """
        self._remove_built()
        (self._partial / PLAN).unlink()

    def check(self) -> None:
        """Make sure that the build is still that of this process.

        Raises
        ------
        StoreExistsError
            If another process has taken it over.
        ObjectStoreError
            If the object store does not answer.
        """
        self._lock.check()

    def spool_path(self, field: str, redshift_index: int) -> Path:
        """Return where the values of a source that cannot be cut are kept."""
        return self.folder / f"{field}-{redshift_index}.spool"

    def share_spool(self, path: Path) -> ObjectPath:
        """Move spooled values to where other machines see them, until the build is left.

        Parameters
        ----------
        path : Path
            One of `spool_path`, written.

        Raises
        ------
        StoreExistsError
            If another process has taken the build over.
        OSError
            If the object store does not take them.
        """
        shared = self._partial / _SPOOLS / path.name
        self._claim.check()
        shared.upload(path)
        path.unlink()
        return shared

    def shard_writer(self, skeleton: StoreWriter) -> ShardWriter:
        """Return what puts the shards of a store that was made at `store_path`, without values.

        Raises
        ------
        StoreExistsError
            If another process has taken the build over.
        ObjectStoreError
            If the object store does not take it.

        Notes
        -----
        The store without values is kept with the books: a resumed build goes on with the same.
        """
        for path in _files(self.store_path):
            parts = path.relative_to(self.store_path).parts
            self._put(self._partial.joinpath(_SKELETON, *parts), path.read_bytes())
        return replace(skeleton.shards, place=self.place, claim=self._claim)

    def publish(self) -> None:
        """Put metadata and coordinates, the root last: from then on there is a store.

        Raises
        ------
        StoreExistsError
            If another process has taken the build over.
        ObjectStoreError
            If the object store does not take it.
        """
        root = self.store_path / ROOT_METADATA
        for path in _files(self.store_path):
            if path != root:
                parts = path.relative_to(self.store_path).parts
                self._put(self.place.joinpath(*parts), path.read_bytes())
        self.check()
        (self.place / ROOT_METADATA).write_bytes(root.read_bytes())
        self._clear()

    def _put(self, path: ObjectPath, content: bytes) -> None:
        self._claim.check()
        path.write_bytes(content)

    def _remove_below(self, path: ObjectPath) -> None:
        self._claim.check()
        path.remove_below()

    def check_target(self) -> None:
        """Check that a store may come to its place.

        Raises
        ------
        StoreExistsError
            If something is there that may not be replaced.
        ObjectStoreError
            If the object store does not answer.
        """
        root = self._complete_root()
        if root is None and (self.plan() is not None or not self.place.exists()):
            return
        if root is None:
            raise StoreExistsError(
                f"{self.target}: already exists and is no store of ionstore, so it is not touched; "
                "remove it or choose another store"
            )
        if not self.overwrite:
            raise StoreExistsError(
                f"{self.target}: already exists; choose another store or give --overwrite"
            )

    def _complete_root(self) -> dict[str, Any] | None:
        try:
            return read_root_metadata(self.place)
        except StoreFormatError:
            return None

    def _fetch_skeleton(self) -> None:
        kept = self._partial / _SKELETON
        for path, _ in kept.sizes():
            local = self.store_path.joinpath(*path.key.removeprefix(f"{kept.key}/").split("/"))
            local.parent.mkdir(parents=True, exist_ok=True)
            local.write_bytes(path.read_bytes())

    def _remove_built(self) -> None:
        self.check()
        if self._complete_root() is not None:
            self._note(
                "an object store has no rename: the old store is removed now, and there is none "
                "to read until the new one is complete"
            )
        # Records go before what they tell of; the root goes first of a store.
        self._remove_below(self.books.folder)
        self._claim.check()
        (self.place / ROOT_METADATA).unlink()
        self._remove_below(self.place)
        self._remove_below(self._partial / _SKELETON)
        shutil.rmtree(self.store_path, ignore_errors=True)

    def _is_leftover(self) -> bool:
        """Tell whether this build had put its root when it was killed."""
        plan, root = self.plan(), self._complete_root()
        if plan is None or root is None:
            return False
        return parse_attributes(self.place, root).uuid == plan.get("uuid")

    def _clear(self) -> None:
        """Remove the books, the plan last: by it a killed removal is known."""
        for name in (PARTS, _SKELETON, _SPOOLS):
            self._remove_below(self._partial / name)
        (self._partial / PLAN).unlink()

    def _tidy(self) -> None:
        try:
            self.check()
        except StoreExistsError:
            return  # what lies there is of who has taken over
        (self._partial / "clock").unlink()
        if self.plan() is None:
            self._clear()
        else:
            self._remove_below(self._partial / _SPOOLS)  # every run spools again


def start_build(
    target: Path | ObjectPath,
    *,
    overwrite: bool = False,
    append: bool = False,
    on_note: Callable[[str], None] | None = None,
) -> StoreBuild | ObjectBuild:
    """Return the build of a store, to be entered: in a folder, or in an object store.

    Parameters
    ----------
    target : Path or ObjectPath
        Where the store goes.
    overwrite : bool
        Whether a store there may be replaced.
    append : bool
        Whether redshifts are to be added to it.
    on_note : callable, optional
        Called with each line that the user should read.

    Raises
    ------
    StoreFormatError
        If the address is not that of a key, or redshifts are to be added in an object store.
    """
    place = parse_place(target)
    if isinstance(place, Path):
        return StoreBuild(place, overwrite=overwrite or append)
    if append:
        raise StoreFormatError(
            f"{place}: redshifts cannot be added in an object store, which has no rename; ingest "
            "all of them into a new store, or add them to a copy in a folder"
        )
    return ObjectBuild(place, overwrite=overwrite, on_note=on_note)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
