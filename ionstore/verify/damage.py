"""`Damage`, and the checks of metadata, coordinates and file names that find it."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from google_crc32c import value as crc32c
from pydantic import BaseModel, ConfigDict

from ionstore.cube.mesh import Array, Corner
from ionstore.errors import StoreFormatError
from ionstore.storage.files import why_unreadable
from ionstore.storage.paths import StorePath
from ionstore.storage.s3 import ObjectPath
from ionstore.store.codecs import check_storage
from ionstore.store.cube_store import DIMENSIONS, CubeStore
from ionstore.store.layout import Layout
from ionstore.store.metadata import ROOT_METADATA

ArrayMetadata = Mapping[str, Mapping[str, Any]]
"""Metadata of the arrays of a store by name, as consolidated in its root."""

_COORDINATE = {"data_type": "float64", "codecs": ["bytes", "crc32c"]}
_CRC_BYTES = 4  # the checksum follows the values of a coordinate


class Damage(BaseModel):
    """One thing that is wrong with a store.

    Parameters
    ----------
    field : str, optional
        Name of the field or coordinate; None if the damage concerns neither.
    redshift : float, optional
        Redshift of the cube.
    start, shape : tuple of three int, optional
        First cell, and cells along each axis, of the block that cannot be trusted.
    file : str
        Damaged file, relative to the store; a source file has its own path.
    what : str
        What is wrong, as the predicate of a sentence.
    """

    model_config = ConfigDict(frozen=True)

    field: str | None = None
    redshift: float | None = None
    start: Corner | None = None
    shape: Corner | None = None
    file: str
    what: str


def metadata_damage(store: CubeStore, members: ArrayMetadata) -> Iterator[Damage]:
    """Yield what is wrong with the metadata of a store."""
    # The consolidated metadata in the root must equal those of every array: this package reads the
    # root, other readers of Zarr may read the arrays.
    for name in (*DIMENSIONS, *store.field_names):
        if name in members:
            yield from _own_metadata_damage(store, name, members[name])
        else:
            yield Damage(field=name, file=ROOT_METADATA, what="is missing in the metadata")
    for name in store.field_names:
        for what in _field_damage(store, name, members[name]):
            yield Damage(field=name, file=ROOT_METADATA, what=what)
        if (unreadable := _storage_damage(store, name, members[name])) is not None:
            yield Damage(field=name, file=ROOT_METADATA, what=unreadable)
    for name in sorted(set(store.attributes.statistics) - set(store.field_names)):
        what = "has statistics, but is not a field on the mesh at every redshift"
        yield Damage(field=name, file=ROOT_METADATA, what=what)


def readable_fields(store: CubeStore, members: ArrayMetadata) -> dict[str, Layout]:
    """Return the layouts of the fields whose chunks can be found."""
    # Others are left out here and reported by `metadata_damage`.
    layouts = {}
    for name in store.field_names:
        metadata = members[name]
        if _storage_damage(store, name, metadata) is None:
            chunk = metadata["codecs"][0]["configuration"]["chunk_shape"][-1]
            shard = metadata["chunk_grid"]["configuration"]["chunk_shape"][-1]
            layouts[name] = Layout(store.mesh.cells_per_side, chunk, shard)
    return layouts


def coordinate_damage(store: CubeStore, members: ArrayMetadata) -> Iterator[Damage]:
    """Yield what is wrong with the coordinates redshift, x, y and z."""
    for name in DIMENSIONS:
        is_redshift = name == "redshift"
        expected = np.array(store.redshifts) if is_redshift else store.mesh.cell_centers()
        file = f"{name}/c/0"
        if name in members:
            what = _what_is_wrong(store.path / name / "c" / "0", members[name], expected)
            if what is not None:
                yield Damage(field=name, file=file, what=what)


def stray_files(store: CubeStore, layouts: Mapping[str, Layout]) -> Iterator[str]:
    """Yield the files in a store that are not part of it, relative to it."""
    for file in _files_in(store.path):
        if not _belongs(tuple(file.split("/")), store, layouts):
            yield file


def _own_metadata_damage(
    store: CubeStore, name: str, repeated: Mapping[str, Any]
) -> Iterator[Damage]:
    file = f"{name}/{ROOT_METADATA}"
    try:
        own = json.loads((store.path / name / ROOT_METADATA).read_bytes())
    except OSError as error:
        yield Damage(field=name, file=file, what=why_unreadable(error))
    except ValueError:
        yield Damage(field=name, file=file, what="is not valid JSON")
    else:
        if own != repeated:
            said = own if isinstance(own, dict) else {}
            keys = {key for key in {*said, *repeated} if said.get(key) != repeated.get(key)}
            what = f"differs from the root metadata of the store in {', '.join(sorted(keys))}"
            yield Damage(field=name, file=file, what=what)


def _field_damage(store: CubeStore, name: str, metadata: Mapping[str, Any]) -> Iterator[str]:
    for attribute in ("units", "long_name"):
        if attribute not in metadata.get("attributes", {}):
            yield f"has no {attribute}"
    n_recorded = len(store.attributes.statistics.get(name, ()))
    if n_recorded != len(store.redshifts):
        yield f"has statistics at {n_recorded} of {len(store.redshifts)} redshifts"


def _storage_damage(store: CubeStore, name: str, metadata: Mapping[str, Any]) -> str | None:
    """Return why the chunks of a field cannot be found, or None."""
    try:
        check_storage(store.path / name, metadata)
    except StoreFormatError as error:
        return f"cannot be read: {str(error).removeprefix(f'{store.path / name}: ')}"
    shape = [len(store.redshifts), *store.mesh.shape]
    if metadata["shape"] != shape:
        return f"must be of shape {shape} (redshifts and mesh), got {metadata['shape']}"
    return None


def _what_is_wrong(path: StorePath, metadata: Mapping[str, Any], expected: Array) -> str | None:
    """Return what is wrong with a coordinate, or None."""
    try:
        found = {
            "data_type": metadata["data_type"],
            "codecs": [codec["name"] for codec in metadata["codecs"]],
            "shape": metadata["shape"],
            "chunk_shape": metadata["chunk_grid"]["configuration"]["chunk_shape"],
        }
    except (KeyError, TypeError):
        return "has no array metadata"
    shape = list(expected.shape)
    for key, required in {**_COORDINATE, "shape": shape, "chunk_shape": shape}.items():
        if found[key] != required:
            return f"must have the {key} {required}, got {found[key]}"
    try:
        content = path.read_bytes()
    except OSError as error:
        return why_unreadable(error)
    stored, checksum = content[:-_CRC_BYTES], content[-_CRC_BYTES:]
    if crc32c(stored).to_bytes(_CRC_BYTES, "little") != checksum:
        return "does not match its checksum"
    # Written from the same numbers; a relative 1e-12 leaves room for rounding only.
    values = np.frombuffer(stored, "<f8") if len(stored) == expected.nbytes else None
    if values is None or not np.allclose(values, expected, rtol=1e-12, atol=0):
        return "does not hold the redshifts or positions that the store records"
    return None


def _files_in(place: StorePath) -> Iterator[str]:
    if isinstance(place, ObjectPath):
        for path, _ in place.sizes():
            yield path.key.removeprefix(f"{place.key}/")
        return
    for folder, folders, names in os.walk(place):
        folders.sort()  # in place, which sets the order of the walk
        for name in sorted(names):
            yield Path(folder, name).relative_to(place).as_posix()


def _belongs(parts: tuple[str, ...], store: CubeStore, layouts: Mapping[str, Layout]) -> bool:
    name, *within = parts
    if name not in (*DIMENSIONS, *store.field_names):
        return parts == (ROOT_METADATA,)
    if within == [ROOT_METADATA]:
        return True
    if name in DIMENSIONS:
        return within == ["c", "0"]
    if name not in layouts:  # its shards are unknown, so every file may be one
        return within[:1] == ["c"]
    per_side = layouts[name].shards_per_side
    ends = (len(store.redshifts), per_side, per_side, per_side)
    return (
        within[:1] == ["c"]
        and len(within) == 1 + len(ends)
        and all(_is_below(index, end) for index, end in zip(within[1:], ends, strict=True))
    )


def _is_below(index: str, end: int) -> bool:
    # Zarr writes no leading zeros: "01" is a stray file.
    return index.isdecimal() and index == str(int(index)) and int(index) < end
