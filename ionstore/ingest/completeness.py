"""Check that every field has one file at every redshift, and say what is missing or too many."""

import difflib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePath

import numpy as np

from ionstore.cube.fields import EXTRA, FIELDS, INPUTS, WITHOUT
from ionstore.cube.mesh import REDSHIFT_ROUNDING, REDSHIFT_TOLERANCE
from ionstore.ingest.candidates import Candidate, FoundFiles, ignored_in_words, listed
from ionstore.ingest.scan import UnreadableFile
from ionstore.ingest.selection import FileSelection
from ionstore.readers.file_names import DECIMAL_NUMBER, redshift_in

Candidates = Mapping[str, Mapping[float, Sequence[Candidate]]]
"""For every field and redshift, the files that may be the one."""

_ABOUT = 0.05  # names of other codes may round redshifts to one decimal
_LIKENESS = 0.75  # rho_z8.40.npy and rho_z8.397.npy, say, are alike by 0.81
_HASH = re.compile("[0-9a-f]{32}")  # of the inputs of a run, in names of 21cmFAST


def group_by_cube(candidates: Iterable[Candidate]) -> dict[str, dict[float, list[Candidate]]]:
    """Return candidates by field and by the redshift of the cube that they belong to.

    Fields are in their order, redshifts ascending.
    """
    found = sorted(candidates, key=lambda one: one.redshift)
    redshifts = _redshifts_of_cubes([one.redshift for one in found])
    grouped: dict[str, dict[float, list[Candidate]]] = {}
    for name in FIELDS:
        for one in found:
            if one.field == name:
                at = grouped.setdefault(name, {}).setdefault(redshifts[one.redshift], [])
                at.append(one)
    return grouped


def choose_redshifts(
    candidates: Candidates, wanted: Sequence[float]
) -> tuple[dict[str, dict[float, Sequence[Candidate]]], list[str]]:
    """Return the candidates at the wanted redshifts, and a problem for each that is missing."""
    there = all_redshifts(candidates)
    near = {redshift: _near(there, redshift) for redshift in wanted}
    problems = [
        f"redshift {redshift:g} is wanted, but no file has it; found "
        f"{redshifts_in_words(there) or 'none'}"
        for redshift, found in near.items()
        if not found
    ]
    chosen = {one for found in near.values() for one in found} if wanted else set(there)
    kept = {
        name: {redshift: at for redshift, at in of_field.items() if redshift in chosen}
        for name, of_field in candidates.items()
    }
    return {name: of_field for name, of_field in kept.items() if of_field}, problems


def leave_out(
    candidates: Iterable[Candidate], fields: Collection[str]
) -> tuple[list[Candidate], list[str]]:
    """Return the candidates of all other fields, and a note for each field that is left out."""
    kept: list[Candidate] = []
    passed: dict[str, list[str]] = {}
    for one in candidates:
        if one.field in fields:
            passed.setdefault(one.field, []).append(one.name)
        else:
            kept.append(one)
    return kept, [
        f"{name} is left out, although it is there: {listed(list(dict.fromkeys(files)))}"
        for name, files in passed.items()
    ]


def sort_damage(
    damaged: Iterable[UnreadableFile], candidates: Candidates, files: FileSelection
) -> tuple[list[str], list[str]]:
    """Return what is wrong with damaged files that are needed, and a note for each of the others.

    A file is needed unless its name tells a redshift that is not wanted, or a field that is mapped
    elsewhere or left out. One whose name tells less is needed unless all that is wanted is there
    without it.
    """
    # So a damaged file never makes a store with fewer redshifts than the files would have given, or
    # than were asked for.
    wanted, required = files.redshifts, files.required
    lacking = [redshift for redshift in wanted if not _near(all_redshifts(candidates), redshift)]
    complete = (
        bool(wanted)
        and not lacking
        and all(
            _is_complete(candidates, redshift, required) for redshift in all_redshifts(candidates)
        )
    )
    unneeded = {*files.maps, *files.without}
    all_mapped = all(name in files.maps for name in required)
    needed, notes = [], []
    for one in damaged:
        unwanted = wanted and one.redshift is not None and not _near(wanted, one.redshift)
        elsewhere = not one.is_mapped and (
            one.field in unneeded or (all_mapped and one.field is None)
        )
        told = one.field is not None and one.redshift is not None
        if unwanted or elsewhere or (complete and not told):
            notes.append(f"left out: {one.sentence}")
        else:
            needed.append(one.sentence)
    return needed, notes


def all_redshifts(candidates: Candidates) -> list[float]:
    """Return the redshifts at which there is a file of any field, ascending."""
    return sorted({redshift for of_field in candidates.values() for redshift in of_field})


def redshifts_in_words(redshifts: Iterable[float]) -> str:
    """Return the first few of many redshifts in one line, descending."""
    return listed([f"{redshift:g}" for redshift in sorted(redshifts, reverse=True)])


