"""A format whose files say in JSON what they hold, and hold it: for tests of what finds files."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ionstore.cube.cosmology import Cosmology
from ionstore.cube.fields import FIELDS
from ionstore.cube.mesh import Array, Cells, Corner
from ionstore.errors import SourceDataError
from ionstore.readers.base import FieldSource, FileContents, FileReader, FoundField, PointList
from ionstore.storage.files import OnBytes


@dataclass(frozen=True)
class UniformCube(FieldSource):
    """The same number in all cells."""

    path: Path
    value: float
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def stream(self, on_bytes: OnBytes) -> Iterator[Array]:
        on_bytes(self.path.read_bytes())
        yield np.full(int(np.prod(self.shape)), self.value, self.dtype)

    def read_block(self, start: Corner, shape: Corner) -> Array:
        return np.full(shape, self.value, self.dtype)


@dataclass(frozen=True)
class OneSource(PointList):
    """A single source in the first cell."""

    path: Path
    mass: float

    def points(self, mesh_cells: int, on_bytes: OnBytes) -> Iterator[tuple[Cells, Array]]:
        on_bytes(self.path.read_bytes())
        yield np.zeros((1, 3), np.int64), np.array([self.mass])


class ToyReader(FileReader):
    """Reads files that `write_toy` writes."""

    name = "toy"
    description = "toys"

    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        if not head.startswith(b'{"toy"'):
            return None
        told = json.loads(path.read_text())
        if told.get("damaged"):
            raise SourceDataError(f"{path}: it is truncated, copy it again")
        fields = []
        for one in told["toy"]:
            if one["mesh"] is None:
                source: FieldSource | PointList = OneSource(path, one["value"])
            else:
                source = UniformCube(path, one["value"], (one["mesh"],) * 3, np.dtype("f4"))
            fields.append(FoundField(one["field"], one["z"], source, one["quantity"]))
        cosmology = Cosmology(**told["cosmology"]) if "cosmology" in told else None
        return FileContents(tuple(fields), told.get("box"), cosmology, tuple(told.get("notes", ())))

    def named(self, name: str) -> tuple[str, float] | None:
        match = re.fullmatch(r"(.+)_(\d+\.\d+)\.dat", name)
        return (match[1], float(match[2])) if match and match[1] in FIELDS else None


class OtherReader(ToyReader):
    """Reads the same files when they are called ``*.other``."""

    name = "other"

    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        return super().inspect(path, head) if path.suffix == ".other" else None


TOYS = (OtherReader(), ToyReader())

_DEFAULTS = {
    "n_igm": ("density", 4e-28, 4),
    "n_src": ("msun", 1e9, 4),
    "xhii": ("ionized_fraction", 0.5, 4),
    "src_mass": ("msun", 1e9, 4),
    "temperature": ("as_is", 1e4, 4),
    None: ("as_is", 0.25, 4),
}


def toy_field(field: str | None, z: float | None, **changes: Any) -> dict[str, Any]:
    """Return one field of a file; ``mesh=None`` makes it a list of sources."""
    quantity, value, mesh = _DEFAULTS[field]
    return {"field": field, "z": z, "quantity": quantity, "value": value, "mesh": mesh} | changes


def write_toy(path: Path, *fields: dict[str, Any], **told: Any) -> Path:
    """Write a file of some fields; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"toy": list(fields)} | told))
    return path


def write_toys(folder: Path, *redshifts: float, fields: tuple[str, ...] = ()) -> None:
    """Write a file for each field and redshift, the three required ones by default."""
    for field in fields or ("n_igm", "n_src", "xhii"):
        for z in redshifts:
            write_toy(folder / f"{field}_{z:.3f}.dat", toy_field(field, z))
