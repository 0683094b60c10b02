"""Which files of a folder can be read, and as what."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ionstore.description import FILE_NAME
from ionstore.errors import SourceDataError
from ionstore.readers.base import FileContents, FileReader, naming
from ionstore.readers.file_names import redshift_in

DATA_SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".bin", ".dat", ".gz", ".pkl")
"""Ends of names by which files of data are known where no reader knows them."""

_HEAD_BYTES = 64
_STORE_SUFFIXES = (".zarr", ".partial")


@dataclass(frozen=True, slots=True)
class InspectedFile:
    """A file, and what the reader that knows it found in it.

    Parameters
    ----------
    path : Path
        The file.
    format_name : str
        Name of the reader.
    contents : FileContents
        What is in it.
    """

    path: Path
    format_name: str
    contents: FileContents


@dataclass(frozen=True, slots=True)
class DamagedFile:
    """A file of a known format that is truncated or damaged.

    Parameters
    ----------
    path : Path
        The file.
    sentence : str
        What is wrong with it, and how to go on.
    field : str, optional
        Field that its name tells.
    redshift : float, optional
        Redshift that its name tells.
    """

    path: Path
    sentence: str
    field: str | None
    redshift: float | None


@dataclass(frozen=True, slots=True)
class InspectedFolder:
    """What a folder holds.

    Parameters
    ----------
    files : tuple of InspectedFile
        Files that a reader knows.
    damaged : tuple of DamagedFile
        Files that a reader knows, but cannot read.
    unknown : tuple of Path
        Files of data that none knows.
    unread : tuple of Path
        Subfolders with files of data that were not looked at.
    """

    files: tuple[InspectedFile, ...]
    damaged: tuple[DamagedFile, ...]
    unknown: tuple[Path, ...]
    unread: tuple[Path, ...]


def inspect_file(path: Path, readers: Sequence[FileReader]) -> InspectedFile | None:
    """Return what the first reader that knows a file finds in it, None if none does.

    Raises
    ------
    SourceDataError
        If the file is of a known format, but truncated or damaged.
    OSError
        If it cannot be read.
    """
    with naming(path):
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        for reader in readers:
            contents = reader.inspect(path, head)
            if contents is not None:
                return InspectedFile(path, reader.name, contents)
    return None


def inspect_folder(
    folder: Path, readers: Sequence[FileReader], is_wanted: Callable[[InspectedFile], bool]
) -> InspectedFolder:
    """Inspect the files directly in a folder, or all below it when none of those is wanted.

    Parameters
    ----------
    folder : Path
        The folder; hidden files, stores and builds of stores in it are passed over.
    readers : sequence of FileReader
        Formats to look for.
    is_wanted : callable
        Tells of a file whether it holds what is looked for.

    Raises
    ------
    OSError
        If a file or folder cannot be read.
    """
    here = _inspect(_files_in(folder), readers)
    below = _folders_in(folder)
    if any(map(is_wanted, here.files)):
        return replace(here, unread=tuple(filter(_holds_data, below)))
    deep = _inspect((path for child in below for path in _files_below(child)), readers)
    return InspectedFolder(
        here.files + deep.files, here.damaged + deep.damaged, here.unknown + deep.unknown, ()
    )


def damaged_file(path: Path, readers: Sequence[FileReader], error: SourceDataError) -> DamagedFile:
    """Return what is known of a file that a reader refused."""
    told = (reader.named(path.name) for reader in readers)
    field, redshift = next(filter(None, told), (None, redshift_in(path.name)))
    return DamagedFile(path, str(error), field, redshift)


def _inspect(paths: Iterator[Path], readers: Sequence[FileReader]) -> InspectedFolder:
    files, damaged, unknown = [], [], []
    for path in paths:
        looks_like_data = path.name.endswith(DATA_SUFFIXES)
        try:
            inspected = inspect_file(path, readers)
        except PermissionError:
            if looks_like_data:
                raise
            continue
        except SourceDataError as error:
            damaged.append(damaged_file(path, readers, error))
            continue
        if inspected is not None:
            files.append(inspected)
        elif looks_like_data:
            unknown.append(path)
    return InspectedFolder(tuple(files), tuple(damaged), tuple(unknown), ())


def _files_in(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and path.name != FILE_NAME and path.is_file():
            yield path


def _folders_in(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".") and not _is_store(path)
    ]


def _files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    real = Path(os.path.realpath(folder))
    if real in above:  # a link to a folder around it
        return
    yield from _files_in(folder)
    for child in _folders_in(folder):
        yield from _files_below(child, (*above, real))


def _is_store(folder: Path) -> bool:
    return folder.name.endswith(_STORE_SUFFIXES) or (folder / "zarr.json").exists()


def _holds_data(folder: Path) -> bool:
    try:
        return any(path.name.endswith(DATA_SUFFIXES) for path in _files_below(folder))
    except PermissionError:
        return False
