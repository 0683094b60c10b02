"""Periodic meshes, regions of their cells, and the array types that everything else uses."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

REDSHIFT_TOLERANCE = 5e-4
"""Largest difference of redshifts of the same cube: file names give three decimals."""

REDSHIFT_ROUNDING = 1e-9
"""Room for rounding when a difference of redshifts is compared with the tolerance."""

Array = NDArray[Any]
"""Any array whose dtype is found at run time (a block of a file, a field of a store)."""

Fields = NDArray[np.float32]
"""Fields of one coeval cube, shape (channel, nx, ny, nz), C-contiguous, periodic on all axes."""

Cells = NDArray[np.int64]
"""Cell indices (i, j, k), shape (n, 3)."""

Neighborhoods = NDArray[np.float32]
"""Periodic neighborhoods, shape (n, channel, width, width, width)."""

Corner = tuple[int, int, int]
"""Cell indices (i, j, k), or cells along x, y, z."""


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
        """Return the centers of the cells along one axis, in `length_units`."""
        cell = 1.0 if self.cell_size_cmpc is None else self.cell_size_cmpc
        return (np.arange(self.cells_per_side, dtype=np.float64) + 0.5) * cell


@dataclass(frozen=True, slots=True)
class Region:
    """A box of cells that does not cross the faces of the mesh.

    Parameters
    ----------
    start : tuple of int
        First cell (i, j, k).
    shape : tuple of int
        Cells along x, y, z; each at least 1.

    Raises
    ------
    ValueError
        If ``start`` is negative or ``shape`` not positive.
    """

    start: tuple[int, int, int]
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        if min(self.start) < 0 or min(self.shape) < 1:
            raise ValueError(
                f"a region needs start >= 0 and shape >= 1, got {self.start} and {self.shape}"
            )

    @property
    def n_cells(self) -> int:
        """Cells in the region."""
        return math.prod(self.shape)

    def cells(self, indices: NDArray[np.int64]) -> Cells:
        """Return the cells at places of the C order of the region, as indices (i, j, k)."""
        within: Cells = np.stack(np.unravel_index(indices, self.shape), axis=1)
        return within + np.array(self.start, dtype=np.int64)


def check_region(start: Corner, shape: Corner, mesh_cells: int) -> None:
    """Raise ValueError unless a region has cells and lies on the mesh, without wrapping."""
    if len(start) != 3 or len(shape) != 3:
        raise ValueError(f"start and shape must name three axes, got {start} and {shape}")
    if min(shape) < 1 or any(
        first < 0 or first + length > mesh_cells for first, length in zip(start, shape, strict=True)
    ):
        raise ValueError(
            f"a block must hold cells and lie on the mesh of {mesh_cells} cells a side, "
            f"got start {tuple(start)} and shape {tuple(shape)}; blocks do not wrap"
        )
