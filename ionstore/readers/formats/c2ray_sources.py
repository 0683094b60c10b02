"""Source lists of C2-Ray: text, ``8.397-coarsest_wsubgrid_sources.dat``, gzipped or not."""

from dataclasses import dataclass
from pathlib import Path

from ionstore.errors import SourceDataError
from ionstore.readers.base import FileContents, FileReader, FoundField, Quantity
from ionstore.readers.file_names import redshift_in
from ionstore.readers.points.text_list import (
    GZIP_MAGIC,
    POSITION_COLUMNS,
    SourceList,
    begins_as_list,
    columns_of_first_source,
    uncompressed,
)

_HEAD_BYTES = 1 << 12  # text of some sources, which may go over several lines each


@dataclass(frozen=True)
class C2RaySources(FileReader):
    """Reads text lists of sources, taking the sum of some columns for their masses."""

    name = "c2ray-sources"
    description = (
        "source lists of C2-Ray, in grid masses: 8.397-coarsest_wsubgrid_sources.dat, or .dat.gz"
    )

    # Counted from 1; C2-Ray writes the mass of large halos into the fourth, small ones follow.
    columns: tuple[int, ...] = (POSITION_COLUMNS + 1,)

    def __post_init__(self) -> None:
        if not self.columns or min(self.columns) <= POSITION_COLUMNS:
            raise SourceDataError(
                "source columns are counted from 1 and the first three hold the position: "
                f"choose from 4 on, got {', '.join(map(str, self.columns)) or 'none'}"
            )
        if len(set(self.columns)) < len(self.columns):
            raise SourceDataError(
                f"source columns must differ, got {', '.join(map(str, self.columns))}"
            )

    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        """Return a list if the file begins as one; only its name says that it is of sources."""
        named = self.named(path.name) is not None
        if named and (not head.strip() or head == GZIP_MAGIC[:1]):
            raise SourceDataError(
                f"{path}: expected a list of sources, the file is empty or begins with "
                "blanks; copy it again"
            )
        if not (head.startswith(GZIP_MAGIC) or head.lstrip()[:1].isdigit()):
            return None
        try:
            with uncompressed(path, lambda piece: None) as file:
                text = file.read(_HEAD_BYTES)
        except SourceDataError:
            # Many files of other purposes are gzipped, and their damage is no concern here.
            if named:
                raise
            return None
        if not begins_as_list(text, is_named=named):
            return None
        # Column 4 of the sources that a run has used is a mass times their efficiency.
        quantity: Quantity = "sources" if "wfgamma" in path.name else "grid_mass"
        sources = SourceList(path, self.columns, columns_of_first_source(text))
        name = "n_src" if named else None
        return FileContents((FoundField(name, redshift_in(path.name), sources, quantity),))

    def named(self, name: str) -> tuple[str, float | None] | None:
        """Return ``n_src`` and its redshift for the name of a list."""
        is_list = "sources" in name and name.endswith((".dat", ".dat.gz"))
        return ("n_src", redshift_in(name)) if is_list else None
