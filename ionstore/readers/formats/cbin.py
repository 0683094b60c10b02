"""Meshes of any name that begin with their three sizes, without records ("cbin")."""

from pathlib import Path

from ionstore.readers.arrays.cbin import open_mesh
from ionstore.readers.base import FileContents, FileReader
from ionstore.readers.formats.c2ray_names import results


class PlainMesh(FileReader):
    """Reads meshes of any name; the user names them for a field."""

    name = "cbin"
    description = "meshes of any name: three int32 sizes, then float32 or float64, x fastest"

    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        """Return the mesh of a file whose size fits exactly."""
        # Three small numbers begin many files, so one that is truncated is not said to be damaged.
        source = open_mesh(path, head)
        return None if source is None else results(path, source)
