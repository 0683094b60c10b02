"""`start_build`: the build of a store in a folder or in a bucket, by its address."""

from pathlib import Path

from ionstore.build.base import Build
from ionstore.build.bucket import BucketBuild
from ionstore.build.folder import FolderBuild
from ionstore.errors import StoreFormatError
from ionstore.reporter import SILENT, Reporter
from ionstore.storage.paths import StorePath, parse_place


def start_build(
    target: StorePath,
    *,
    overwrite: bool = False,
    append: bool = False,
    reporter: Reporter = SILENT,
) -> Build:
    """Return the build of a store, still to be entered: in a folder, or in a bucket."""
    place = parse_place(target)
    if isinstance(place, Path):
        # An appended store replaces the old one, whose shards it shares by hard links.
        return FolderBuild(place, overwrite=overwrite or append)
    if append:
        raise StoreFormatError(
            f"{place}: redshifts cannot be added in an object store, which has no rename; ingest "
            "all of them into a new store, or add them to a copy in a folder"
        )
    return BucketBuild(place, overwrite=overwrite, reporter=reporter)
