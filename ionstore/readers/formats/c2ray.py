"""Results of C2-Ray: ``xfrac3d_8.397.bin``, ``IonRates3_8.397.bin``, ``Temper3_8.397.bin``."""

from pathlib import Path

from ionstore.errors import SourceDataError
from ionstore.readers.arrays.fortran import (
    begins_as_record,
    imitated_sizes,
    open_imitated_records,
    open_records,
    sizes_in_record,
)
from ionstore.readers.base import FileContents, FileReader
from ionstore.readers.formats.c2ray_names import is_named_as_results, named_result, results
from ionstore.readers.formats.cbin import open_mesh

_MARKER_BYTES = 4


class C2Ray(FileReader):
    """Reads meshes in Fortran records, and those of tools21cm with zeros for markers."""

    name = "c2ray"
    description = (
        "results of C2-Ray in Fortran records: xfrac3d_8.397.bin, IonRates3_8.397.bin, "
        "Temper3_8.397.bin"
    )

    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        """Return the mesh of a file; its name says which field that is.

        Parameters
        ----------
        path : Path
            The file.
        head : bytes
            Its first bytes, at most 64.

        Raises
        ------
        SourceDataError
            If the file is truncated, or its markers contradict each other.
        OSError
            If it cannot be read.
        """
        source = open_records(path, head) or open_imitated_records(path, head)
        if source is not None:
            return results(path, source)
        if is_named_as_results(path.name) and sizes_in_record(head) is not None:
            note = "its records are not the sizes of a mesh and one number for each cell"
            return FileContents((), notes=(f"{path.name} is left out: {note}",))
        # A mesh without records may have 12 cells along x, as many as a record has bytes.
        if is_named_as_results(path.name) and _is_damaged(head) and not open_mesh(path, head):
            raise SourceDataError(
                f"{path}: expected a record of the sizes of a mesh and one of its values, got "
                f"others in {path.stat().st_size} bytes; the file is truncated or damaged, "
                "copy it again"
            )
        return None

    def named(self, name: str) -> tuple[str, float | None] | None:
        """Return field and redshift that the name of a file tells, None where it tells no field."""
        return named_result(name)


def _is_damaged(head: bytes) -> bool:
    """Tell whether a file that holds no mesh begins as one that does."""
    if imitated_sizes(head) is not None or len(head) < _MARKER_BYTES:
        return True
    return begins_as_record(head) and sizes_in_record(head) is None
