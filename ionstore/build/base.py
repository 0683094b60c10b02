"""`Build`: a store being built, to be resumed after a kill; the contract of both kinds."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from ionstore.build.parts import PartRecords
from ionstore.build.shard_writer import ShardWriter
from ionstore.build.store_writer import StoreWriter
from ionstore.storage.paths import StorePath


class Build(ABC):
    """A store being built, locked against other builds from entering to leaving.

    Leaving keeps what was built when a plan has been recorded, so that the same command resumes,
    and removes it otherwise.

    Attributes
    ----------
    target : Path or ObjectPath
        The store as the user named it, for messages.
    place : Path or ObjectPath
        Where the finished store goes: the target, with symbolic links resolved.
    overwrite : bool
        Whether a store there may be replaced.
    folder : Path
        Folder on this machine for spooled values; temporary for a bucket.
    store_path : Path
        Folder on this machine in which `create_store` makes the metadata and coordinates.
    records : PartRecords
        Which parts are done.
    """

    target: StorePath
    place: StorePath
    overwrite: bool
    folder: Path
    store_path: Path
    records: PartRecords

    @abstractmethod
    def __enter__(self) -> Self:
        """Take the lock; raise StoreExistsError if another build runs or the target is taken."""

    @abstractmethod
    def __exit__(self, *exception: object) -> None:
        """Let go of the lock."""

    @abstractmethod
    def plan(self) -> dict[str, Any] | None:
        """Return the recorded plan, None when there is none."""

    @abstractmethod
    def begin(self, plan: dict[str, Any]) -> None:
        """Start afresh with a plan and discard whatever was built before."""

    @abstractmethod
    def discard(self) -> None:
        """Remove the plan and what was built, but keep spooled values."""

    @abstractmethod
    def check(self) -> None:
        """Raise StoreExistsError if another process has taken the build over."""

    @abstractmethod
    def check_target(self) -> None:
        """Raise StoreExistsError if something is at the target that may not be replaced."""

    @abstractmethod
    def check_shard_space(self, estimate_bytes: Callable[[], int]) -> None:
        """Raise DiskSpaceError if the shards to come do not fit on the disk.

        `estimate_bytes` is called only where it matters, since estimating reads values.
        """

    @abstractmethod
    def spool_path(self, field: str, redshift_index: int) -> Path:
        """Return where the values of a source that cannot be cut are kept."""

    @abstractmethod
    def share_spool(self, path: Path) -> StorePath:
        """Return where the workers of a cluster find spooled values, moving them if they must."""

    @abstractmethod
    def shard_writer(self, skeleton: StoreWriter) -> ShardWriter:
        """Return the writer of the shards of a store that was created at `store_path`."""

    @abstractmethod
    def folder_beside(self, suffix: str) -> Path | None:
        """Return a folder beside the store that all machines see; None in a bucket."""

    @abstractmethod
    def publish(self) -> None:
        """Make the finished store visible at its place, and remove the build."""
