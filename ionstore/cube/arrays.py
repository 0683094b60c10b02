"""Coeval cubes: names for the shapes and dtypes of their arrays, and what tells redshifts apart."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

REDSHIFT_TOLERANCE = 5e-4
"""Redshifts this close name the same cube: file names give three decimals."""

REDSHIFT_ROUNDING = 1e-9
"""What float64 may add to the difference of two redshifts."""

Array = NDArray[Any]
"""Any array whose dtype is found at run time (a block of a file, a field of a store)."""

Fields = NDArray[np.float32]
"""Fields of one coeval cube, shape (channel, nx, ny, nz), C-contiguous, periodic on all axes."""

Cells = NDArray[np.int64]
"""Cell indices (i, j, k), shape (n, 3)."""

Neighborhoods = NDArray[np.float32]
"""Periodic neighborhoods, shape (n, channel, width, width, width)."""
