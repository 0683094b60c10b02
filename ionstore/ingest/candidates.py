"""Files that may hold a field: those of a folder, and those that a user maps to a field."""

import dataclasses
import glob
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ionstore.cube.fields import FIELDS
from ionstore.errors import SourceDataError
from ionstore.ingest.scan import (
    HDF5_SUFFIXES,
    InspectedFile,
    InspectedFolder,
    UnknownFile,
    UnreadableFile,
    inspect_file,
    inspect_folder,
    unreadable_file,
)
from ionstore.readers.arrays.cbin import SIZES_BYTES, check_complete
from ionstore.readers.base import PLAIN_QUANTITIES, FileReader, FoundField, PointList

_FIELDS_OF_SOURCES = ("n_src", "src_mass")

# A message stays a few lines long, however many files a folder holds.
_NAMES_SHOWN = 6
_REASONS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Candidate(FoundField):
    """A field found in a file that may be the one for its redshift; both are known."""

    field: str
    redshift: float
    file: InspectedFile
    name: str  # of the file, relative to the folder of the simulation if it lies in it

    @property
    def format_name(self) -> str:
        """Name of the format of its file."""
        return self.file.format_name


@dataclass(slots=True)
class FoundFiles:
    """Findings in files on the way to cubes; names of files are as `file_name` gives them."""

    candidates: list[Candidate] = dataclasses.field(default_factory=list)
    damaged: list[UnreadableFile] = dataclasses.field(default_factory=list)
    # Files in the folder that hold numbers, but do not say of which field.
    spare: list[str] = dataclasses.field(default_factory=list)
    # Why files of data in the folder are not taken for any field, by their names.
    ignored: dict[str, str] = dataclasses.field(default_factory=dict)
    # Notes of readers on files, by their names.
    said: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    # For the user, one sentence each; problems must be solved before an ingest.
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

    A field that `maps` gives files, folders or patterns for is looked for in nothing else. In
    `folder`, the one format of `format_name` is looked for, if one is given; mapped files are tried
    as this one first, then as all others.
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
            inside = _inspect_mapped(path, name, preferred)
            _take_mapped(found, folder, name, path, inside)
            there = [path, *(file.path for file in inside.files)]
            there += [file.path for file in inside.damaged]
            mapped += [os.path.abspath(one) for one in there]
    others = tuple(reader for reader in readers if reader not in chosen)
    inside = inspect_folder(folder, chosen, _says_a_field, others=others)
    _take_folder(found, folder, _without(inside, mapped), chosen, maps)
    # A file is met twice where it is mapped by two patterns, or gives another field than the mapped
    # one in the folder of the simulation.
    found.candidates = list(
        {
            (one.field, one.redshift, os.path.abspath(one.source.path)): one
            for one in found.candidates
        }.values()
    )
    return found


def file_name(path: Path, folder: Path) -> str:
    """Return the name of a file as people read it and as a store records it.

    Relative to the folder if the file lies in it, else as the path was given, or absolute where the
    folder holds another file of that name.
    """
    absolute, inside = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    if absolute.is_relative_to(inside):
        return str(absolute.relative_to(inside))
    return str(absolute if (folder / path).exists() and not path.is_absolute() else path)


def ignored_in_words(ignored: Mapping[str, str]) -> str:
    """Return the first few reasons why files are ignored, with the files, in one line."""
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
        # As a path first: the name of a file may itself look like a pattern.
        there = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(str(path)))]
        if not there:
            raise SourceDataError(
                f"{path}: expected a file, a folder or a pattern of files with {field_name}, "
                "found nothing; check the path, which starts from the working folder"
            )
        yield from there


def _inspect_mapped(path: Path, field_name: str, readers: Sequence[FileReader]) -> InspectedFolder:
    """Return what readers find in a file, or in the files of a folder."""
    if path.is_dir():
        return inspect_folder(path, readers, lambda file: bool(_offers(file, field_name)))
    try:
        file = inspect_file(path, readers)
        if file is None:
            # A truncated mesh is of no known format; since the user names it, say what is wrong.
            with path.open("rb") as opened:
                check_complete(path, opened.read(SIZES_BYTES))
    except (SourceDataError, OSError) as error:
        damaged = replace(unreadable_file(path, readers, error), field=field_name)
        return InspectedFolder((), (damaged,), (), ())
    return InspectedFolder((file,) if file else (), (), (), ())


