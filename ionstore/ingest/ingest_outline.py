"""`IngestOutline`: what decides the bytes of a store and is known before any value is read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ionstore.cube.description import SimulationDescription
from ionstore.ingest.unit_conversion import ConvertedSource, UnitConversion
from ionstore.readers.base import FieldSource, Simulation
from ionstore.store.layout import Layout


class ValueOrigin(BaseModel):
    """How the values of a field at a redshift come about.

    Parameters
    ----------
    field : str
        Name of the field.
    redshift : float
        Its redshift.
    file : str
        Name of the file as it is recorded.
    size_bytes : int
        Size of the file.
    factor, offset : float
        What the numbers of the file are multiplied by, and what is added then.
    fortran_order : bool
        Whether the first index runs fastest in the file.
    """

    model_config = ConfigDict(frozen=True)

    field: str
    redshift: float
    file: str
    size_bytes: int
    factor: float
    offset: float
    fortran_order: bool


class IngestOutline(BaseModel):
    """What an ingest starts from.

    Parameters
    ----------
    origins : tuple of ValueOrigin
        For every field and redshift where the values come from.
    known : SimulationDescription
        What is known of the simulation.
    layout : Layout
        Chunks and shards.
    keep_bits : mapping of str to int
        Bits of the mantissa to keep, for fields that are to be rounded.
    appended_to : str, optional
        Name of the store that redshifts are added to.
    """

    model_config = ConfigDict(frozen=True)

    origins: tuple[ValueOrigin, ...]
    known: SimulationDescription
    layout: Layout
    keep_bits: Mapping[str, int]
    appended_to: str | None = None

    @property
    def redshifts(self) -> tuple[float, ...]:
        """Redshifts, descending."""
        return tuple(sorted({one.redshift for one in self.origins}, reverse=True))

    @property
    def field_names(self) -> tuple[str, ...]:
        """Names of the fields, in their order."""
        return tuple(dict.fromkeys(one.field for one in self.origins))

    def as_json(self) -> dict[str, Any]:
        """Return the outline as it is recorded."""
        return self.model_dump(mode="json")


def find_origins(
    simulation: Simulation, names: Mapping[Path, tuple[str, str]]
) -> tuple[ValueOrigin, ...]:
    """Return where the values of all fields come from; looks at files, and reads none.

    Parameters
    ----------
    simulation : Simulation
        The cubes, converted to what is stored.
    names : mapping of Path to (str, str)
        Folder and name by which each file is recorded.

    Raises
    ------
    OSError
        If a file is gone.
    """
    origins = []
    for field, cubes in simulation.cubes.items():
        for redshift in simulation.redshifts:
            source = cubes[redshift]
            conversion = conversion_of(source)
            origins.append(
                ValueOrigin(
                    field=field,
                    redshift=redshift,
                    file=names[source.path][1],
                    size_bytes=source.path.stat().st_size,
                    factor=conversion.factor,
                    offset=conversion.offset,
                    fortran_order=source.fortran_order,
                )
            )
    return tuple(origins)


def conversion_of(source: FieldSource) -> UnitConversion:
    """Return how the values of a source come from the numbers in its file."""
    return source.conversion if isinstance(source, ConvertedSource) else UnitConversion()
