"""Parts of a store that is being built: written, read back, and recorded with their statistics."""

from collections.abc import Sequence
from dataclasses import asdict

from ionstore.build.bucket import ObjectBooks
from ionstore.build.folder import PartBooks
from ionstore.build.shard_writer import ShardWriter
from ionstore.cube.arrays import Array
from ionstore.cube.statistics import FieldStatistics
from ionstore.errors import StoreExistsError
from ionstore.store.layout import Part


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
