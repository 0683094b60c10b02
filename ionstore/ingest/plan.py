"""`IngestPlan`: all that decides the bytes of a store, so that two runs can be compared."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ionstore.build.store_writer import StoredField
from ionstore.cube.cosmology import Cosmology, mean_gas_density
from ionstore.cube.description import SimulationDescription
from ionstore.cube.fields import FIELDS
from ionstore.cube.mesh import Mesh
from ionstore.cube.units import Frame, contradiction_to_frame, decide_density_frame, decide_n_src
from ionstore.errors import SourceDataError
from ionstore.ingest.survey import FileName, FoundValues, SourceSurvey, Surveys
from ionstore.ingest.unit_conversion import ConvertedSource, UnitConversion
from ionstore.readers.base import Simulation
from ionstore.reporter import SILENT, Reporter
from ionstore.store.codecs import Compression, default_compression
from ionstore.store.layout import Layout, Part, plan_parts
from ionstore.store.metadata import SourceFile, merge_source_files

_WILDCARDS = frozenset("*?[")
_GAS_FACTOR = 1.5  # gas of all cells is that of the cosmos but for its rounding


class ValueOrigin(BaseModel):
    """The file that holds the values of a field at a redshift, and their conversion."""

    model_config = ConfigDict(frozen=True)

    field: str
    redshift: float
    file: str  # as it is recorded
    size_bytes: int
    factor: float  # a value is factor * number + offset
    offset: float
    fortran_order: bool


class IngestOutline(BaseModel):
    """The part of a plan that is known before any value is read."""

    model_config = ConfigDict(frozen=True)

    origins: tuple[ValueOrigin, ...]
    known: SimulationDescription
    layout: Layout
    keep_bits: Mapping[str, int]
    appended_to: str | None = None  # uuid of the store that redshifts are added to

    @property
    def redshifts(self) -> tuple[float, ...]:
        """Redshifts, descending."""
        return tuple(sorted({one.redshift for one in self.origins}, reverse=True))

    @property
    def field_names(self) -> tuple[str, ...]:
        """Names of the fields, in their order."""
        return tuple(dict.fromkeys(one.field for one in self.origins))

    def fingerprint(self) -> dict[str, Any]:
        """Return what an unfinished build must have recorded, to be of the same ingest."""
        return {"outline": self.model_dump(mode="json")}


class IngestPlan(BaseModel):
    """A store as it will be, which of it is written, and which comes from an older store."""

    model_config = ConfigDict(frozen=True)

    outline: IngestOutline
    # Recorded too: values may depend on more than the bytes of a file, such as on the column of a
    # list.
    values: tuple[FoundValues, ...]
    redshifts: tuple[float, ...]  # all of the store, descending
    fields: tuple[StoredField, ...]
    box_length_cmpc: float | None
    cosmology: Cosmology | None
    n_box: int | None
    grid_mass_msun: float | None
    layout: Layout
    compression: Mapping[str, Compression]
    sources: tuple[SourceFile, ...]
    # Not recorded: they follow from the store that redshifts are added to, which the outline names.
    old_places: Mapping[int, int] = Field({}, exclude=True)  # redshift index, new to old
    rewritten: tuple[str, ...] = Field((), exclude=True)  # fields whose dtype has to widen

    @property
    def mesh(self) -> Mesh:
        """Mesh of all fields."""
        return Mesh(self.layout.mesh_cells, self.box_length_cmpc)

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts of the store."""
        names = tuple(one.name for one in self.fields)
        return plan_parts(names, len(self.redshifts), self.layout)

    def linked(self, part: Part) -> Part | None:
        """Return the part of the old store that a part equals byte by byte; None if it is new."""
        if part.redshift_index not in self.old_places or part.field in self.rewritten:
            return None
        return replace(part, redshift_index=self.old_places[part.redshift_index])

    def fingerprint(self) -> dict[str, Any]:
        """Return what an unfinished build must have recorded, to be resumed by this plan."""
        # Folders are left out: the same one can be named in several ways.
        return self.model_dump(mode="json", exclude={"sources": {"__all__": {"folder"}}})


def name_source_file(path: Path, folder: Path, maps: Mapping[str, Sequence[Path]]) -> FileName:
    """Return the folder and the name by which a file is recorded.

    The folder is that of the simulation, as it was given, for all that lies in it; else the one
    that was mapped, which for a pattern ends before its first wildcard.

    >>> maps = {"n_src": [Path("other/*/nsrc*.npy")]}
    >>> name_source_file(Path("other/a/nsrc_z9.000.npy"), Path("sim"), maps)
    ('other', 'a/nsrc_z9.000.npy')
    """
    absolute = Path(os.path.abspath(path))
    for base in (folder, *map(_base, (one for paths in maps.values() for one in paths))):
        inside = Path(os.path.abspath(base))
        if absolute.is_relative_to(inside):
            return str(base), str(absolute.relative_to(inside))
    return str(path.parent), path.name


def _base(path: Path) -> Path:
    """Return the folder that a mapped path names."""
    if path.is_dir():
        return path
    if path.exists():
        return path.parent
    while _WILDCARDS & set(str(path)):
        path = path.parent
    return path


def find_origins(simulation: Simulation, names: Mapping[Path, FileName]) -> tuple[ValueOrigin, ...]:
    """Return where the values of all fields come from; looks at files, and reads none."""
    origins = []
    for field, cubes in simulation.cubes.items():
        for redshift in simulation.redshifts:
            source = cubes[redshift]
            conversion = (
                source.conversion if isinstance(source, ConvertedSource) else UnitConversion()
            )
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


