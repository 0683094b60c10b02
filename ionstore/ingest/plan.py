"""`IngestPlan`: all that decides the bytes of a store, so that two runs can be compared."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ionstore.build.store_writer import StoredField
from ionstore.cube.cosmology import Cosmology, mean_gas_density
from ionstore.cube.fields import FIELDS
from ionstore.cube.mesh import Mesh
from ionstore.cube.units import Frame, contradiction_to_frame, decide_density_frame, decide_n_src
from ionstore.errors import SourceDataError
from ionstore.ingest.ingest_outline import IngestOutline
from ionstore.ingest.survey import SourceSurvey, Surveys
from ionstore.readers.base import Simulation
from ionstore.store.codecs import Compression, default_compression
from ionstore.store.layout import Layout
from ionstore.store.metadata import SourceFile, merge_source_files

_WILDCARDS = frozenset("*?[")


def name_source_file(
    path: Path, folder: Path, maps: Mapping[str, Sequence[Path]]
) -> tuple[str, str]:
    """Return the folder and the name by which a file is recorded.

    Parameters
    ----------
    path : Path
        The file.
    folder : Path
        Folder of the simulation.
    maps : mapping of str to sequence of Path
        Files, folders and patterns that were named for fields.

    Returns
    -------
    folder, name : str
        The folder as it was given, and the name relative to it: the simulation's for all that lies
        in it, else the one that was mapped, where that of a pattern ends before its first wildcard.

    Examples
    --------
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


_GAS_FACTOR = 1.5  # gas of all cells is that of the cosmos but for its rounding

OnNote = Callable[[str], None]


class SurveyedValues(BaseModel):
    """What a survey found of the values of a field at a redshift, as they are to be stored.

    Parameters
    ----------
    field : str
        Name of the field.
    redshift : float
        Its redshift.
    min, max, mean : float
        As in `ionstore.ingest.survey.SourceSurvey`.
    n_zeros : int
        Likewise.
    """

    model_config = ConfigDict(frozen=True)

    field: str
    redshift: float
    min: float
    max: float
    mean: float
    n_zeros: int


class IngestPlan(BaseModel):
    """What an ingest is going to write.

    Parameters
    ----------
    outline : IngestOutline
        What was known before any value was read.
    values : tuple of SurveyedValues
        What was found in them: what the numbers of a file become may depend on more than its
        bytes, such as on the column of a list.
    redshifts : tuple of float
        Redshifts, descending.
    fields : tuple of StoredField
        How each field is stored.
    box_length_cmpc : float, optional
        Comoving side of the box in cMpc.
    cosmology : Cosmology, optional
        Cosmology of the simulation.
    n_box, grid_mass_msun : optional
        What grid masses are converted with, as in `ionstore.store.metadata.StoreAttributes`.
    layout : Layout
        Chunks and shards.
    compression : mapping of str to Compression
        Settings of Blosc for every field.
    sources : tuple of SourceFile
        Files with their digests.
    """

    model_config = ConfigDict(frozen=True)

    outline: IngestOutline
    values: tuple[SurveyedValues, ...]
    redshifts: tuple[float, ...]
    fields: tuple[StoredField, ...]
    box_length_cmpc: float | None
    cosmology: Cosmology | None
    n_box: int | None
    grid_mass_msun: float | None
    layout: Layout
    compression: Mapping[str, Compression]
    sources: tuple[SourceFile, ...]

    @property
    def mesh(self) -> Mesh:
        """Mesh of all fields."""
        return Mesh(self.layout.mesh_cells, self.box_length_cmpc)


