"""The ``ionstore`` attribute of a store's root group: what a store says about itself."""

import json
import os
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, overload

from pydantic import BaseModel, ConfigDict, PlainSerializer, ValidationError

from ionstore.cube.cosmology import Cosmology
from ionstore.cube.statistics import FieldStatistics
from ionstore.errors import StoreExistsError, StoreFormatError
from ionstore.storage.files import NOT_THERE
from ionstore.storage.paths import StorePath
from ionstore.storage.s3 import ObjectPath

ATTRIBUTE = "ionstore"
FORMAT_VERSION = 1
ROOT_METADATA = "zarr.json"
BUILD_LOCK = "lock"
"""File by which the folder of a build is known."""
PLAN = "plan.json"
"""Name of what says which store a build is of."""

_BUILD_SUFFIX = ".partial"


def _without_nones(cosmology: Cosmology | None) -> dict[str, Any] | None:
    if cosmology is None:
        return None
    known = {key: getattr(cosmology, key) for key in Cosmology.__dataclass_fields__}
    return {key: value for key, value in known.items() if value is not None}


class SourceFile(BaseModel):
    """A file that a store was made from."""

    model_config = ConfigDict(frozen=True)

    name: str  # relative to `folder`
    size_bytes: int
    digest: str  # algorithm and digest of its bytes, such as "xxh3_128:9f86..."
    # Of the simulation, or the one mapped to a field, as it was given. Earlier stores lack this and
    # what follows.
    folder: str | None = None
    fields: tuple[str, ...] = ()  # taken from it, sorted
    redshifts: tuple[float, ...] = ()  # taken from it, descending


def merge_source_files(files: Iterable[SourceFile]) -> tuple[SourceFile, ...]:
    """Return the files sorted by name, each once with all that was taken from it.

    Files of one name in several folders, or of other bytes, are several files.
    """
    merged: dict[tuple[str, str | None, int, str], SourceFile] = {}
    for file in files:
        key = (file.name, file.folder, file.size_bytes, file.digest)
        known = merged.get(key, file)
        merged[key] = known.model_copy(
            update={
                "fields": tuple(sorted({*known.fields, *file.fields})),
                "redshifts": tuple(sorted({*known.redshifts, *file.redshifts}, reverse=True)),
            }
        )
    # Redshifts and folders break ties of names, so that the order of arrival does not matter.
    return tuple(
        sorted(
            merged.values(),
            key=lambda file: (file.name, tuple(-one for one in file.redshifts), file.folder or ""),
        )
    )


