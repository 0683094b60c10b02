"""Results of C2-Ray: ``xfrac3d_8.397.bin``, ``IonRates3_8.397.bin``, ``Temper3_8.397.bin``."""

from pathlib import Path

from ionstore.errors import SourceDataError
from ionstore.readers.base import FileContents, FileReader
from ionstore.readers.c2ray_names import is_named_as_results, results
from ionstore.readers.fortran_records import (
    begins_as_record,
    imitated_sizes,
    open_imitated_records,
    open_records,
)

_SMALLEST_BYTES = 32  # one cell in float32
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
        if is_named_as_results(path.name) and _is_truncated(head):
            raise SourceDataError(
                f"{path}: expected the sizes of a mesh and its values, the file has "
                f"{path.stat().st_size} bytes; it is truncated, copy it again"
            )
        return None


def _is_truncated(head: bytes) -> bool:
    """Tell whether a file that holds no mesh is the beginning of one that does."""
    if imitated_sizes(head) is not None or len(head) < _MARKER_BYTES:
        return True
    return begins_as_record(head) and len(head) < _SMALLEST_BYTES
