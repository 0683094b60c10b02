"""Results of C2-Ray: ``xfrac3d_8.397.bin``, ``IonRates3_8.397.bin``, ``Temper3_8.397.bin``."""

from pathlib import Path

from ionstore.errors import SourceDataError
from ionstore.readers.arrays.cbin import open_mesh
from ionstore.readers.arrays.fortran import (
    begins_as_record,
    imitated_sizes,
    open_imitated_records,
    open_records,
    sizes_in_record,
)
from ionstore.readers.base import FileContents, FileReader
from ionstore.readers.formats.c2ray_names import is_named_as_results, named_result, results

_MARKER_BYTES = 4


class C2Ray(FileReader):
    """Reads meshes in Fortran records, and those of tools21cm with zeros for markers."""

    name = "c2ray"
    description = (
        "results of C2-Ray in Fortran records: xfrac3d_8.397.bin, IonRates3_8.397.bin, "
        "Temper3_8.397.bin"
    )

    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        """Return the mesh of a file; its name tells the field."""
        source = open_records(path, head) or open_imitated_records(path, head)
        if source is not None:
            return results(path, source)
        if is_named_as_results(path.name) and sizes_in_record(head) is not None:
            return FileContents.left_out(
                path, "its records are not the sizes of a mesh and one number for each cell"
            )
        # A mesh without records may have 12 cells along x, as many as a record has bytes.
        if is_named_as_results(path.name) and _is_damaged(head) and not open_mesh(path, head):
            raise SourceDataError(
                f"{path}: expected a record of the sizes of a mesh and one of its values, got "
                f"others in {path.stat().st_size} bytes; the file is truncated or damaged, "
                "copy it again"
            )
        return None

    def named(self, name: str) -> tuple[str, float | None] | None:
        """Return field and redshift of a name that the codes give to results."""
        return named_result(name)


def _is_damaged(head: bytes) -> bool:
    """Tell whether a file that holds no mesh begins as one that does."""
    # Results of pyC2Ray have such names too, so only the beginning of a record says C2-Ray.
    if imitated_sizes(head) is not None or len(head) < _MARKER_BYTES:
        return True
    return begins_as_record(head) and sizes_in_record(head) is None
