"""Which files may hold which field: those of a folder, and those that a user names for a field."""

import dataclasses
import glob
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ionstore.cube.cosmology import Cosmology
from ionstore.cube.fields import FIELDS
from ionstore.errors import SourceDataError
from ionstore.ingest.scan import (
    HDF5_SUFFIXES,
    DamagedFile,
    InspectedFile,
    InspectedFolder,
    UnknownFile,
    damaged_file,
    inspect_file,
    inspect_folder,
)
from ionstore.readers.arrays.cbin import SIZES_BYTES, check_complete
from ionstore.readers.base import (
    PLAIN_QUANTITIES,
    FieldSource,
    FileReader,
    FoundField,
    PointList,
    Quantity,
)

_FIELDS_OF_SOURCES = ("n_src", "src_mass")
_NAMES_SHOWN = 6
_REASONS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may be the one for a field at a redshift.

    Parameters
    ----------
    field : str
        Name of the field.
    redshift : float
        Its redshift.
    quantity : Quantity
        What the numbers in the file are.
    source : FieldSource or PointList
        The numbers.
    name : str
        Name of the file, relative to the folder of the simulation where it lies in it.
    format_name : str
        Name of its format.
    box_length_cmpc : float, optional
        Comoving side of the box in cMpc, where the file tells it.
    cosmology : Cosmology, optional
        Cosmology, where the file tells it.
    initial_conditions : mapping of str to float
        As in `ionstore.readers.base.FileContents`.
    """

    field: str
    redshift: float
    quantity: Quantity
    source: FieldSource | PointList
    name: str
    format_name: str
    box_length_cmpc: float | None = None
    cosmology: Cosmology | None = None
    initial_conditions: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UnreadableFile:
    """A truncated or damaged file, and what it would have been taken for.

    Parameters
    ----------
    field : str, optional
        The field that the user or its name says; None where it may be any.
    redshift : float, optional
        The redshift that its name tells.
    sentence : str
        What is wrong with it, and how to go on.
    is_mapped : bool
        Whether the user names it, or its folder, for the field.
    """

    field: str | None
    redshift: float | None
    sentence: str
    is_mapped: bool = False


@dataclass(slots=True)
class FoundFiles:
    """What was found in files, and what was not.

    Parameters
    ----------
    candidates : list of Candidate
        Files that may be the ones for a field.
    damaged : list of UnreadableFile
        Files that cannot be read.
    spare : list of str
        Names of files in the folder that hold numbers, but say no field.
    ignored : dict of str to str
        Why a file of data in the folder is not taken for any field, by its name.
    said : dict of str to tuple of str
        What readers said about files, by their names.
    notes : list of str
        What else the user should know, one line each.
    problems : list of str
        What stands in the way, one sentence each.
    """

    candidates: list[Candidate] = dataclasses.field(default_factory=list)
    damaged: list[UnreadableFile] = dataclasses.field(default_factory=list)
    spare: list[str] = dataclasses.field(default_factory=list)
    ignored: dict[str, str] = dataclasses.field(default_factory=dict)
    said: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)


def find_candidates(
    folder: Path,
    maps: Mapping[str, Sequence[Path]],
    *,
    format_name: str | None,
    readers: Sequence[FileReader],
) -> FoundFiles:
    """Look for the fields of a simulation; only the beginnings of files are read.

    Parameters
    ----------
    folder : Path
        Folder of the simulation. The files directly in it are taken, or all below it when none of
        those is a field.
    maps : mapping of str to sequence of Path
        For a field the files, folders, or patterns such as ``sources/*_used.dat``, that hold it:
        nothing else is considered for it.
    format_name : str, optional
        The one format to look for in `folder`; what is mapped is tried as this one first.
    readers : sequence of FileReader
        Formats that are known, in the order in which they are tried.

    Raises
    ------
    SourceDataError
        If `folder` or a path of `maps` is not there, or a field or the format is not known.
    OSError
        If a file cannot be read.
    """
    if not folder.is_dir():
        raise SourceDataError(f"{folder}: expected a folder of simulation output; check the path")
    chosen = _of_format(format_name, readers)
    preferred = (*chosen, *(reader for reader in readers if reader not in chosen))
    found = FoundFiles()
    mapped: list[str] = []
    for name, paths in maps.items():
        if name not in FIELDS:
            raise SourceDataError(f"a map names one of {', '.join(FIELDS)}, got {name}")
        for path in _existing(name, paths):
            inside = _inspected_for(path, name, preferred)
            _claim(found, folder, name, path, inside)
            there = [path, *(file.path for file in inside.files)]
            there += [file.path for file in inside.damaged]
            mapped += [os.path.abspath(one) for one in there]
    others = tuple(reader for reader in readers if reader not in chosen)
    inside = inspect_folder(folder, chosen, _says_a_field, others=others)
    _take_folder(found, folder, _without(inside, mapped), chosen, maps)
    found.candidates = list(
        {
            (one.field, one.redshift, os.path.abspath(one.source.path)): one
            for one in found.candidates
        }.values()
    )
    return found


def file_name(path: Path, folder: Path) -> str:
    """Return the name of a file as people read it and as a store records it.

    Parameters
    ----------
    path : Path
        The file.
    folder : Path
        Folder of the simulation.

    Returns
    -------
    str
        Relative to the folder where the file lies in it, else as the path was given, or absolute
        where the folder holds another file of that name.
    """
    absolute, inside = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    if absolute.is_relative_to(inside):
        return str(absolute.relative_to(inside))
    return str(absolute if (folder / path).exists() and not path.is_absolute() else path)


def ignored_in_words(ignored: Mapping[str, str]) -> str:
    """Return the first few of the files that are ignored, each with the reason, in one line."""
    alike: dict[str, list[str]] = {}
    for name, reason in ignored.items():
        alike.setdefault(reason, []).append(name)
    shown = list(alike.items())[:_REASONS_SHOWN]
    more = len(ignored) - sum(len(names) for _, names in shown)
    words = [f"{listed(names)} ({reason})" for reason, names in shown]
    return f"ignored: {', '.join(words)}" + (f" and {more:,} more" if more else "")


def listed(names: Sequence[str]) -> str:
    """Return the first few of many names in one line."""
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _of_format(name: str | None, readers: Sequence[FileReader]) -> tuple[FileReader, ...]:
    chosen = tuple(reader for reader in readers if name in (None, reader.name))
    if not chosen:
        known = ", ".join(reader.name for reader in readers)
        raise SourceDataError(f"the format must be one of {known}, got {name}")
    return chosen


def _existing(field_name: str, paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        there = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(str(path)))]
        if not there:
            raise SourceDataError(
                f"{path}: expected a file, a folder or a pattern of files with {field_name}, "
                "found nothing; check the path, which starts from the working folder"
            )
        yield from there


def _inspected_for(path: Path, field_name: str, readers: Sequence[FileReader]) -> InspectedFolder:
    """Return what readers find in a file, or in the files of a folder."""
    if path.is_dir():
        return inspect_folder(path, readers, lambda file: bool(_claims(file, field_name)))
    try:
        file = inspect_file(path, readers)
        if file is None:
            with path.open("rb") as opened:
                check_complete(path, opened.read(SIZES_BYTES))
    except (SourceDataError, OSError) as error:
        damaged = replace(damaged_file(path, readers, error), field=field_name)
        return InspectedFolder((), (damaged,), (), ())
    return InspectedFolder((file,) if file else (), (), (), ())


def _claim(found: FoundFiles, folder: Path, name: str, path: Path, inside: InspectedFolder) -> None:
    """Take the files at a path that a user names for a field: the best that they offer for it."""
    files = inside.files
    damaged = [
        UnreadableFile(name, one.redshift, one.sentence, is_mapped=True)
        for one in inside.damaged
        if one.field in (None, name) or {name, one.field} == set(_FIELDS_OF_SOURCES)
        if not (one.unread and one.field is None and one.redshift is None)
    ]
    found.damaged += damaged
    ranks = {rank for file in files for rank, _ in _claims(file, name)}
    if not ranks and not damaged:
        fields = {one.field for file in files for one in file.contents.fields if one.field}
        said = [
            line if file.path.name in line else f"{file_name(file.path, folder)}: {line}"
            for file in files
            for line in file.contents.notes
        ]
        way_on = "`ionstore formats` lists what is read"
        if fields:
            other = min(fields)
            way_on = f"map it with --map {other}={path}, or rename the file if its name is wrong"
        found.problems.append(
            f"{path}: {name} was expected here, found {listed(sorted(fields)) or 'no field'}; "
            f"{(said or [way_on])[0]}"
        )
        return
    for file in files:
        for rank, one in _claims(file, name):
            if rank > min(ranks):
                continue
            if one.redshift is None:
                found.problems.append(_without_redshift([file_name(file.path, folder)]))
                continue
            found.candidates.append(_candidate(name, one.redshift, one, file, folder))


def _claims(file: InspectedFile, name: str) -> list[tuple[int, FoundField]]:
    """Return what a file offers for a field: itself, what has no name, one kind of source."""
    claims = []
    for one in file.contents.fields:
        if isinstance(one.source, PointList) and name not in _FIELDS_OF_SOURCES:
            continue
        if one.field == name:
            claims.append((0, one))
        elif one.field is None:
            claims.append((1, one))
        elif {name, one.field} == set(_FIELDS_OF_SOURCES):
            claims.append((2, one))
    return claims


def _take_folder(
    found: FoundFiles,
    folder: Path,
    inside: InspectedFolder,
    readers: Sequence[FileReader],
    maps: Collection[str],
) -> None:
    """Take the files of the simulation's own folder."""
    undated = []
    for file in inside.files:
        name = file_name(file.path, folder)
        if file.contents.notes:
            found.said[name] = file.contents.notes
        named = [one for one in file.contents.fields if one.field]
        for one in named:
            if one.field is None or one.field in maps:
                continue
            if one.redshift is None:
                undated.append(name)
                found.ignored[name] = "nothing says its redshift"
                continue
            found.candidates.append(_candidate(one.field, one.redshift, one, file, folder))
        if not named:
            found.ignored[name] = _why_spare(file, readers)
        if not (named or file.contents.notes):
            found.spare.append(name)
    unknown = {file_name(one.path, folder): one.reason for one in inside.unknown}
    found.ignored |= unknown
    if spare := sorted([*found.spare, *unknown]):
        found.notes.append(f"ignored files: {listed(spare)}")
    if undated:
        found.notes.append(_without_redshift(undated))
    _take_damaged(found, folder, inside.damaged)
    if inside.unread:
        names = [path.name for path in inside.unread]
        found.notes.append(f"subfolders are not read: {listed(names)}")


def _take_damaged(found: FoundFiles, folder: Path, damaged: Sequence[DamagedFile]) -> None:
    """Take files that cannot be read for what they would have been, if they would have been any."""
    unread: dict[str, list[str]] = {}
    for one in damaged:
        if one.unread and _is_of_no_use(one):
            unread.setdefault(one.unread, []).append(file_name(one.path, folder))
        else:
            found.damaged.append(UnreadableFile(one.field, one.redshift, one.sentence))
    found.notes += [f"{listed(names)}: {reason}" for reason, names in unread.items()]


def _without(inside: InspectedFolder, mapped: Collection[str]) -> InspectedFolder:
    """Return what a folder holds besides what a user names for fields."""

    def is_left(one: InspectedFile | DamagedFile | UnknownFile) -> bool:
        return os.path.abspath(one.path) not in mapped

    return InspectedFolder(
        # What a file holds of other fields than the one it is mapped for is taken as well.
        tuple(one for one in inside.files if is_left(one) or _says_a_field(one)),
        tuple(filter(is_left, inside.damaged)),
        tuple(filter(is_left, inside.unknown)),
        tuple(
            path
            for path in inside.unread
            if not any(Path(there).is_relative_to(os.path.abspath(path)) for there in mapped)
        ),
    )


def _says_a_field(file: InspectedFile) -> bool:
    return any(one.field for one in file.contents.fields)


def _is_of_no_use(one: DamagedFile) -> bool:
    """Tell whether no field would be taken from a file: all but HDF5 files need a name for that."""
    return one.field is None and not one.path.name.endswith(HDF5_SUFFIXES)


def _why_spare(file: InspectedFile, readers: Sequence[FileReader]) -> str:
    """Say what keeps a file that is known from being a field."""
    if file.contents.notes:
        return file.contents.notes[0].removeprefix(f"{file.path.name} is left out: ")
    with_point = file.path.name.replace(",", ".")
    if with_point != file.path.name and any(reader.named(with_point) for reader in readers):
        return f"its redshift has a decimal comma; rename it to {with_point}"
    if not file.contents.fields:
        return "it holds none of the fields"
    if all(one.redshift is None for one in file.contents.fields):
        return (
            "nothing says which field it holds, nor its redshift; `ionstore formats` lists names "
            "that do"
        )
    return "nothing says which field it holds; name it with --map FIELD=PATH"


def _candidate(
    name: str, redshift: float, one: FoundField, file: InspectedFile, folder: Path
) -> Candidate:
    quantity = one.quantity if one.field else PLAIN_QUANTITIES.get(name, "as_is")
    return Candidate(
        name,
        redshift,
        quantity,
        one.source,
        file_name(file.path, folder),
        file.format_name,
        file.contents.box_length_cmpc,
        file.contents.cosmology,
        file.contents.initial_conditions,
    )


def _without_redshift(names: Sequence[str]) -> str:
    return (
        f"{listed(names)}: no redshift is told, neither inside nor in the name; "
        "put it there, such as in xfrac_8.397.npy"
    )
