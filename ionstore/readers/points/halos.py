"""Halo catalogs of 21cmFAST: positions and masses in a group of an HDF5 file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ionstore.cube.mesh import Array, Cells
from ionstore.errors import SourceDataError
from ionstore.readers.arrays.hdf5 import opened_hdf5
from ionstore.readers.base import PointList
from ionstore.readers.points.positions import check_masses
from ionstore.storage.files import OnBytes, read_pieces

POSITIONS, MASSES = "halo_coords", "halo_masses"
"""Datasets of a catalog, of shape (n, 3) and (n,)."""

_ROWS = 1 << 18


@dataclass(frozen=True)
class HaloCatalog(PointList):
    """Halos where they are at the redshift of their cube.

    Parameters
    ----------
    path : Path
        The file.
    group : str
        Group with the datasets.
    n_halos : int
        Halos; the datasets may be longer.
    mesh_cells : int
        Cells along a side of the mesh of the simulation.
    cell_size_cmpc : float, optional
        Comoving side of a cell in cMpc, the unit of the positions; None where these are cells.
    by_mass : bool
        Whether a halo weighs its mass in Msun, or 1.
    """

    path: Path
    group: str
    n_halos: int
    mesh_cells: int
    cell_size_cmpc: float | None
    by_mass: bool

    def points(self, mesh_cells: int, on_bytes: OnBytes) -> Iterator[tuple[Cells, Array]]:
        """Yield all halos once, in pieces.

        Parameters
        ----------
        mesh_cells : int
            Cells along a side of the mesh; that of the simulation.
        on_bytes : callable
            Called with all bytes of the file in their order, for a digest of it.

        Yields
        ------
        cells : ndarray of int64, shape (n, 3)
            Cell (i, j, k) of each halo, counted from 0.
        weights : ndarray of float64, shape (n,)
            Their masses in Msun, or 1 each; halos without a mass are none and weigh 0.

        Raises
        ------
        SourceDataError
            If the mesh is not that of the simulation, the file is damaged, a halo lies out of the
            box, or a mass is negative.
        OSError
            If it cannot be read.

        Notes
        -----
        Cell i is centered at i times the size of a cell, so a position belongs to the cell whose
        number is nearest, and the last half cell of the box to cell 0. Halos whose mass was set to
        0 are passed over by 21cmFAST as well.
        """
        if mesh_cells != self.mesh_cells:
            raise SourceDataError(
                f"{self.path}: its halos belong to a mesh of {self.mesh_cells} cells a side, the "
                f"other fields have {mesh_cells}; give fields of one mesh"
            )
        read_pieces(self.path, on_bytes)
        with opened_hdf5(self.path) as file:
            positions, masses = (file[f"{self.group}/{name}"] for name in (POSITIONS, MASSES))
            for first in range(0, self.n_halos, _ROWS):
                piece = slice(first, min(first + _ROWS, self.n_halos))
                weights: Array = masses[piece].astype(np.float64)
                check_masses(self.path, weights, first)
                if not self.by_mass:
                    weights = (weights != 0).astype(np.float64)
                yield self._cells(positions[piece], first), weights

    def _cells(self, positions: Array, n_before: int) -> Cells:
        per_cell = self.cell_size_cmpc or 1.0
        nearest = np.rint(positions.astype(np.float64) / per_cell)
        off = np.flatnonzero(~((nearest >= 0) & (nearest <= self.mesh_cells)).all(axis=1))
        if off.size:
            position = ", ".join(f"{value:g}" for value in positions[off[0]])
            raise SourceDataError(
                f"{self.path}: halos must lie in the box, from 0 to "
                f"{self.mesh_cells * per_cell:g} along each axis, got ({position}) for halo "
                f"{n_before + off[0] + 1}; it is damaged or was not written by 21cmFAST"
            )
        return nearest.astype(np.int64) % self.mesh_cells
