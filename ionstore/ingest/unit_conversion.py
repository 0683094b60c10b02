"""Conversion of the numbers in a file to the values of a store."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ionstore.cube.cosmology import Cosmology, critical_density, matter_density, mean_gas_density
from ionstore.cube.description import INPUT_OPTIONS, SimulationDescription
from ionstore.cube.fields import FIELDS
from ionstore.cube.mesh import Array, Corner
from ionstore.cube.units import KnownFrame
from ionstore.errors import SourceDataError
from ionstore.readers.arrays.flat import FlatArray
from ionstore.readers.base import FieldSource, Quantity, SourceOfSource
from ionstore.storage.files import OnBytes

QUANTITY_WORDS: Mapping[Quantity, str] = {
    "density": "gas density in g/cm3",
    "overdensity": "overdensity",
    "gas_grid_mass": "gas mass in grid masses",
    "counts": "counts",
    "msun": "mass in Msun",
    "grid_mass": "mass in grid masses",
    "sources": "sources, unit unknown",
    "ionized_fraction": "ionized fraction",
    "neutral_fraction": "neutral fraction",
    "as_is": "values in its unit",
}
"""Quantities in words."""

# What conversions need to know of the simulation, as names of `INPUT_OPTIONS`.
_NEEDED: Mapping[Quantity, tuple[str, ...]] = {
    "overdensity": ("h", "omega_b"),
    "gas_grid_mass": ("h", "omega_b", "n_box"),
    "grid_mass": ("box_length_cmpc", "h", "omega_m", "n_box"),
}


@dataclass(frozen=True, slots=True)
class UnitConversion:
    """Convert numbers of a file to values of a store: ``factor * number + offset``."""

    factor: float = 1.0
    offset: float = 0.0
    units: str | None = None  # None where nothing says it
    frame: KnownFrame | None = None  # of a gas density; None for other fields, or if unknown


def stored_as(
    field: str, quantity: Quantity, known: SimulationDescription
) -> tuple[str | None, KnownFrame | None]:
    """Return unit and frame of the values that a quantity is stored as, each None if unknown."""
    if field == "n_src":
        units = {"counts": "1", "msun": "Msun", "grid_mass": "Msun"}.get(quantity)
        # What the user says of the sources wins over the file.
        return known.n_src_units or units, None
    if field == "n_igm":
        frames: Mapping[Quantity, KnownFrame | None] = {
            "overdensity": "proper",
            "gas_grid_mass": "comoving",
        }
        return FIELDS[field].units, frames.get(quantity, known.density_frame)
    return FIELDS[field].units, None


def inputs_needed(field: str, quantity: Quantity, known: SimulationDescription) -> tuple[str, ...]:
    """Return what a conversion needs and is unknown, as names of `INPUT_OPTIONS`."""
    if _stays(field, quantity, known):
        return ()
    there = known.values()
    return tuple(name for name in _NEEDED.get(quantity, ()) if name not in there)


def check_inputs(what: Iterable[tuple[str, str, Quantity]], known: SimulationDescription) -> None:
    """Check that everything is known that conversions of (file, field, quantity) need."""
    # All that is missing in one message, so that a user does not learn of it one by one.
    reasons: dict[tuple[str, Quantity], str] = {}
    missing: set[str] = set()
    for name, field, quantity in what:
        needed = inputs_needed(field, quantity, known)
        missing.update(needed)
        if needed and (field, quantity) not in reasons:
            units, _ = stored_as(field, quantity, known)
            reasons[field, quantity] = (
                f"{field} in {name} is given as {QUANTITY_WORDS[quantity]} and becomes {units} "
                f"with {_listed(needed)}"
            )
    if not missing:
        return
    way_on = f"give {_listed([name for name in INPUT_OPTIONS if name in missing])}"
    if "n_box" in missing:
        way_on += " (cells along a side of the finest N-body mesh, such as 13824)"
    if ("n_src", "grid_mass") in reasons:
        way_on += ", or --n-src-unit grid_mass to keep the sources as they are"
    raise SourceDataError(f"{'; '.join(reasons.values())}; {way_on}")


def plan_conversion(
    field: str,
    quantity: Quantity,
    *,
    redshift: float,
    mesh_cells: int,
    known: SimulationDescription,
) -> UnitConversion:
    """Return the conversion of the numbers of a file to the values of a field.

    Examples
    --------
    >>> known = SimulationDescription(cosmology=Cosmology(h=0.7, omega_b=0.044), n_box=13824)
    >>> plan_conversion("n_igm", "gas_grid_mass", redshift=8.7, mesh_cells=300, known=known).frame
    'comoving'
    """
    check_inputs([("its file", field, quantity)], known)
    units, frame = stored_as(field, quantity, known)
    if _stays(field, quantity, known):
        return UnitConversion(units=units, frame=frame)
    cosmology = known.cosmology or Cosmology()
    if quantity == "overdensity":  # Ω_b ρ_crit (1 + redshift)³ (1 + δ), proper
        mean = mean_gas_density(cosmology, redshift)
        return UnitConversion(mean, mean, units, frame)
    # A grid mass is the mean mass of a cell of the finest N-body mesh: all matter in the box over
    # n_box³. Gas is given as the mass of all matter that it stands for (C2-Ray, density_module.F90;
    # unlike there, cells without gas are left without).
    if quantity == "gas_grid_mass":  # the comoving density of a cell
        h, omega_b = cosmology.known("h", "omega_b")
        assert known.n_box is not None  # checked above
        per_grid_mass = (mesh_cells / known.n_box) ** 3
        return UnitConversion(omega_b * critical_density(h) * per_grid_mass, 0.0, units, frame)
    if quantity == "grid_mass":
        assert known.n_box is not None  # checked above
        assert known.box_length_cmpc is not None
        side_cmpc = known.box_length_cmpc / known.n_box
        return UnitConversion(matter_density(cosmology) * side_cmpc**3, 0.0, units, frame)
    return UnitConversion(-1.0, 1.0, units, frame)  # xHII = 1 - xHI


@dataclass(frozen=True)
class ConvertedSource(SourceOfSource):
    """The numbers of a source, converted as they are read."""

    conversion: UnitConversion

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        """Dtype of the values."""
        return np.dtype(np.float32)

    def stream(self, on_bytes: OnBytes) -> Iterator[Array]:
        """Yield the values in the order of the file."""
        for numbers in self.source.stream(on_bytes):
            yield self._convert(numbers)

    def read_block(self, start: Corner, shape: Corner) -> Array:
        """Return the values of a block."""
        return self._convert(self.source.read_block(start, shape))

    @property
    def spool_bytes(self) -> int:
        """Bytes of the values, if the numbers cannot be cut into blocks."""
        # Spooled as float32 after the conversion, whatever the dtype in the file.
        return prod(self.shape) * self.dtype.itemsize if self.source.spool_bytes else 0

    def from_spool(self, path: Path) -> FlatArray:
        """Return the source that reads the spooled values, which are converted already."""
        return FlatArray(path, self.shape, self.dtype, 0, self.fortran_order)

    def _convert(self, numbers: Array) -> Array:
        # No warnings: values that are not finite, or overflow here, are refused by the survey.
        with np.errstate(over="ignore", invalid="ignore"):
            values = numbers.astype(np.float64)
            values *= self.conversion.factor
            values += self.conversion.offset
            return values.astype(np.float32)


def convert(source: FieldSource, conversion: UnitConversion) -> FieldSource:
    """Return a source of converted values; the same source if nothing changes."""
    if (conversion.factor, conversion.offset) == (1.0, 0.0):
        return source
    return ConvertedSource(source, conversion)


def _stays(field: str, quantity: Quantity, known: SimulationDescription) -> bool:
    """Tell whether the numbers are stored as they are."""
    # Sources in grid masses stay so if the user names another unit for them.
    if quantity == "grid_mass" and field == "n_src":
        return known.n_src_units not in (None, "Msun")
    return quantity not in (*_NEEDED, "neutral_fraction")


def _listed(names: Iterable[str]) -> str:
    *first, last = [INPUT_OPTIONS[name] for name in names]
    return f"{', '.join(first)} and {last}" if first else last
