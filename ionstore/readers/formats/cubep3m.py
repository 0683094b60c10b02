"""Gridded density of CubeP3M, the input of C2-Ray: ``8.397n_all.dat``."""

import re
from pathlib import Path

from ionstore.readers.base import FileContents, FileReader, FoundField, redshift_in
from ionstore.readers.formats.cbin import check_complete, is_vector_mesh, open_mesh

_NAME = re.compile(r".*\d(?P<kind>[ncv])_all\.dat")
_LEFT_OUT = {"v": "velocities are not stored", "c": "clumping factors are not stored"}


class CubeP3M(FileReader):
    """Reads the mass of each cell, in masses of a fine N-body cell."""

    name = "cubep3m"
    description = "gridded density of CubeP3M, in grid masses: 8.397n_all.dat"

    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        """Return the density of a file.

        Parameters
        ----------
        path : Path
            The file; density is known by its name, three numbers for each cell by their size.
        head : bytes
            Its first bytes, at most 64.

        Raises
        ------
        SourceDataError
            If the file is truncated or damaged.
        OSError
            If it cannot be read.
        """
        match = _NAME.fullmatch(path.name)
        if is_vector_mesh(path, head):
            return _left_out(path, "v")
        if match is None:
            return None
        source = open_mesh(path, head)
        if source is None:
            check_complete(path, head)
            return None
        if match["kind"] in _LEFT_OUT:
            return _left_out(path, match["kind"])
        density = FoundField("n_igm", redshift_in(path.name), source, "gas_grid_mass")
        return FileContents((density,))

    def named(self, name: str) -> tuple[str, float | None] | None:
        """Return field and redshift that the name of a file tells, None where it tells no field."""
        match = _NAME.fullmatch(name)
        return ("n_igm", redshift_in(name)) if match and match["kind"] == "n" else None


def _left_out(path: Path, kind: str) -> FileContents:
    return FileContents((), notes=(f"{path.name} is left out: {_LEFT_OUT[kind]}",))
