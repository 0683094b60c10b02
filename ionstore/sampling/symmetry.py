"""Apply and draw the 48 symmetries of the cube: rotations and reflections of the mesh."""

from itertools import permutations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ionstore.cube.mesh import Array
from ionstore.sampling.permutation import drawn

# Six orders of the axes times eight choices of reversed ones; number 0 changes nothing.
N_SYMMETRIES = 48

# Those that samples appear under: none, the orders of the axes, or those and reversals.
Symmetries = Literal["none", "permutations", "all"]

# Axes of the original along the axes of the image, shape (6, 3).
PERMUTATIONS = np.array(list(permutations(range(3))), dtype=np.int64)

# Numbers of the symmetries that are drawn from.
CHOICE: dict[Symmetries, NDArray[np.int64]] = {
    "none": np.zeros(1, np.int64),
    "permutations": 8 * np.arange(len(PERMUTATIONS), dtype=np.int64),
    "all": np.arange(N_SYMMETRIES, dtype=np.int64),
}

_KEY = 3  # tells these draws from others of the same seed and epoch


def transformed(values: Array, symmetry: int) -> Array:
    """Return a view of a cube, or of a stack of cubes, under a symmetry.

    Parameters
    ----------
    values : ndarray, shape (..., n, n, n)
        Cubes; the last three axes are x, y, z.
    symmetry : int
        Number of the symmetry, 0 to 47: ``symmetry // 8`` is a row of `PERMUTATIONS`, the bits of
        ``symmetry % 8``, the highest for x, say which axes of the image are reversed.

    Raises
    ------
    ValueError
        If there is no such symmetry.

    Examples
    --------
    >>> cube = np.arange(8).reshape(2, 2, 2)
    >>> transformed(cube, 1)[0, 0].tolist()  # z reversed
    [1, 0]
    """
    if not 0 <= symmetry < N_SYMMETRIES:
        raise ValueError(f"symmetry must be 0 to {N_SYMMETRIES - 1}, got {symmetry}")
    first = values.ndim - 3
    axes = PERMUTATIONS[symmetry // 8] + first
    image = values.transpose(*range(first), *axes.tolist())
    reversed_axes = tuple(first + axis for axis in range(3) if symmetry & (4 >> axis))
    flipped: Array = np.flip(image, reversed_axes)
    return flipped


def draw_symmetries(
    samples: NDArray[np.int64], symmetries: Symmetries, *, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return the symmetry of each sample in an epoch, 0 to 47.

    Keyed by the sample's number: the same wherever and whenever it is cut.
    """
    choice = CHOICE[symmetries]
    return choice[drawn(len(choice), samples, key=(seed, epoch, _KEY))]
