"""Choose which files are compared with the source files recorded in a store."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ionstore.store.metadata import SourceFile


@dataclass(frozen=True, slots=True)
class FileComparison:
    """A file to compare, which must match one of the records."""

    path: Path  # may be missing
    recorded: tuple[SourceFile, ...]  # of files of this name


@dataclass(frozen=True, slots=True)
class ComparisonPlan:
    """Files to compare, and folders that hold none of them."""

    comparisons: tuple[FileComparison, ...]
    strange: tuple[Path, ...]  # nothing in these has a recorded name


def plan_comparison(files: Sequence[SourceFile], folders: Sequence[Path]) -> ComparisonPlan:
    """Match recorded source files with the files in some folders."""
    by_folder: dict[str | None, list[SourceFile]] = {}
    for file in files:
        by_folder.setdefault(file.folder, []).append(file)
    # A file recorded with one of these folders belongs there: if it is missing, that is damage.
    own = {name: [one for one in folders if _is_same(name, one)] for name in by_folder}
    # The other folders may be moved ones. They are searched for files recorded without a folder,
    # and for those of a folder that was not given, if at least one of these is there.
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
    # Through links, because users reach one folder by several paths.
    return recorded is not None and os.path.realpath(recorded) == os.path.realpath(folder)


def _holds_any(folder: Path, files: Iterable[SourceFile]) -> bool:
    return any((folder / file.name).exists() for file in files)