def leave_out_extras(
    candidates: Mapping[str, Mapping[float, Sequence[Candidate]]], mapped: Collection[str]
) -> tuple[dict[str, Mapping[float, Sequence[Candidate]]], list[str]]:
    """Return the fields without incomplete extra ones, and a note for each of those."""
    # No store needs an extra field, so one that is incomplete is no reason to refuse the others.
    kept, notes = dict(candidates), []
    redshifts = all_redshifts(candidates)
    for field in EXTRA:
        of_field = candidates.get(field.name)
        if of_field is None:
            continue
        lacking = [redshift for redshift in redshifts if redshift not in of_field]
        twice = [redshift for redshift, at in of_field.items() if len(at) > 1]
        if lacking:
            prefixed = all(_is_in_three_file_set(one) for at in of_field.values() for one in at)
            what = field.file_prefix if prefixed else "it"
            notes.append(
                f"{field.name} is left out: {what} is missing at redshift "
                + redshifts_in_words(lacking)
            )
        elif twice and field.name not in mapped:
            notes.append(
                f"{field.name} is left out: at redshift {twice[0]:g} it is there "
                f"{_choice(of_field, twice[0])}"
            )
        else:
            continue
        del kept[field.name]
    return kept, notes


def there_twice(folder: Path, candidates: Candidates) -> Iterator[str]:
    """Yield a sentence for every field that is there more than once at a redshift."""
    for name, of_field in candidates.items():
        again = [redshift for redshift, at in of_field.items() if len(at) > 1]
        if not again:
            continue
        where = f"at redshift {again[-1]:g}"
        if len(again) > 1:
            where = f"is there more than once at {len(again)} redshifts; {where} it"
        yield (
            f"{folder}: {name} {where} is there {_choice(of_field, again[-1])}, or remove the "
            "others"
        )


def redshifts_too_close(folder: Path, candidates: Candidates) -> Iterator[str]:
    """Yield a sentence for redshifts that are too close to tell apart by names of files."""
    for lower, upper in pairwise(all_redshifts(candidates)):
        # Twice: a rounded redshift between two could belong to either.
        if upper - lower <= 2 * REDSHIFT_TOLERANCE:
            yield (
                f"{folder}: redshifts must differ by more than {2 * REDSHIFT_TOLERANCE:g}, "
                f"got {lower} and {upper}; rename the files of one of them"
            )


def of_different_runs(candidates: Candidates) -> Iterator[str]:
    """Yield a sentence for fields at one redshift whose initial conditions differ."""
    for redshift in all_redshifts(candidates):
        told: dict[str, Candidate] = {}
        files = [of_field[redshift][0] for of_field in candidates.values() if redshift in of_field]
        for one in files:
            for name, value in one.file.contents.initial_conditions.items():
                first = told.setdefault(name, one)
                there = first.file.contents.initial_conditions[name]
                if there != value:
                    yield (
                        f"{first.field} in {first.name} and {one.field} in {one.name} are of "
                        f"different runs, with {name} {there:.15g} and {value:.15g}; give "
                        "fields of one run"
                    )
                    return


def missing_fields(
    folder: Path, candidates: Candidates, found: FoundFiles, required: Sequence[str]
) -> Iterator[str]:
    """Yield a sentence for every required field that is missing at a redshift."""
    redshifts = all_redshifts(candidates)
    complete = [redshift for redshift in redshifts if _is_complete(candidates, redshift, required)]
    for name in required:
        of_field = candidates.get(name, {})
        lacking = [redshift for redshift in redshifts if redshift not in of_field]
        if not lacking:
            continue
        expected = _expected_name(name, lacking[0], candidates)
        near = _misnamed(expected, name, candidates, found, required)
        if near:
            way_on = f"{near} is there: rename it if it is the one"
        elif not of_field:
            way_on = f"add it, or say where it is with --map {name}=PATH"
        else:
            way_on = "add it, or move the other files of this redshift away"
        if complete:
            options = [f"--redshift {redshift:g}" for redshift in reversed(complete)]
            way_on += f", or take what is complete alone: {listed(options).replace(',', '')}"
        said = dict.fromkeys(
            line for lines in found.said.values() for line in lines if name in line
        )
        ignored = {
            file: reason
            for file, reason in found.ignored.items()
            if file != near and reason not in said and (not of_field or _may_be_at(file, lacking))
        }
        if any("--map" in line for line in said):  # they say how to go on
            way_on, ignored = "", {}
        listed_as_ignored = [ignored_in_words(ignored)] if ignored else []
        without = []
        # A field that is there at some redshifts was rather forgotten at others.
        if not of_field and any(candidates.get(one.name) for one in INPUTS if one.name in required):
            without = [f"--without {name} makes a store that {WITHOUT[name]}"]
        yield (
            f"{folder}: {_what_is_missing(name, lacking, of_field, expected)} is required at every "
            f"redshift; {'; '.join(filter(None, [way_on, *said, *listed_as_ignored, *without]))}"
        )


