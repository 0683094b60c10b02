"""The periodic mesh of a simulation box."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Mesh:
    """A cubic periodic mesh, with its size in comoving Mpc where that is known.

    Parameters
    ----------
    cells_per_side : int
        Number of cells along each axis, at least 1.
    box_length_cmpc : float, optional
        Comoving side of the box in cMpc; None while it is unknown.

    Raises
    ------
    ValueError
        If there is no cell, or the box length is not positive.
    """

    cells_per_side: int
    box_length_cmpc: float | None = None

    def __post_init__(self) -> None:
        if self.cells_per_side < 1:
            raise ValueError(f"cells_per_side must be at least 1, got {self.cells_per_side}")
        if self.box_length_cmpc is not None and not self.box_length_cmpc > 0:
            raise ValueError(f"box_length_cmpc must be positive, got {self.box_length_cmpc}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells along x, y, z."""
        return (self.cells_per_side,) * 3

    @property
    def n_cells(self) -> int:
        """Cells in the box."""
        return self.cells_per_side**3

    @property
    def cell_size_cmpc(self) -> float | None:
        """Comoving side of a cell in cMpc; None while the box length is unknown."""
        if self.box_length_cmpc is None:
            return None
        return self.box_length_cmpc / self.cells_per_side

    @property
    def length_units(self) -> str:
        """Units of `cell_centers`: "cMpc", or "1" (cells) while the box length is unknown."""
        return "1" if self.box_length_cmpc is None else "cMpc"

    def cell_centers(self) -> NDArray[np.float64]:
        """Return the centers of the cells along one axis, shape (cells_per_side,).

        Returns
        -------
        ndarray of float64
            ``(i + 1/2)`` cell sizes, in `length_units`.
        """
        cell = 1.0 if self.cell_size_cmpc is None else self.cell_size_cmpc
        return (np.arange(self.cells_per_side, dtype=np.float64) + 0.5) * cell
