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
from ionstore.storage.s3_lock import LockClaim
from ionstore.store.layout import Part

PARTS = "parts"  # folder of the part records, beside the store


@dataclass(frozen=True, slots=True)
class PartRecords:
    """Records of the parts that are done, one file or object each; pickled for other processes."""

    folder: StorePath
    # Only in a bucket: the lock of a folder belongs to its process until that ends, but the lock
    # of a bucket can be taken over, and the process that lost it must write nothing more.
    claim: LockClaim | None = None

    def record(self, part: Part, result: dict[str, Any]) -> None:
        """Record a part as done, with its result."""
        if self.claim is not None:
            self.claim.check()
        path = self._path(part)
        if isinstance(path, Path):
            write_json(path, result)
        else:
            path.write_bytes(json.dumps(result).encode())

    def result(self, part: Part) -> dict[str, Any] | None:
        """Return the result that was recorded of a part, None while it is not done."""
        return read_record(self._path(part))

    def _path(self, part: Part) -> StorePath:
        return self.folder / f"{part.name}.json"


def read_record(path: StorePath) -> dict[str, Any] | None:
    """Return the content of a record, None if there is none."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    # Only these mean that there is no record. Any other error says nothing about it, and a build
    # that seemed to have no plan would be removed.
    except (FileNotFoundError, ValueError):
        return None
    return content


def write_part(part: Part, values: Array, writer: ShardWriter, records: PartRecords) -> None:
    """Write a part, read it back, and record it as done."""
    start, _ = writer.layout.shard_region(part.shard)
    block = (part.field, part.redshift_index, start, values)
    writer.write_block(*block)
    writer.check_block(*block)
    # Last, so that a recorded part is whole on the disk whenever the process is killed.
    records.record(part, {"statistics": asdict(FieldStatistics.of(values))})


def merge_parts(
    records: PartRecords, parts: Sequence[Part]
) -> dict[str, dict[int, FieldStatistics]]:
    """Return the statistics of every field by the index of its redshift."""
    merged: dict[str, dict[int, FieldStatistics]] = {}
    # In the order of the plan, so that a resumed build ends up with the same bits.
    for part in parts:
        result = records.result(part)
        if result is None:  # only another process can have removed it
            raise StoreExistsError(
                f"{records.folder}: the record of a part that was written is gone, so another "
                "process is at this store; see whether that one finishes it, or run the same "
                "command again, which resumes"
            )
        statistics = FieldStatistics(**result["statistics"])
        of_field = merged.setdefault(part.field, {})
        before = of_field.get(part.redshift_index)
        of_field[part.redshift_index] = before.merge(statistics) if before else statistics
    return merged
