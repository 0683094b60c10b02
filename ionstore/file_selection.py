"""`FileSelection`: which files of a simulation are taken, where not all are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileSelection:
    """Which files of a simulation are taken, and what of them; all by default.

    Parameters
    ----------
    format_name : str, optional
        The one format to look for, one of those of `ionstore.readers.READERS`.
    maps : mapping of str to sequence of Path
        For a field the files, folders, or patterns such as ``sources/*_used.dat``, that hold it:
        nothing else is considered for it.
    redshifts : sequence of float
        Redshifts to take; all by default.
    source_columns : sequence of int
        Columns of text lists of sources that are summed up, counted from 1; the first column of
        masses by default.
    """

    format_name: str | None = None
    maps: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    redshifts: Sequence[float] = ()
    source_columns: Sequence[int] = ()


ALL_FILES = FileSelection()
"""Nothing is left out."""
