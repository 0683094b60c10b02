"""Which files of a folder can be read, and as what."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ionstore.cube.description import FILE_NAME
from ionstore.errors import SourceDataError
from ionstore.readers.base import FileContents, FileReader
from ionstore.readers.file_names import redshift_in
from ionstore.storage.files import naming

HDF5_SUFFIXES = (".h5", ".hdf5")
"""Ends of names of files whose content says which field they hold."""

DATA_SUFFIXES = (".npy", ".npz", *HDF5_SUFFIXES, ".bin", ".cbin", ".raw", ".dat", ".gz", ".pkl")
"""Ends of names, in small letters, by which files of data are known where no reader knows them."""

_HEAD_BYTES = 64
_SHOWN_BYTES = 16
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
    """A file that cannot be read: truncated, damaged, forbidden, or a link that leads nowhere.

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
    unread : str, optional
        Why nothing of it could be read; None where a reader refused it.
    """

    path: Path
    sentence: str
    field: str | None
    redshift: float | None
    unread: str | None = None


@dataclass(frozen=True, slots=True)
class UnknownFile:
    """A file of data that no reader knows.

    Parameters
    ----------
    path : Path
        The file.
    reason : str
        Why it is not known, as far as its first bytes and its size tell.
    """

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class InspectedFolder:
    """What a folder holds.

    Parameters
    ----------
    files : tuple of InspectedFile
        Files that a reader knows.
    damaged : tuple of DamagedFile
        Files that cannot be read.
    unknown : tuple of UnknownFile
        Files of data that none knows.
    unread : tuple of Path
        Subfolders with files of data that were not looked at.
    """

    files: tuple[InspectedFile, ...]
    damaged: tuple[DamagedFile, ...]
    unknown: tuple[UnknownFile, ...]
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
        head = _read_head(path)
        for reader in readers:
            contents = reader.inspect(path, head)
            if contents is not None:
                return InspectedFile(path, reader.name, contents)
    return None


def inspect_folder(
    folder: Path,
    readers: Sequence[FileReader],
    is_wanted: Callable[[InspectedFile], bool],
    *,
    others: Sequence[FileReader] = (),
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
    others : sequence of FileReader
        Formats that are known, but not looked for.

    Raises
    ------
    OSError
        If a folder cannot be read.
    """
    here = _inspect(_files_in(folder), readers, others)
    below = _folders_in(folder)
    if any(map(is_wanted, here.files)):
        return replace(here, unread=tuple(filter(_holds_data, below)))
    deep = _inspect((path for child in below for path in _files_below(child)), readers, others)
    return InspectedFolder(
        here.files + deep.files, here.damaged + deep.damaged, here.unknown + deep.unknown, ()
    )


def damaged_file(
    path: Path, readers: Sequence[FileReader], error: SourceDataError | OSError
) -> DamagedFile:
    """Return what is known of a file that a reader refused, or that cannot be read."""
    told = (reader.named(path.name) for reader in readers)
    field, redshift = next(filter(None, told), (None, redshift_in(path.name)))
    if isinstance(error, SourceDataError):
        return DamagedFile(path, str(error), field, redshift)
    if _leads_nowhere(path):
        reason = "link to a file that is not there"
        way_on = f"mount or copy {os.readlink(path)}, or remove the link"
    else:
        reason = f"it cannot be read ({error.strerror or error})"
        way_on = "make it readable, or move it away"
    return DamagedFile(path, f"{path}: {reason}; {way_on}", field, redshift, reason)


def is_store(folder: Path) -> bool:
    """Tell whether a folder is a store or a build of one."""
    return folder.name.endswith(_STORE_SUFFIXES) or (folder / "zarr.json").exists()


def _inspect(
    paths: Iterator[Path], readers: Sequence[FileReader], others: Sequence[FileReader]
) -> InspectedFolder:
    files, damaged, unknown = [], [], []
    for path in paths:
        looks_like_data = path.name.lower().endswith(DATA_SUFFIXES)
        try:
            inspected = inspect_file(path, readers)
            if inspected is not None:
                files.append(inspected)
            elif looks_like_data:
                unknown.append(UnknownFile(path, _why_unknown(path, others)))
        except SourceDataError as error:
            damaged.append(damaged_file(path, readers, error))
        except OSError as error:
            file = damaged_file(path, readers, error)
            if looks_like_data or file.field or _leads_nowhere(path):
                damaged.append(file)
    return InspectedFolder(tuple(files), tuple(damaged), tuple(unknown), ())


def _why_unknown(path: Path, others: Sequence[FileReader]) -> str:
    head, n_bytes = _read_head(path), path.stat().st_size
    if not n_bytes:
        return "it is empty"
    for reader in others:
        try:
            contents = reader.inspect(path, head)
        except SourceDataError:
            continue
        if contents is not None and contents.fields:
            return f"its format is {reader.name}, which --format leaves out"
    if head.isascii() and head.decode().replace("\n", " ").isprintable():
        return f"it begins with {head[:_SHOWN_BYTES].decode()!r}, as no format does"
    for dtype, itemsize in (("float32", 4), ("float64", 8)):
        cells = round((n_bytes / itemsize) ** (1 / 3))
        if itemsize * cells**3 == n_bytes:
            return (
                f"it has as many bytes as {cells}³ numbers in {dtype} and no header; save them "
                "with numpy.save"
            )
    return f"it begins with {head[:_SHOWN_BYTES]!r}, as no format does"


def _read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _files_in(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == FILE_NAME:
            continue
        if path.is_file() or _leads_nowhere(path):
            yield path


def _folders_in(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".") and not is_store(path)
    ]


def _files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    real = Path(os.path.realpath(folder))
    if real in above:  # a link to a folder around it
        return
    yield from _files_in(folder)
    for child in _folders_in(folder):
        yield from _files_below(child, (*above, real))


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _holds_data(folder: Path) -> bool:
    try:
        return any(path.name.lower().endswith(DATA_SUFFIXES) for path in _files_below(folder))
    except PermissionError:
        return False
