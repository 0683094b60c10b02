"""Parts of a store that is being built: written, read back, and recorded with their statistics."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ionstore.build.shard_writer import ShardWriter
from ionstore.cube.mesh import Array
from ionstore.cube.statistics import FieldStatistics
from ionstore.errors import StoreExistsError
from ionstore.storage.files import write_json
from ionstore.storage.paths import StorePath
from ionstore.storage.s3 import ObjectPath
from ionstore.storage.s3_lock import LockClaim
from ionstore.store.layout import Part


@dataclass(frozen=True, slots=True)
class ObjectBooks:
    """Records of the parts that are done, one object each.

    Parameters
    ----------
    folder : ObjectPath
        Key below which the records lie.
    claim : LockClaim
        Asked before a record is put.
    """

    folder: ObjectPath
    claim: LockClaim

    def record(self, part: Part, result: dict[str, Any]) -> None:
        """Record a part as done, with what is to be known of it.

        Raises
        ------
        StoreExistsError
            If another process has taken the build over.
        ObjectStoreError
            If the object store does not take it.
        """
        self.claim.check()
        (self.folder / f"{part.name}.json").write_bytes(json.dumps(result).encode())

    def result(self, part: Part) -> dict[str, Any] | None:
        """Return what was recorded of a part, None while it is not done.

        Raises
        ------
        ObjectStoreError
            If the object store does not answer.
        """
        return read_record(self.folder / f"{part.name}.json")


PARTS = "parts"
"""Name below which it is recorded which parts are done."""


@dataclass(frozen=True, slots=True)
class PartBooks:
    """Records of the parts that are done, one file each; light, and the same for all processes.

    Parameters
    ----------
    folder : Path
        Where the records lie.
    """

    folder: Path

    def record(self, part: Part, result: dict[str, Any]) -> None:
        """Record a part as done, with what is to be known of it.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        write_json(self.folder / f"{part.name}.json", result)

    def result(self, part: Part) -> dict[str, Any] | None:
        """Return what was recorded of a part, None while it is not done.

        Raises
        ------
        OSError
            If it cannot be read.
        """
        return read_record(self.folder / f"{part.name}.json")


def read_record(path: StorePath) -> dict[str, Any] | None:
    """Return the content of a file or object that is whole or not there, None if it is not there.

    Raises
    ------
    OSError
        If it cannot be read, which says nothing of whether it is there.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return content


def write_part(
    part: Part, values: Array, writer: ShardWriter, books: PartBooks | ObjectBooks
) -> None:
    """Write a part, read it back, and record it as done.

    Parameters
    ----------
    part : Part
        The part.
    values : ndarray
        All of its values that lie on the mesh, in the stored dtype.
    writer : ShardWriter
        Writes the shards of the store.
    books : PartBooks or ObjectBooks
        Where finished parts are recorded.

    Raises
    ------
    StoreDamageError
        If what is read back is not what was written.
    StoreExistsError
        If another process has taken the build over.
    OSError
        If the shard or the record cannot be written.
    """
    start, _ = writer.layout.shard_region(part.shard)
    block = (part.field, part.redshift_index, start, values)
    writer.write_block(*block)
    writer.check_block(*block)
    books.record(part, {"statistics": asdict(FieldStatistics.of(values))})


def merge_parts(
    books: PartBooks | ObjectBooks, parts: Sequence[Part]
) -> dict[str, dict[int, FieldStatistics]]:
    """Return the statistics of every field by the place of its redshift.

    Parameters
    ----------
    books : PartBooks or ObjectBooks
        In which all parts are recorded.
    parts : sequence of Part
        All parts, in the order of the plan: merged in it, so that a resumed build ends up with
        the same bits.

    Raises
    ------
    StoreExistsError
        If a record is gone, which only another process can have removed.
    OSError
        If one cannot be read.
    """
    merged: dict[str, dict[int, FieldStatistics]] = {}
    for part in parts:
        result = books.result(part)
        if result is None:
            raise StoreExistsError(
                f"{books.folder}: the record of a part that was written is gone, so another "
                "process is at this store; see whether that one finishes it, or run the same "
                "command again, which resumes"
            )
        statistics = FieldStatistics(**result["statistics"])
        of_field = merged.setdefault(part.field, {})
        before = of_field.get(part.redshift_index)
        of_field[part.redshift_index] = before.merge(statistics) if before else statistics
    return merged