class StoreAttributes(BaseModel):
    """Attributes of the root group of a store."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format_version: int = FORMAT_VERSION
    uuid: str  # names this store for good
    status: Literal["building", "complete"]
    redshifts: tuple[float, ...]  # descending, as in the coordinate
    periodic_axes: tuple[str, ...] = ("x", "y", "z")  # along which the box repeats
    # Comoving side; None while unknown, as the cosmology and n_box.
    box_length_cmpc: float | None = None
    cosmology: Annotated[Cosmology | None, PlainSerializer(_without_nones)] = None
    n_box: int | None = None  # cells along a side of the finest N-body mesh, for conversions
    grid_mass_msun: float | None = None  # of one grid mass of the sources, if any was converted
    edited: tuple[str, ...] = ()  # parameters that an edit changed after conversions used them
    sources: tuple[SourceFile, ...] = ()
    # By field, then by redshift: of the values as stored.
    statistics: Mapping[str, tuple[FieldStatistics, ...]] = {}
    n_clipped: Mapping[str, tuple[int, ...]] = {}  # cells clipped into the range of their field
    n_zeros: Mapping[str, tuple[int, ...]] = {}  # cells that are zero where that is suspect
    versions: Mapping[str, str] = {}  # of the software that wrote the store
    command_line: str | None = None  # the last one that wrote the store
    earlier_command_lines: tuple[str, ...] = ()  # of what it took over, in their order

    @property
    def command_lines(self) -> tuple[str, ...]:
        """All commands that are known to have written the store, in their order."""
        last = () if self.command_line is None else (self.command_line,)
        return (*self.earlier_command_lines, *last)


def software_versions() -> dict[str, str]:
    """Return the versions of what writes a store: Python and the packages that touch the bytes."""
    packages = ("ionstore", "zarr", "numcodecs", "numpy", "dask")
    return {"python": platform.python_version()} | {
        package: metadata.version(package) for package in packages
    }


@overload
def partial_folder(path: Path) -> Path: ...
@overload
def partial_folder(path: ObjectPath) -> ObjectPath: ...
def partial_folder(path: StorePath) -> StorePath:
    """Return where a store is built: beside its real folder, which `path` may be a link to."""
    if isinstance(path, ObjectPath):
        return path.with_name(f"{path.name}{_BUILD_SUFFIX}")
    real = Path(os.path.realpath(path))
    return real.parent / f"{real.name}{_BUILD_SUFFIX}"


def read_root_metadata(path: StorePath) -> dict[str, Any]:
    """Return the parsed root metadata; raise StoreFormatError if there is no ionstore store."""
    try:
        root = json.loads((path / ROOT_METADATA).read_text())
        root["attributes"][ATTRIBUTE]["format_version"]
    except (*NOT_THERE, ValueError, KeyError, TypeError) as error:
        raise StoreFormatError(f"{path}: {_what_is_there(path)}") from error
    parsed: dict[str, Any] = root
    return parsed


def how_to_finish(building: StorePath) -> str:
    """Return how to finish a build, as far as the plan in its folder tells what it is."""
    try:
        plan = json.loads((building / PLAN).read_text())
    except (OSError, ValueError):
        plan = {}
    commands = {"ingest": "ingest", "prediction": "`ionmodel predict`"}
    command = next((commands[key] for key in commands if key in plan), "ingest or edit")
    return f"run the same {command} again"


def _what_is_there(path: StorePath) -> str:
    """Return the second half of a sentence about a path that is no store."""
    if not path.exists():
        building = partial_folder(path)
        hint = (
            f"its build in {building.name} is not finished, {how_to_finish(building)}"
            if building.exists()
            else "check the path"
        )
        return f"expected an ionstore store, found nothing; {hint}"
    found, way_on = "none", "make one with `ionstore ingest SIM STORE`"
    if isinstance(path, ObjectPath):
        if (building := partial_folder(path)).exists():
            found, way_on = "one that is being built", how_to_finish(building)
    else:
        real = Path(os.path.realpath(path))
        if real.suffix == _BUILD_SUFFIX and (real / BUILD_LOCK).exists():
            found, way_on = f"the unfinished build of {real.stem}", how_to_finish(real)
    return f"expected a store made by ionstore, found {found}; {way_on}"


def parse_attributes(path: StorePath, root: Mapping[str, Any]) -> StoreAttributes:
    """Return the ``ionstore`` attribute; raise StoreFormatError if it is newer or malformed."""
    raw = root["attributes"][ATTRIBUTE]
    version = raw["format_version"]
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise StoreFormatError(
            f"{path}: format_version {version} is newer than {FORMAT_VERSION}, "
            "the newest read here; update ionstore"
        )
    try:
        return StoreAttributes.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreFormatError(
            f"{path}: its ionstore attribute is damaged ({where}: {first['msg']}); "
            "ingest the simulation again"
        ) from error


def check_is_outside_stores(path: Path) -> None:
    """Raise StoreExistsError if a file would be written into a store."""
    place = Path(os.path.realpath(path.parent))
    for folder in (place, *place.parents):
        try:
            read_root_metadata(folder)
        except (StoreFormatError, OSError):
            continue
        raise StoreExistsError(
            f"{path}: would lie in the store {folder.name}, which holds nothing but its fields; "
            "choose a folder outside"
        )
