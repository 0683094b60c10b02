"""Source lists that pyC2Ray converts to HDF5: ``8.700-coarsest_wsubgrid_sources.hdf5``."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ionstore.cube.mesh import Array, Cells
from ionstore.errors import SourceDataError
from ionstore.readers.arrays.hdf5 import HDF5_MAGIC, number, opened_hdf5
from ionstore.readers.base import FileContents, FileReader, FoundField, PointList, redshift_in
from ionstore.readers.points.positions import cells_at, check_masses
from ionstore.storage.files import OnBytes, read_pieces

_POSITIONS, _MASSES = "sources_positions", "sources_mass"
_SOLAR_MASS = "Solar Mass"  # the converter writes no other unit
_ROWS = 1 << 18


@dataclass(frozen=True)
class ConvertedSourceList(PointList):
    """The sources of an HDF5 file: positions counted from 0, and masses.

    Parameters
    ----------
    path : Path
        The file.
    """

    path: Path

    def points(self, mesh_cells: int, on_bytes: OnBytes) -> Iterator[tuple[Cells, Array]]:
        """Yield all sources once, in pieces.

        Parameters
        ----------
        mesh_cells : int
            Cells along a side of the mesh.
        on_bytes : callable
            Called with all bytes of the file in their order, for a digest of it.

        Yields
        ------
        cells : ndarray of int64, shape (n, 3)
            Cell (i, j, k) of each source, counted from 0.
        weights : ndarray of float64, shape (n,)
            Their masses.

        Raises
        ------
        SourceDataError
            If the file is damaged, a source lies off the mesh, or a mass is negative.
        OSError
            If it cannot be read.
        """
        read_pieces(self.path, on_bytes)
        with opened_hdf5(self.path) as file:
            positions, masses = file[_POSITIONS], file[_MASSES]
            for first in range(0, len(masses), _ROWS):
                piece = slice(first, first + _ROWS)
                cells = cells_at(
                    self.path, positions[piece], mesh_cells, counted_from=0, n_before=first
                )
                weights: Array = masses[piece].astype(np.float64)
                check_masses(self.path, weights, first)
                yield cells, weights


class PyC2RaySources(FileReader):
    """Reads source lists with the datasets that pyC2Ray's converter writes."""

    name = "pyc2ray-sources"
    description = "source lists of pyC2Ray, in Msun: 8.700-coarsest_wsubgrid_sources.hdf5"

    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        """Return the list of a file.

        Parameters
        ----------
        path : Path
            The file; its redshift is an attribute, or else in its name.
        head : bytes
            Its first bytes, at most 64.

        Raises
        ------
        SourceDataError
            If the file is truncated or damaged, or h5py is not installed.
        OSError
            If it cannot be read.
        """
        if not head.startswith(HDF5_MAGIC):
            return None
        with opened_hdf5(path) as file:
            if not (_POSITIONS in file and _MASSES in file):
                return None
            positions, masses = file[_POSITIONS], file[_MASSES]
            shapes = [getattr(one, "shape", None) for one in (positions, masses)]
            if shapes[1] is None or len(shapes[1]) != 1 or shapes[0] != (*shapes[1], 3):
                raise SourceDataError(
                    f"{path}: expected {_POSITIONS} of shape (n, 3) and {_MASSES} of shape (n,), "
                    f"got {' and '.join(str(shape or 'none') for shape in shapes)}; "
                    "convert the list again"
                )
            if not (positions.dtype.kind in "iuf" and masses.dtype.kind in "iuf"):
                raise SourceDataError(
                    f"{path}: expected real numbers in {_POSITIONS} and {_MASSES}, "
                    f"got {positions.dtype} and {masses.dtype}; convert the list again"
                )
            redshift = number(file.attrs, "z")
            unit = masses.attrs.get("unit", _SOLAR_MASS)
            in_msun = (unit.decode() if isinstance(unit, bytes) else str(unit)) == _SOLAR_MASS
        return FileContents(
            (
                FoundField(
                    "n_src",
                    redshift_in(path.name) if redshift is None else redshift,
                    ConvertedSourceList(path),
                    "msun" if in_msun else "sources",
                ),
            )
        )

    def named(self, name: str) -> tuple[str, float | None] | None:
        """Return field and redshift that the name of a file tells, None where it tells no field."""
        is_list = "sources" in name and name.endswith((".hdf5", ".h5"))
        return ("n_src", redshift_in(name)) if is_list else None
