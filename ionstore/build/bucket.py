"""`BucketBuild`: a store built in a bucket, where nothing can be renamed.

Shards are put at their final keys. The metadata of the root, which say that the store is complete,
are put last: until then readers find no store. The records lie beside it, below ``STORE.partial/``.

Every write and removal is made under a lock, which is checked each time before. A process that was
silent for so long that another one took the lock can therefore spoil, of the work of that one, only
the object that it was writing at that moment.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from ionstore.build.base import Build
from ionstore.build.parts import PARTS, PartRecords, read_record
from ionstore.build.shard_writer import ShardWriter
from ionstore.build.store_writer import StoreWriter
from ionstore.errors import StoreExistsError, StoreFormatError
from ionstore.reporter import SILENT, Reporter
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

_SKELETON = "store"  # the store without its values: metadata and coordinates
_SPOOLS = "spools"


class BucketBuild(Build):
    """A store built below a key of a bucket.

    Its skeleton, a store without values, is made in a temporary folder of this machine by the same
    code as a store in a folder, and put from there. Spooled values lie there too, until shared.
    """

    target: ObjectPath
    place: ObjectPath

    def __init__(
        self,
        target: ObjectPath,
        *,
        overwrite: bool = False,
        reporter: Reporter = SILENT,
    ) -> None:
        self.target = self.place = target
        self.overwrite = overwrite
        self._reporter = reporter
        self._partial = partial_folder(target)
        self._lock = ObjectLock(self._partial / BUILD_LOCK, target)
        self._claim = self._lock.claim
        self.records = PartRecords(self._partial / PARTS, self._claim)
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
        """Return the recorded plan, None when there is none."""
        return read_record(self._partial / PLAN)

    def begin(self, plan: dict[str, Any]) -> None:
        """Start afresh with a plan; remove whatever was built before, and an old store."""
        # The plan first, unlike in a folder: what a killed removal leaves at the final keys is then
        # known as an unfinished build, and not taken for objects of somebody else.
        self._put(self._partial / PLAN, json.dumps(plan).encode())
        self._remove_built()

    def discard(self) -> None:
        """Remove the plan and what was built, but keep spooled values."""
        self._remove_built()
        (self._partial / PLAN).unlink()  # last, for the same reason

    def check(self) -> None:
        """Raise StoreExistsError if another process has taken the build over."""
        self._lock.check()

    def check_shard_space(self, estimate_bytes: Callable[[], int]) -> None:
        """Do nothing: a bucket has no bounds that could be asked for."""

    def spool_path(self, field: str, redshift_index: int) -> Path:
        """Return where the values of a source that cannot be cut are kept."""
        return self.folder / f"{field}-{redshift_index}.spool"

    def share_spool(self, path: Path) -> ObjectPath:
        """Move spooled values to where other machines see them, until the build is left."""
        shared = self._partial / _SPOOLS / path.name
        self._claim.check()
        shared.upload(path)
        path.unlink()
        return shared

    def shard_writer(self, skeleton: StoreWriter) -> ShardWriter:
        """Put the skeleton beside the records, and return the writer of the shards."""
        # A resumed build, perhaps on another machine, must go on with the same metadata.
        for path in _files(self.store_path):
            parts = path.relative_to(self.store_path).parts
            self._put(self._partial.joinpath(_SKELETON, *parts), path.read_bytes())
        return replace(skeleton.shards, place=self.place, claim=self._claim)

    def folder_beside(self, suffix: str) -> None:
        """Return None: a bucket holds no folders."""

    def publish(self) -> None:
        """Put metadata and coordinates, which makes a store of the shards, and remove the build."""
        root = self.store_path / ROOT_METADATA
        # The root last: by it readers tell that there is a store, so the rest must be there.
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
        """Raise StoreExistsError if something is at the target that may not be replaced."""
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
            self._reporter.note(
                "an object store has no rename: the old store is removed now, and there is none "
                "to read until the new one is complete"
            )
        # Records go before the shards that they record: a record must never outlive its shard. The
        # root goes before the rest of its store: readers must not find a store with holes.
        self._remove_below(self._partial / PARTS)
        self._claim.check()
        (self.place / ROOT_METADATA).unlink()
        self._remove_below(self.place)
        self._remove_below(self._partial / _SKELETON)
        shutil.rmtree(self.store_path, ignore_errors=True)

    def _is_leftover(self) -> bool:
        """Return whether an earlier build had put its root when it was killed."""
        plan, root = self.plan(), self._complete_root()
        if plan is None or root is None:
            return False
        return parse_attributes(self.place, root).uuid == plan.get("uuid")

    def _clear(self) -> None:
        """Remove the build."""
        # The plan last: without it, what a killed removal leaves would not be known as a build.
        for name in (PARTS, _SKELETON, _SPOOLS):
            self._remove_below(self._partial / name)
        (self._partial / PLAN).unlink()

    def _tidy(self) -> None:
        try:
            self.check()
        except StoreExistsError:
            return  # all that lies there belongs to the process that took over
        (self._partial / "clock").unlink()
        if self.plan() is None:
            self._clear()
        else:
            self._remove_below(self._partial / _SPOOLS)  # a resumed build spools again


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