def _take_mapped(
    found: FoundFiles, folder: Path, name: str, path: Path, inside: InspectedFolder
) -> None:
    """Take the files at a path that a user maps to a field: the best that they offer for it."""
    damaged = [
        replace(one, field=name, is_mapped=True)
        for one in inside.damaged
        if one.field in (None, name) or {name, one.field} == set(_FIELDS_OF_SOURCES)
        # Nothing suggests that a file without content and a telling name is data at all.
        if not (one.unread and one.field is None and one.redshift is None)
    ]
    found.damaged += damaged
    offers = [(rank, one, file) for file in inside.files for rank, one in _offers(file, name)]
    if not offers and not damaged:
        found.problems.append(_nothing_mapped(folder, name, path, inside.files))
    best = min((rank for rank, _, _ in offers), default=0)
    for rank, one, file in offers:
        if rank > best:
            continue
        if one.redshift is None:
            found.problems.append(_without_redshift([file_name(file.path, folder)]))
            continue
        found.candidates.append(_candidate(name, one.redshift, one, file, folder))


def _nothing_mapped(folder: Path, name: str, path: Path, files: Sequence[InspectedFile]) -> str:
    """Return a sentence about a path that is mapped to a field, and does not hold it."""
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
    return (
        f"{path}: {name} was expected here, found {listed(sorted(fields)) or 'no field'}; "
        f"{(said or [way_on])[0]}"
    )


def _offers(file: InspectedFile, name: str) -> list[tuple[int, FoundField]]:
    """Return what a file offers for a field, each with a rank; the lowest fits best."""
    offers = []
    for one in file.contents.fields:
        # A list of sources can be gridded to counts or masses, to no other field.
        if isinstance(one.source, PointList) and name not in _FIELDS_OF_SOURCES:
            continue
        if one.field == name:
            offers.append((0, one))
        elif one.field is None:
            offers.append((1, one))
        elif {name, one.field} == set(_FIELDS_OF_SOURCES):  # masses may stand for sources
            offers.append((2, one))
    return offers


def _take_folder(
    found: FoundFiles,
    folder: Path,
    inside: InspectedFolder,
    readers: Sequence[FileReader],
    maps: Collection[str],
) -> None:
    """Take the files of the folder of the simulation, but for fields that are mapped."""
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
                found.ignored[name] = "its redshift is unknown"
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


def _take_damaged(found: FoundFiles, folder: Path, damaged: Sequence[UnreadableFile]) -> None:
    """Take files that cannot be read, or only note those that could not be any field."""
    unread: dict[str, list[str]] = {}
    for one in damaged:
        if one.unread and not _could_be_a_field(one):
            unread.setdefault(one.unread, []).append(file_name(one.path, folder))
        else:
            found.damaged.append(one)
    found.notes += [f"{listed(names)}: {reason}" for reason, names in unread.items()]


def _without(inside: InspectedFolder, mapped: Collection[str]) -> InspectedFolder:
    """Return what a folder holds besides the files that a user maps to fields."""

    def is_left(one: InspectedFile | UnreadableFile | UnknownFile) -> bool:
        return os.path.abspath(one.path) not in mapped

    return InspectedFolder(
        # A mapped file may hold other fields as well, which are taken from it.
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


def _could_be_a_field(one: UnreadableFile) -> bool:
    """Tell whether a field might be taken from a file if it could be read."""
    # All but HDF5 files are known by their names.
    return one.field is not None or one.path.name.endswith(HDF5_SUFFIXES)


def _why_spare(file: InspectedFile, readers: Sequence[FileReader]) -> str:
    """Return why a file of a known format is not taken for a field."""
    if file.contents.notes:
        return file.contents.notes[0].removeprefix(f"{file.path.name} is left out: ")
    # Common where numbers are printed under a European locale.
    with_point = file.path.name.replace(",", ".")
    if with_point != file.path.name and any(reader.named(with_point) for reader in readers):
        return f"its redshift has a decimal comma; rename it to {with_point}"
    if not file.contents.fields:
        return "it holds none of the fields"
    if all(one.redshift is None for one in file.contents.fields):
        return "its field and redshift are unknown; `ionstore formats` lists names that tell both"
    return "its field is unknown; give it with --map FIELD=PATH"


def _candidate(
    name: str, redshift: float, one: FoundField, file: InspectedFile, folder: Path
) -> Candidate:
    # A file that does not say its field says nothing about its numbers either.
    quantity = one.quantity if one.field else PLAIN_QUANTITIES.get(name, "as_is")
    return Candidate(name, redshift, one.source, quantity, file, file_name(file.path, folder))


def _without_redshift(names: Sequence[str]) -> str:
    return (
        f"{listed(names)}: neither the file nor its name gives a redshift; put it in the name, "
        "such as xfrac_8.397.npy"
    )
