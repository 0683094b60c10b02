"""From files to one simulation: which file holds which field at which redshift."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from ionstore.cube.description import (
    FILE_NAME,
    SimulationDescription,
    describe,
    length_in_cmpc,
    read_description,
    unknown_keys,
)
from ionstore.cube.units import KnownFrame
from ionstore.errors import SourceDataError
from ionstore.ingest.candidates import Candidate, FoundFiles, find_candidates, ignored_in_words
from ionstore.ingest.completeness import (
    Candidates,
    choose_redshifts,
    group_by_cube,
    leave_out,
    leave_out_extras,
    missing_fields,
    of_different_runs,
    redshifts_too_close,
    sort_damage,
    there_twice,
)
from ionstore.ingest.scan import is_store
from ionstore.ingest.selection import ALL_FILES, FileSelection
from ionstore.ingest.unit_conversion import (
    QUANTITY_WORDS,
    check_inputs,
    convert,
    plan_conversion,
    stored_as,
)
from ionstore.readers import READERS
from ionstore.readers.base import FieldSource, FileReader, PointList, Quantity, Simulation
from ionstore.readers.formats.c2ray_sources import C2RaySources
from ionstore.readers.points.gridded import GriddedPoints
from ionstore.readers.points.text_list import SourceList


@dataclass(frozen=True, slots=True)
class FieldSummary:
    """Files of one field that hold the same kind of numbers."""

    first: Candidate
    redshifts: tuple[float, ...]  # descending; one file for each
    # Unit in which they will be stored, and frame of a gas density; None where values decide.
    units: str | None
    frame: KnownFrame | None

    @property
    def array(self) -> FieldSource | None:
        """The numbers of the first file, None if it is a list of sources."""
        return self.first.source if isinstance(self.first.source, FieldSource) else None


@dataclass(frozen=True, slots=True)
class FoundSimulation:
    """A found simulation, to be looked at before anything is written.

    Attributes
    ----------
    candidates : mapping
        For every field and redshift the files that may be the one; a single one where all is well.
    known : SimulationDescription
        What is known besides, from the files and from the user.
    notes : tuple of str
        What the user should know, one line each.
    problems : tuple of str
        What stands in the way of an ingest, one sentence each; empty where nothing does.
    """

    candidates: Candidates
    known: SimulationDescription
    notes: tuple[str, ...]
    problems: tuple[str, ...]

    def summary(self) -> tuple[FieldSummary, ...]:
        """Return one entry for every field and kind of files, in the order of the fields."""
        groups: dict[tuple[Any, ...], list[tuple[float, Candidate]]] = {}
        for field, cubes in self.candidates.items():
            for redshift in sorted(cubes, reverse=True):
                seen: Counter[tuple[Any, ...]] = Counter()
                for candidate in cubes[redshift]:
                    source = candidate.source
                    array = source if isinstance(source, FieldSource) else None
                    kind = (
                        *(field, candidate.format_name, candidate.quantity),
                        *((array.shape, array.dtype) if array else ()),
                    )
                    # Two files of a kind at one redshift, a problem, are listed one by one.
                    groups.setdefault((*kind, seen[kind]), []).append((redshift, candidate))
                    seen[kind] += 1
        return tuple(
            FieldSummary(
                group[0][1],
                tuple(redshift for redshift, _ in group),
                *self._stored_as(group[0][1]),
            )
            for group in groups.values()
        )

    def simulation(self) -> Simulation:
        """Return the cubes, converted to what is stored; raise SourceDataError for a problem."""
        if self.problems:
            raise SourceDataError(self.problems[0])
        mesh_cells = next(
            candidate.source.shape[0]
            for candidate in _each(self.candidates)
            if isinstance(candidate.source, FieldSource) and candidate.source.shape
        )
        cubes: dict[str, dict[float, FieldSource]] = {}
        for field, found in self.candidates.items():
            cubes[field] = {}
            for redshift in sorted(found, reverse=True):
                (candidate,) = found[redshift]
                source = candidate.source
                if isinstance(source, PointList):
                    source = GriddedPoints(source, mesh_cells)
                conversion = plan_conversion(
                    *(field, candidate.quantity),
                    redshift=redshift,
                    mesh_cells=mesh_cells,
                    known=self.known,
                )
                cubes[field][redshift] = convert(source, conversion)
        stored = {
            candidate.field: self._stored_as(candidate) for candidate in _each(self.candidates)
        }
        return Simulation(
            cubes,
            box_length_cmpc=self.known.box_length_cmpc,
            cosmology=self.known.cosmology,
            density_frame=stored["n_igm"][1] if "n_igm" in stored else None,
            n_src_units=stored["n_src"][0] if "n_src" in stored else None,
        )

    def paths(self) -> Iterator[Path]:
        """Yield the paths of all files."""
        return (candidate.source.path for candidate in _each(self.candidates))

    def _stored_as(self, candidate: Candidate) -> tuple[str | None, KnownFrame | None]:
        return stored_as(candidate.field, candidate.quantity, self.known)


def detect(
    folder: Path,
    files: FileSelection = ALL_FILES,
    *,
    given: SimulationDescription | None = None,
    box_length_cmpc_h: float | None = None,
    otherwise: SimulationDescription | None = None,
    readers: Sequence[FileReader] = READERS,
) -> FoundSimulation:
    """Find the files of a simulation, and what stands in the way of ingesting them.

    Reads the beginnings of files. What the user gives wins over what files say; `otherwise` is
    taken where neither says it.
    """
    if files.source_columns:
        readers = [
            replace(reader, columns=tuple(files.source_columns))
            if isinstance(reader, C2RaySources)
            else reader
            for reader in readers
        ]
    found = find_candidates(folder, files.maps, format_name=files.format_name, readers=readers)
    candidates, notes, problems = _choose(folder, found, files)
    given = given or SimulationDescription()
    known = given
    try:
        beside = read_description(folder)
        notes += unknown_keys(folder)
        told = [*_told(candidates), (FILE_NAME, beside)]
        if box_length_cmpc_h is not None:
            # First with another length, for an h that only files know: without any, files that
            # tell several would be refused.
            stand_in = given.model_copy(update={"box_length_cmpc": box_length_cmpc_h})
            cosmology = describe(told, stand_in, lambda note: None, otherwise=otherwise).cosmology
            length = length_in_cmpc(box_length_cmpc_h, cosmology.h if cosmology else None)
            given = given.model_copy(update={"box_length_cmpc": length})
        known = describe(told, given, notes.append, otherwise=otherwise)
        problems += _of_several_kinds(candidates, known)
        check_inputs(((one.name, one.field, one.quantity) for one in _each(candidates)), known)
    except SourceDataError as error:
        problems.append(str(error))
    notes += _overruled(candidates, known)
    notes += _about_columns(candidates, files)
    return FoundSimulation(candidates, known, tuple(notes), tuple(problems))


def _choose(
    folder: Path, found: FoundFiles, files: FileSelection
) -> tuple[Candidates, list[str], list[str]]:
    """Return the files that are taken for cubes, with notes and problems about the choice."""
    kept, unwanted = leave_out(found.candidates, files.without)
    chosen, unfound = choose_redshifts(group_by_cube(kept), files.redshifts)
    needed, unneeded = sort_damage(found.damaged, chosen, files)
    if needed:
        raise SourceDataError(needed[0])
    candidates, left_out = leave_out_extras(chosen, files.maps)
    problems = [*found.problems, *unfound]
    if not (candidates or problems):
        problems.append(_nothing(folder, found))
    problems += there_twice(folder, candidates)
    problems += redshifts_too_close(folder, candidates)
    problems += missing_fields(folder, candidates, found, files.required)
    # Only of one file for each cube: of two, the one to be left out may be of another run.
    if not problems:
        problems += of_different_runs(candidates)
    if not problems and all(isinstance(one.source, PointList) for one in _each(candidates)):
        problems.append(
            f"{folder}: n_src alone must be given on a mesh, which lists of sources do not tell; "
            "give n_igm or xhii as well"
        )
    notes = [*unwanted, *unneeded, *left_out, *_said(found, candidates, problems), *found.notes]
    return candidates, notes, problems


def _about_columns(candidates: Candidates, files: FileSelection) -> Iterator[str]:
    """Yield notes about the columns of masses that are taken of lists of sources."""
    if files.source_columns:
        if not any(one.format_name == C2RaySources.name for one in _each(candidates)):
            yield "--source-column is for text lists of sources, and none is among the files taken"
        return
    # Once for all files of which one of several columns is taken.
    names: dict[tuple[int, int], list[str]] = {}
    for one in _each(candidates):
        if isinstance(one.source, SourceList):
            (column,), last = one.source.columns, one.source.n_columns
            if last > column:
                names.setdefault((column, last), []).append(one.name)
    for (column, last), (name, *others) in names.items():
        yield (
            f"{name}: column {column} of {column}-{last} is taken as the mass of a source; "
            "--source-column chooses others, or several to be summed"
            + (f" (and {len(others)} more such files)" if others else "")
        )


def _each(candidates: Candidates) -> Iterator[Candidate]:
    return (one for of_field in candidates.values() for at in of_field.values() for one in at)


def _told(candidates: Candidates) -> list[tuple[str, SimulationDescription]]:
    """Return what each file tells of the simulation."""
    return [
        (
            one.name,
            SimulationDescription(
                box_length_cmpc=one.file.contents.box_length_cmpc,
                cosmology=one.file.contents.cosmology,
            ),
        )
        for one in _each(candidates)
    ]


def _said(found: FoundFiles, candidates: Candidates, problems: Sequence[str] = ()) -> Iterator[str]:
    """Yield the remarks of readers on files, each once for all files that it is about."""
    # Without what a problem says anyway, and without ways to find a field that was found.
    alike: dict[str, list[str]] = {}
    for name, lines in found.said.items():
        own = PurePath(name).name
        for line in lines:
            is_moot = any(f"--map {field}=" in line for field in candidates)
            if not is_moot and not any(line in problem for problem in problems):
                said = line if own in line else f"{own}: {line}"
                alike.setdefault(said.replace(own, ""), []).append(said)
    for said, *others in alike.values():
        yield said + (f" (and {len(others)} more such files)" if others else "")


def _nothing(folder: Path, found: FoundFiles) -> str:
    if is_store(folder):
        return (
            f"{folder}: expected a folder of simulation output, got a store; `ionstore info "
            f"{folder}` shows what it holds"
        )
    said = next(_said(found, {}), "`ionstore formats` lists what is read")
    if found.ignored:
        said = ignored_in_words(found.ignored)
    return (
        f"{folder}: expected files such as rho_z8.397.npy, nsrc_z8.397.npy and xHII_z8.397.npy, "
        f"or those of another format, found none; name the folder that holds them; {said}"
    )


def _of_several_kinds(candidates: Candidates, known: SimulationDescription) -> Iterator[str]:
    """Yield a sentence for every field whose files would be stored in different units or frames."""
    for name, of_field in candidates.items():
        single = [at[0] for at in of_field.values() if len(at) == 1]
        kinds = {_kind(one, known): one for one in single}
        if len(kinds) > 1:
            one, other, *_ = kinds.values()
            yield (
                f"{name} must be of one kind at all redshifts, got {QUANTITY_WORDS[one.quantity]} "
                f"in {one.name} and {QUANTITY_WORDS[other.quantity]} in {other.name}; "
                f"choose files of one kind with --map {name}=PATH"
            )


def _kind(one: Candidate, known: SimulationDescription) -> tuple[str | None, KnownFrame | None]:
    """Return unit and frame of the values of a file; of sources, the unit that the file says."""
    if one.field != "n_src":
        return stored_as(one.field, one.quantity, known)
    if one.quantity == "grid_mass" and known.n_src_units not in (None, "Msun"):
        return "grid_mass", None  # it is not converted
    own, _ = stored_as(one.field, one.quantity, known.model_copy(update={"n_src_units": None}))
    return own or known.n_src_units, None


def _overruled(candidates: Candidates, known: SimulationDescription) -> Iterator[str]:
    """Yield a note for each unit or frame that was given against what files say."""
    firsts: dict[tuple[str, Quantity], Candidate] = {}
    for one in _each(candidates):
        firsts.setdefault((one.field, one.quantity), one)
    # Files of one quantity are alike, so the first speaks for all.
    for one in firsts.values():
        if one.field == "n_src":
            units, _ = _kind(one, known)
            if known.n_src_units not in (None, units):
                yield (
                    f"n_src is stored in the unit {known.n_src_units}, as given, "
                    f"although {one.name} holds {QUANTITY_WORDS[one.quantity]}"
                )
        elif one.field == "n_igm":
            _, frame = stored_as(one.field, one.quantity, known)
            if known.density_frame not in (None, frame):
                yield (
                    f"n_igm is stored as {frame} density, because {one.name} holds "
                    f"{QUANTITY_WORDS[one.quantity]}; density_frame {known.density_frame} is not "
                    "used"
                )