def plan_ingest(
    simulation: Simulation,
    surveys: Surveys,
    outline: IngestOutline,
    *,
    trust: Collection[str] = (),
    reporter: Reporter = SILENT,
) -> IngestPlan:
    """Decide how the fields of a surveyed simulation are stored."""
    if "n_igm" in surveys and "n_igm" not in trust:
        _check_grid_masses(surveys["n_igm"], outline)
    fields = tuple(
        _stored_field(name, simulation, surveys[name], outline.keep_bits.get(name), reporter)
        for name in simulation.cubes
    )
    # Once more: whether n_src is stored as floats is known only now.
    floats = [one.name for one in fields if one.numpy_dtype.kind == "f"]
    check_keep_bits(outline.keep_bits, floats)
    if simulation.box_length_cmpc is None and outline.appended_to is None:
        reporter.note(
            "the box length is unknown: positions are in cells; give --box-length here, "
            "or `ionstore edit STORE --box-length` later"
        )
    found = [survey for cubes in surveys.values() for survey in cubes.values()]
    return IngestPlan(
        outline=outline,
        values=tuple(survey.values for survey in found),
        redshifts=simulation.redshifts,
        fields=fields,
        box_length_cmpc=simulation.box_length_cmpc,
        cosmology=simulation.cosmology,
        n_box=outline.known.n_box,
        grid_mass_msun=_grid_mass(outline),
        layout=outline.layout,
        compression={field.name: default_compression(field.numpy_dtype) for field in fields},
        sources=merge_source_files(survey.file for survey in found),
    )


def _stored_field(
    name: str,
    simulation: Simulation,
    surveys: Mapping[float, SourceSurvey],
    keep_bits: int | None,
    reporter: Reporter,
) -> StoredField:
    """Return how a field is stored, by what its values are; note what stays unknown."""
    found = {redshift: survey.values for redshift, survey in surveys.items()}
    if name == "n_igm":
        frame, units = _density(simulation, found, reporter)
        return StoredField(name, "float32", units, frame, keep_bits)
    if name != "n_src":
        return StoredField(name, "float32", FIELDS[name].units, None, keep_bits)
    dtype, units = decide_n_src(
        [values.max for values in found.values()],
        all(survey.integral for survey in surveys.values()),
        simulation.n_src_units,
    )
    if units == "unknown":
        reporter.note(
            "the unit of n_src is unknown: it is no count, and nothing says what it is; "
            "give --n-src-unit here, or `ionstore edit STORE --n-src-unit` later"
        )
    dark = [f"{redshift:g}" for redshift, values in found.items() if values.max == 0]
    if dark:
        reporter.note(f"n_src is zero in every cell at redshift {', '.join(dark)}")
    return StoredField(name, dtype, units, None, keep_bits)


def _grid_mass(outline: IngestOutline) -> float | None:
    """Return the factor of the sources: grid masses are the one quantity that they have one for."""
    factors = [one.factor for one in outline.origins if one.field == "n_src" and one.factor != 1]
    return factors[0] if factors else None


def _density(
    simulation: Simulation, found: Mapping[float, FoundValues], reporter: Reporter
) -> tuple[Frame, str]:
    """Return frame and units of the gas density."""
    means = {redshift: values.mean for redshift, values in found.items()}
    fitting = decide_density_frame(means, simulation.cosmology)
    if simulation.density_frame is None:
        if fitting == "unknown":
            reporter.note(
                "the unit of n_igm is unknown: its mean fits neither the proper nor the comoving "
                "cosmic mean in g/cm3; if it is in g/cm3, set density_frame to proper or comoving "
                "in simulation.json, or give `ionstore edit STORE --density-frame` later"
            )
            return "unknown", "unknown"
        return fitting, FIELDS["n_igm"].units
    against = contradiction_to_frame(simulation.density_frame, means, simulation.cosmology)
    if against is not None:
        reporter.note(against)
    return simulation.density_frame, FIELDS["n_igm"].units


def _check_grid_masses(surveys: Mapping[float, SourceSurvey], outline: IngestOutline) -> None:
    """Check that gas given in grid masses is as much as there is in the cosmos."""
    cosmology, n_box = outline.known.cosmology, outline.known.n_box
    for one in outline.origins:
        # An overdensity has an offset, too.
        if one.field != "n_igm" or one.factor == 1 or one.offset:
            continue
        assert cosmology is not None  # it was converted with both
        assert n_box is not None
        mean = surveys[one.redshift].values.mean
        expected = mean_gas_density(cosmology, 0.0)
        excess = mean / expected
        if not 1 / _GAS_FACTOR <= excess <= _GAS_FACTOR:
            raise SourceDataError(
                f"{one.file}: with --n-box {n_box} the mean of n_igm is {mean:.3g} g/cm3, "
                f"{excess:.3g} times the comoving cosmic mean of {expected:.3g}; --n-box "
                f"{round(n_box * excess ** (1 / 3))} would fit, or give --trust n_igm to take it "
                "as it is"
            )


def check_keep_bits(keep_bits: Mapping[str, int], floats: Collection[str]) -> None:
    """Check that fields can be rounded: `floats` are those stored as floats, or that may be."""
    for name, bits in keep_bits.items():
        if name not in floats:
            raise SourceDataError(
                f"keep_bits must name a field stored as floats ({', '.join(floats)}), got {name}"
            )
        if not 1 <= bits <= 23:
            raise SourceDataError(f"keep_bits of {name} must be between 1 and 23, got {bits}")
