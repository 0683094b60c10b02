"""The files of a folder: those that a reader knows, those that cannot be read, and others."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ionstore.cube.description import FILE_NAME
from ionstore.errors import SourceDataError
from ionstore.readers.base import FileContents, FileReader
from ionstore.readers.file_names import redshift_in
from ionstore.storage.files import naming, require_file, why_unreadable

HDF5_SUFFIXES = (".h5", ".hdf5")
"""Suffixes of files whose content says which field they hold."""

DATA_SUFFIXES = (".npy", ".npz", *HDF5_SUFFIXES, ".bin", ".cbin", ".raw", ".dat", ".gz", ".pkl")
"""Suffixes, in lower case, of files that may be data although no reader knows them."""

_HEAD_BYTES = 64  # as many as `FileReader.inspect` is promised
_SHOWN_BYTES = 16
_STORE_SUFFIXES = (".zarr", ".partial")


@dataclass(frozen=True, slots=True)
class InspectedFile:
    """A file, and what the reader that knows it found in it."""

    path: Path
    format_name: str
    contents: FileContents


@dataclass(frozen=True, slots=True)
class UnreadableFile:
    """A file that is truncated, damaged, forbidden, or a link to a file that does not exist."""

    path: Path
    sentence: str  # what is wrong with it, and how to go on
    # Field and redshift that its name gives; for a mapped file, the field that it is mapped to.
    field: str | None
    redshift: float | None
    unread: str | None = None  # why nothing of it could be read; None where a reader refused it
    is_mapped: bool = False  # the user names it, or its folder, for the field


@dataclass(frozen=True, slots=True)
class UnknownFile:
    """A file of data that no reader knows, and the likely reason."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class InspectedFolder:
    """The files in a folder, by what is known of them."""

    files: tuple[InspectedFile, ...]
    damaged: tuple[UnreadableFile, ...]
    unknown: tuple[UnknownFile, ...]
    unread: tuple[Path, ...]  # subfolders with files of data that were not looked at


def inspect_file(path: Path, readers: Sequence[FileReader]) -> InspectedFile | None:
    """Return what the first reader that knows a file finds in it, None if none does."""
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

    Hidden files, stores and builds of stores are skipped. `others` are formats that are known, but
    not looked for.
    """
    here = _inspect(_files_in(folder), readers, others)
    below = _folders_in(folder)
    # Where files directly in the folder are wanted, those below are likely older copies or other
    # runs; to take them too would give fields twice.
    if any(map(is_wanted, here.files)):
        return replace(here, unread=tuple(filter(_holds_data, below)))
    deep = _inspect((path for child in below for path in _files_below(child)), readers, others)
    return InspectedFolder(
        here.files + deep.files, here.damaged + deep.damaged, here.unknown + deep.unknown, ()
    )


def unreadable_file(
    path: Path, readers: Sequence[FileReader], error: SourceDataError | OSError
) -> UnreadableFile:
    """Return what is known of a file that a reader refused, or that cannot be read."""
    # Its name alone is left to tell what is missing without it.
    told = (reader.named(path.name) for reader in readers)
    field, redshift = next(filter(None, told), (None, redshift_in(path.name)))
    if isinstance(error, SourceDataError):
        return UnreadableFile(path, str(error), field, redshift)
    if _leads_nowhere(path):
        reason = "link to a file that is not there"
        way_on = f"mount or copy {os.readlink(path)}, or remove the link"
    else:
        reason = f"it {why_unreadable(error)}"
        way_on = "make it readable, or move it away"
    return UnreadableFile(path, f"{path}: {reason}; {way_on}", field, redshift, reason)


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
            damaged.append(unreadable_file(path, readers, error))
        except OSError as error:
            # A file that may not be read matters if it could be data; any link that leads nowhere
            # does, because its name need not be that of the file behind it.
            file = unreadable_file(path, readers, error)
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
            continue  # damaged: which format it has is not certain
        if contents is not None and contents.fields:
            return f"its format is {reader.name}, which --format leaves out"
    if head.isascii() and head.decode().replace("\n", " ").isprintable():
        return f"it begins with {head[:_SHOWN_BYTES].decode()!r}, unlike any known format"
    # A bare cube, as from numpy's tofile: mesh and byte order could only be guessed, so no reader
    # takes it.
    for dtype, itemsize in (("float32", 4), ("float64", 8)):
        cells = round((n_bytes / itemsize) ** (1 / 3))
        if itemsize * cells**3 == n_bytes:
            return (
                f"it has the size of {cells}³ {dtype} numbers without a header; save them with "
                "numpy.save"
            )
    return f"it begins with {head[:_SHOWN_BYTES]!r}, unlike any known format"


def _read_head(path: Path) -> bytes:
    require_file(path)
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _files_in(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == FILE_NAME:
            continue
        if not path.is_dir():
            yield path


def _folders_in(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".") and not is_store(path)
    ]


def _files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    real = Path(os.path.realpath(folder))
    if real in above:  # a link to a folder around it, which would be walked forever
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
