"""Split the cells of a box into those that train a network and those that score it."""

import math
from dataclasses import dataclass

import numpy as np

from ionstore.cube.mesh import Cells, Region

# Shares of the mesh. A fifth is held out; guards take from the held-out part first, down to 5 %,
# then from the training cells, down to 30 %.
_HELD_OUT_SHARE = 0.2
_LEAST_HELD_OUT_SHARE = 0.05
_PREFERRED_TRAINING_SHARE = 0.4
_LEAST_TRAINING_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Split:
    """Cells by their use; the same at every redshift of a box.

    Parameters
    ----------
    train, validation : Region or ndarray of int64, shape (n, 3)
        Centers of the training and the validation neighborhoods.
    test : Region or ndarray of int64, shape (n, 3), optional
        Centers kept for evaluation, seen by no decision made in training.
    leaks : bool
        Whether training and validation neighborhoods share input cells.
    """

    train: Region | Cells
    validation: Region | Cells
    test: Region | Cells | None
    leaks: bool


def largest_radius(cells_per_side: int) -> int:
    """Return the largest radius at which `block_split` finds room on a mesh; -1 if none does.

    Examples
    --------
    >>> [largest_radius(n) for n in (32, 64, 300)]
    [5, 10, 52]
    """
    return (cells_per_side - math.ceil(_LEAST_TRAINING_SHARE * cells_per_side) - 1) // 4


def block_split(cells_per_side: int, radius: int) -> Split:
    """Cut the mesh into a training slab and, beyond guards, a validation and a test block.

    No neighborhood around a training cell shares a cell with one around a validation or test
    cell, periodic images included: along x their centers lie more than ``2 * radius`` apart.

    Parameters
    ----------
    cells_per_side : int
        Cells along each axis of the mesh, at least 2.
    radius : int
        Neighborhood radius in cells, at least 0.

    Returns
    -------
    Split
        Regions. A fifth of the mesh is held out, less where the guards would leave under 40 %
        of the cells for training; validation and test are its two halves along y.

    Raises
    ------
    ValueError
        If fewer than 30 % of the cells would be left for training.
    """
    if radius > largest_radius(cells_per_side) or cells_per_side < 2:
        raise ValueError(
            f"radius {radius} leaves less than {_LEAST_TRAINING_SHARE:.0%} of a mesh of "
            f"{cells_per_side} cells a side for training, since {2 * radius} cells on each side "
            f"of the held-out cells stay unused; the largest radius that fits is "
            f"{largest_radius(cells_per_side)}"
        )
    # Two neighborhoods share no cell if their centers lie more than 2 * radius apart. The box is
    # periodic, so the held-out slab needs a guard on both sides.
    n, guard = cells_per_side, 2 * radius
    wanted = round(_HELD_OUT_SHARE * n)
    preferred = n - 2 * guard - math.ceil(_PREFERRED_TRAINING_SHARE * n)
    possible = n - 2 * guard - math.ceil(_LEAST_TRAINING_SHARE * n)
    least = math.ceil(_LEAST_HELD_OUT_SHARE * n)
    thickness = max(1, min(wanted, max(preferred, min(possible, least))))
    # Validation and test touch along y, without a guard: neither of them is trained on.
    half = n // 2
    return Split(
        train=Region((thickness + guard, 0, 0), (n - thickness - 2 * guard, n, n)),
        validation=Region((0, 0, 0), (thickness, half, n)),
        test=Region((0, half, 0), (thickness, n - half, n)),
        leaks=False,
    )


def random_split(cells_per_side: int, n_cells: int, seed: int) -> Split:
    """Draw random cells of the mesh, 80 % for training and 20 % for validation.

    Neighborhoods of training and validation cells overlap, so that the validation score leaks.

    Parameters
    ----------
    cells_per_side : int
        Cells along each axis of the mesh.
    n_cells : int
        Cells to draw, all different; at least 5.
    seed : int
        Seed of the draw.

    Raises
    ------
    ValueError
        If ``n_cells`` is below 5 or above the number of cells.
    """
    n_mesh = cells_per_side**3
    if not 5 <= n_cells <= n_mesh:
        raise ValueError(f"n_cells must be 5 to {n_mesh}, the cells of the mesh, got {n_cells}")
    drawn = np.random.default_rng(seed).choice(n_mesh, n_cells, replace=False)
    cells = Region((0, 0, 0), (cells_per_side,) * 3).cells(drawn)
    n_train = round(0.8 * n_cells)
    return Split(cells[:n_train], cells[n_train:], test=None, leaks=True)
