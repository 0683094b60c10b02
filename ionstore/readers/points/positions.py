"""What lists of sources hold: positions, which are cells of a mesh, and masses."""

from pathlib import Path

import numpy as np

from ionstore.cube.mesh import Array, Cells
from ionstore.errors import SourceDataError


def cells_at(
    path: Path, positions: Array, mesh_cells: int, *, counted_from: int, n_before: int
) -> Cells:
    """Return the cells of sources.

    Parameters
    ----------
    path : Path
        The list, for messages.
    positions : ndarray of real numbers, shape (n, 3)
        Positions (i, j, k) as they are in the list.
    mesh_cells : int
        Cells along a side of the mesh.
    counted_from : int
        Number of the first cell in the list, 0 or 1.
    n_before : int
        Sources of the list before these, for messages.

    Returns
    -------
    ndarray of int64, shape (n, 3)
        Cells, counted from 0.

    Raises
    ------
    SourceDataError
        If a position is no cell of the mesh.
    """
    last = counted_from + mesh_cells - 1
    on_mesh = (positions >= counted_from) & (positions <= last) & (positions == np.rint(positions))
    off = np.flatnonzero(~on_mesh.all(axis=1))
    if off.size:
        position = ", ".join(f"{index:g}" for index in positions[off[0]])
        raise SourceDataError(
            f"{path}: positions of sources must be cells from {counted_from} to {last}, got "
            f"({position}) for source {n_before + off[0] + 1}; give the list of this mesh"
        )
    return positions.astype(np.int64) - counted_from


def check_masses(path: Path, masses: Array, n_before: int) -> None:
    """Check the masses of sources, before those of a cell are added up.

    Parameters
    ----------
    path : Path
        The list, for messages.
    masses : ndarray of real numbers, shape (n,) or (n, columns)
        Masses as they are in the list.
    n_before : int
        Sources of the list before these, for messages.

    Raises
    ------
    SourceDataError
        If one is negative.
    """
    negative = np.argwhere(masses < 0)
    if len(negative):
        first = tuple(negative[0])
        raise SourceDataError(
            f"{path}: masses of sources cannot be negative, got {masses[first]:g} for source "
            f"{n_before + first[0] + 1}; mend the list"
        )
