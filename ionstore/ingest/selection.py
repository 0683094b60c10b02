"""`FileSelection` and `IngestOptions`: what a user chooses of an ingest."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ionstore.cube.fields import INPUTS, REQUIRED
from ionstore.errors import SourceDataError
from ionstore.store.layout import CHUNK_CELLS, SHARD_CELLS


@dataclass(frozen=True, slots=True)
class FileSelection:
    """Choice of files, fields and redshifts of a simulation; all by default.

    Parameters
    ----------
    format_name : str, optional
        The one format to look for, one of those of `ionstore.readers.READERS`.
    maps : mapping of str to sequence of Path
        Files, folders, or patterns such as ``sources/*_used.dat``, that hold a field; it is looked
        for in nothing else.
    redshifts : sequence of float
        Redshifts to take; all by default.
    source_columns : sequence of int
        Columns of text lists of sources to sum, counted from 1; the first column of masses by
        default.
    without : collection of str
        Required fields that are left out, even if there are files for them.

    Raises
    ------
    SourceDataError
        If `without` names another field, one that `maps` names files for, or leaves no input for a
        network.
    """

    format_name: str | None = None
    maps: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    redshifts: Sequence[float] = ()
    source_columns: Sequence[int] = ()
    without: Collection[str] = ()

    def __post_init__(self) -> None:
        names = [one.name for one in REQUIRED]
        for name in self.without:
            if name not in names:
                raise SourceDataError(f"--without must name one of {', '.join(names)}, got {name}")
            if name in self.maps:
                raise SourceDataError(
                    f"--without {name} leaves out what --map {name} names files for; give one of "
                    "them"
                )
        inputs = [one.name for one in INPUTS]
        if not any(name in self.required for name in inputs):
            raise SourceDataError(
                f"a store must hold {' or '.join(inputs)}, which networks predict from, got "
                f"{' '.join(f'--without {name}' for name in inputs)}; give one of them at most"
            )

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the fields that are required at every redshift."""
        return tuple(one.name for one in REQUIRED if one.name not in self.without)


ALL_FILES = FileSelection()
"""Leaves nothing out."""


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """Checks and layout of the cubes of an ingest.

    Parameters
    ----------
    keep_bits : mapping of str to int
        Bits of the mantissa to keep, 1 to 23, for fields that are to be rounded; all by default.
    trust : collection of str
        Fields that are taken for what they are called, even if their values contradict it.
    max_shard_cells, chunk_cells : int
        As in `ionstore.store.layout.plan_layout`; appended redshifts take the layout of the store.
    """

    keep_bits: Mapping[str, int] = field(default_factory=dict)
    trust: Collection[str] = ()
    max_shard_cells: int = SHARD_CELLS
    chunk_cells: int = CHUNK_CELLS