def _misnamed(
    expected: str | None,
    name: str,
    candidates: Candidates,
    found: FoundFiles,
    required: Sequence[str],
) -> str | None:
    """Return the file whose name is most like the expected one, if one is alike."""
    of_field = candidates.get(name, {})
    others = [candidates.get(other, {}) for other in required if other != name]
    # One at a redshift where another field has none may be misnamed, and of the missing redshift.
    alone = [
        one.name
        for redshift, at in of_field.items()
        for one in at
        if any(other and redshift not in other for other in others)
    ]
    alike = difflib.get_close_matches(expected or "", [*alone, *found.spare], n=1, cutoff=_LIKENESS)
    return alike[0] if alike else None


def _may_be_at(name: str, redshifts: Sequence[float]) -> bool:
    """Tell whether a file may be at one of these redshifts, going by its name."""
    told = redshift_in(PurePath(name).name)
    return told is None or any(abs(told - one) <= _ABOUT for one in redshifts)


def _near(redshifts: Iterable[float], redshift: float) -> list[float]:
    """Return the redshifts that may belong to the same cube as another."""
    return [
        one for one in redshifts if abs(one - redshift) <= REDSHIFT_TOLERANCE + REDSHIFT_ROUNDING
    ]


def _is_complete(candidates: Candidates, redshift: float, required: Sequence[str]) -> bool:
    return all(redshift in candidates.get(name, {}) for name in required)


def _what_is_missing(
    name: str, lacking: Sequence[float], of_field: Collection[float], expected: str | None
) -> str:
    if expected and len(lacking) == 1:
        return f"{expected} is missing: {name}"
    if of_field:
        such = f" ({expected} and so on)" if expected else ""
        return f"{name} is missing at redshift {redshifts_in_words(lacking)}{such}: it"
    return f"{name} is missing: it"


def _expected_name(name: str, redshift: float, candidates: Candidates) -> str | None:
    """Return the name that a missing file would have, going by other redshifts or fields."""
    of_field = candidates.get(name, {})
    # A file that stands alone at its redshift may be a misnamed one.
    accompanied = sorted(
        of_field, key=lambda redshift: -sum(redshift in other for other in candidates.values())
    )
    for at in map(of_field.__getitem__, accompanied):
        for one in at:
            expected = _renamed(one.name, one.redshift, redshift)
            if expected != one.name:
                return expected
    at_redshift = (one for of_field in candidates.values() for one in of_field.get(redshift, ()))
    if any(map(_is_in_three_file_set, at_redshift)):
        return f"{FIELDS[name].file_prefix}_z{redshift:.3f}.npy"
    return None


def _renamed(name: str, redshift: float, to: float | None) -> str:
    """Return a name with another redshift in it, or with an asterisk in its place."""

    def replace(match: re.Match[str]) -> str:
        if abs(float(match[0]) - redshift) > 2 * REDSHIFT_TOLERANCE:
            return match[0]
        return "*" if to is None else f"{to:.{len(match[0].partition('.')[2])}f}"

    return DECIMAL_NUMBER.sub(replace, name)


def _pattern(path: str, redshift: float) -> str:
    """Return a pattern of the files at all redshifts that are named like this one."""
    pattern = _renamed(path, redshift, None)
    if pattern != path:
        return pattern
    folder, name = os.path.split(path)
    return os.path.join(folder, _HASH.sub("*", name))


def _is_in_three_file_set(one: Candidate) -> bool:
    return PurePath(one.name).name.startswith(f"{FIELDS[one.field].file_prefix}_z")


def _redshifts_of_cubes(ascending: Sequence[float]) -> dict[float, float]:
    """Return the redshift of the cube that each redshift belongs to."""
    # Names round the redshifts that attributes give: those within the tolerance are one cube, and
    # the one with the most decimals is exact.
    cubes: list[list[float]] = []
    for redshift in ascending:
        if cubes and redshift - cubes[-1][0] <= REDSHIFT_TOLERANCE + REDSHIFT_ROUNDING:
            cubes[-1].append(redshift)
        else:
            cubes.append([redshift])
    exact = [
        max(map(_as_written, cube), key=lambda redshift: len(repr(redshift))) for cube in cubes
    ]
    return {
        redshift: of_cube for cube, of_cube in zip(cubes, exact, strict=True) for redshift in cube
    }


def _as_written(redshift: float) -> float:
    """Return a redshift as it was before a file stored it in float32: 8.397, not 8.39699935."""
    single = np.float32(redshift)
    return float(str(single)) if float(single) == redshift else redshift


def _choice(of_field: Mapping[float, Sequence[Candidate]], redshift: float) -> str:
    """Return the files there are for a field at a redshift, and how to choose one, in words."""
    at = of_field[redshift]
    names = [one.name for one in at]
    formats = [one.format_name for one in at]
    path = str(at[0].source.path)
    pattern = _pattern(path, at[0].redshift) if len(of_field) > 1 else path
    chosen = f"{at[0].field}={pattern}"
    ways = [f"--map {chosen if pattern == path else repr(chosen)}"]
    if len(set(formats)) == len(formats):  # else a format does not choose one file
        ways += [f"--format {name}" for name in formats]
    times = "twice" if len(at) == 2 else f"{len(at)} times"
    joined = f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{times}, {joined}; choose with {' or '.join(ways)}"
