"""Halo catalogs of 21cmFAST: positions and masses in a group of an HDF5 file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ionstore.cube.mesh import Array, Cells
from ionstore.errors import SourceDataError
from ionstore.readers.base import PointList
from ionstore.readers.points.positions import read_sources
from ionstore.storage.files import OnBytes

DATASETS = ("halo_coords", "halo_masses")


@dataclass(frozen=True)
class HaloCatalog(PointList):
    """Halos at their positions at the redshift of the cube, by number or by mass in Msun."""

    path: Path
    group: str
    n_halos: int  # the datasets may be longer: version 4 pads them with zeros
    mesh_cells: int
    cell_size_cmpc: float | None  # None where positions are cells, not comoving Mpc
    by_mass: bool

    def points(self, mesh_cells: int, on_bytes: OnBytes) -> Iterator[tuple[Cells, Array]]:
        """Yield cells and weights of all halos; the mesh must be that of the simulation."""
        if mesh_cells != self.mesh_cells:
            raise SourceDataError(
                f"{self.path}: its halos belong to a mesh of {self.mesh_cells} cells a side, the "
                f"other fields have {mesh_cells}; give fields of one mesh"
            )
        positions, masses = (f"{self.group}/{name}" for name in DATASETS)
        for cells, weights in read_sources(
            self.path, (positions, masses), self.n_halos, on_bytes, self._cells
        ):
            # 21cmFAST sets the mass of a halo to 0 to drop it, so such a halo does not count.
            yield cells, weights if self.by_mass else (weights != 0).astype(np.float64)

    def _cells(self, positions: Array, n_before: int) -> Cells:
        per_cell = self.cell_size_cmpc or 1.0
        # 21cmFAST centers cell i at i times its size: a position belongs to the nearest cell, and
        # the last half cell of the box to cell 0. Cutting off would shift halos by half a cell.
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
