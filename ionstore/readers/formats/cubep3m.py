"""Gridded density of CubeP3M, the input of C2-Ray: ``8.397n_all.dat``."""

import re
from pathlib import Path

from ionstore.readers.arrays.cbin import check_complete, is_vector_mesh, open_mesh
from ionstore.readers.base import FileContents, FileReader, FoundField
from ionstore.readers.file_names import redshift_in

_NAME = re.compile(r".*\d(?P<kind>[ncv])_all\.dat")
_LEFT_OUT = {"v": "velocities are not stored", "c": "clumping factors are not stored"}


class CubeP3M(FileReader):
    """Reads the mass of each cell, in masses of a fine N-body cell."""

    name = "cubep3m"
    description = "gridded density of CubeP3M, in grid masses: 8.397n_all.dat"

    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        """Return the mesh of a file that is named as a density."""
        match = _NAME.fullmatch(path.name)
        # By size alone, whatever the name: no other format has three numbers for each cell.
        if is_vector_mesh(path, head):
            return FileContents.left_out(path, _LEFT_OUT["v"])
        if match is None:
            return None
        source = open_mesh(path, head)
        if source is None:
            check_complete(path, head)
            return None
        if match["kind"] in _LEFT_OUT:
            return FileContents.left_out(path, _LEFT_OUT[match["kind"]])
        density = FoundField("n_igm", redshift_in(path.name), source, "gas_grid_mass")
        return FileContents((density,))

    def named(self, name: str) -> tuple[str, float | None] | None:
        """Return ``n_igm`` and its redshift for the name of a density."""
        match = _NAME.fullmatch(name)
        return ("n_igm", redshift_in(name)) if match and match["kind"] == "n" else None
