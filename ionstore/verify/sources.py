"""Source files in the books of a store: how each is named, and what is compared with them."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ionstore.store.metadata import SourceFile


@dataclass(frozen=True, slots=True)
class FileComparison:
    """A file that is to be compared with what was recorded.

    Parameters
    ----------
    path : Path
        The file, which need not be there.
    recorded : tuple of SourceFile
        What was recorded of files of its name: it has to be one of them.
    """

    path: Path
    recorded: tuple[SourceFile, ...]


@dataclass(frozen=True, slots=True)
class ComparisonPlan:
    """Which files are compared.

    Parameters
    ----------
    comparisons : tuple of FileComparison
        One for each file.
    strange : tuple of Path
        Folders in which nothing is of the names that were recorded.
    """

    comparisons: tuple[FileComparison, ...]
    strange: tuple[Path, ...]


def plan_comparison(files: Sequence[SourceFile], folders: Sequence[Path]) -> ComparisonPlan:
    """Return which files are compared: those of the names recorded that are in some folders.

    Parameters
    ----------
    files : sequence of SourceFile
        What was recorded.
    folders : sequence of Path
        Folders to look into.

    Notes
    -----
    Files that were recorded with one of the folders belong there: if one is missing, it is
    compared all the same. Folders that were recorded with no file, such as those that were moved,
    may be any: they are looked into for the files that were recorded without a folder, and for
    those of a folder that is not named, if they hold at least one of them.
    """
    by_folder: dict[str | None, list[SourceFile]] = {}
    for file in files:
        by_folder.setdefault(file.folder, []).append(file)
    own = {name: [one for one in folders if _is_same(name, one)] for name in by_folder}
    others = [one for one in folders if not any(one in named for named in own.values())]
    found: dict[Path, list[SourceFile]] = {}
    used: set[Path] = set()
    for name, recorded in by_folder.items():
        looked_into = own[name] or [
            one for one in others if name is None or _holds_any(one, recorded)
        ]
        used.update(looked_into)
        for file in recorded if looked_into else ():
            paths = [one / file.name for one in looked_into]
            for path in [path for path in paths if path.exists()] or paths[:1]:
                found.setdefault(path, []).append(file)
    return ComparisonPlan(
        tuple(FileComparison(path, tuple(recorded)) for path, recorded in found.items()),
        tuple(one for one in folders if files and one not in used),
    )


def _is_same(recorded: str | None, folder: Path) -> bool:
    return recorded is not None and os.path.realpath(recorded) == os.path.realpath(folder)


def _holds_any(folder: Path, files: Iterable[SourceFile]) -> bool:
    return any((folder / file.name).exists() for file in files)