def plan_ingest(
    simulation: Simulation,
    surveys: Surveys,
    outline: IngestOutline,
    *,
    trust: Collection[str] = (),
    on_note: OnNote,
) -> IngestPlan:
    """Decide how the fields of a surveyed simulation are stored.

    Parameters
    ----------
    simulation : Simulation
        With all that is known of it.
    surveys : mapping
        What the first pass found for every field and redshift.
    outline : IngestOutline
        What was known before any value was read.
    trust : collection of str
        As in `ionstore.ingest.ingest.ingest_cubes`.
    on_note : callable
        Told what stays unknown, and what the user may not expect.

    Raises
    ------
    SourceDataError
        If a field that is not stored as floats is to be rounded, or to other than 1 to 23 bits, or
        gas given in grid masses is not as much as there is in the cosmos.
    """
    if "n_igm" in surveys and "n_igm" not in trust:
        _check_grid_masses(surveys["n_igm"], outline)
    keep_bits = outline.keep_bits
    fields = []
    for name in simulation.cubes:
        dtype, units = "float32", FIELDS[name].units
        frame: Frame | None = None
        if name == "n_src":
            found = surveys[name].values()
            dtype, units = decide_n_src(
                [survey.max for survey in found],
                all(survey.integral for survey in found),
                simulation.n_src_units,
            )
            if units == "unknown":
                on_note(
                    "the unit of n_src is unknown: it is no count, and nothing says what it is; "
                    "give --n-src-unit here, or `ionstore edit STORE --n-src-unit` later"
                )
            dark = [redshift for redshift in surveys[name] if surveys[name][redshift].max == 0]
            if dark:
                at = ", ".join(f"{redshift:g}" for redshift in dark)
                on_note(f"n_src is zero in every cell at redshift {at}")
        if name == "n_igm":
            frame, units = _density(simulation, surveys[name], on_note)
        fields.append(StoredField(name, dtype, units, frame, keep_bits.get(name)))
    check_keep_bits(keep_bits, [one.name for one in fields if one.numpy_dtype.kind == "f"])
    if simulation.box_length_cmpc is None and outline.appended_to is None:
        on_note(
            "the box length is unknown: positions are in cells; give --box-length here, "
            "or `ionstore edit STORE --box-length` later"
        )
    return IngestPlan(
        outline=outline,
        values=tuple(
            SurveyedValues(
                field=name,
                redshift=redshift,
                min=survey.min,
                max=survey.max,
                mean=survey.mean,
                n_zeros=survey.n_zeros,
            )
            for name, cubes in surveys.items()
            for redshift, survey in cubes.items()
        ),
        redshifts=simulation.redshifts,
        fields=tuple(fields),
        box_length_cmpc=simulation.box_length_cmpc,
        cosmology=simulation.cosmology,
        n_box=outline.known.n_box,
        grid_mass_msun=_grid_mass(outline),
        layout=outline.layout,
        compression={field.name: default_compression(field.numpy_dtype) for field in fields},
        sources=merge_source_files(
            survey.file for cubes in surveys.values() for survey in cubes.values()
        ),
    )


def plan_as_json(plan: IngestPlan) -> dict[str, Any]:
    """Return a plan as it is recorded: without the ways in which its folders can be named."""
    return plan.model_dump(mode="json", exclude={"sources": {"__all__": {"folder"}}})


def _grid_mass(outline: IngestOutline) -> float | None:
    """Return the factor of the sources: grid masses are the one quantity that they have one for."""
    factors = [one.factor for one in outline.origins if one.field == "n_src" and one.factor != 1]
    return factors[0] if factors else None


def _density(
    simulation: Simulation, surveys: Mapping[float, SourceSurvey], on_note: OnNote
) -> tuple[Frame, str]:
    """Return frame and units of the gas density."""
    means = {redshift: survey.mean for redshift, survey in surveys.items()}
    fitting = decide_density_frame(means, simulation.cosmology)
    if simulation.density_frame is None:
        if fitting == "unknown":
            on_note(
                "the unit of n_igm is unknown: its mean fits neither the proper nor the comoving "
                "cosmic mean in g/cm3; if it is in g/cm3, set density_frame to proper or comoving "
                "in simulation.json, or give `ionstore edit STORE --density-frame` later"
            )
            return "unknown", "unknown"
        return fitting, FIELDS["n_igm"].units
    against = contradiction_to_frame(simulation.density_frame, means, simulation.cosmology)
    if against is not None:
        on_note(against)
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
        mean, expected = surveys[one.redshift].mean, mean_gas_density(cosmology, 0.0)
        excess = mean / expected
        if not 1 / _GAS_FACTOR <= excess <= _GAS_FACTOR:
            raise SourceDataError(
                f"{one.file}: with --n-box {n_box} the mean of n_igm is {mean:.3g} g/cm3, "
                f"{excess:.3g} times the comoving cosmic mean of {expected:.3g}; --n-box "
                f"{round(n_box * excess ** (1 / 3))} would fit, or give --trust n_igm to take it "
                "as it is"
            )


def check_keep_bits(keep_bits: Mapping[str, int], floats: Collection[str]) -> None:
    """Check that fields can be rounded.

    Parameters
    ----------
    keep_bits : mapping of str to int
        Bits of the mantissa to keep.
    floats : collection of str
        Fields that are stored as floats, or may be.

    Raises
    ------
    SourceDataError
        If another field is named, or the bits are not 1 to 23.
    """
    for name, bits in keep_bits.items():
        if name not in floats:
            raise SourceDataError(
                f"keep_bits must name a field stored as floats ({', '.join(floats)}), got {name}"
            )
        if not 1 <= bits <= 23:
            raise SourceDataError(f"keep_bits of {name} must be between 1 and 23, got {bits}")
