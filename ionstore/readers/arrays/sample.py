"""A few values out of a cube, to tell its quantity without reading all of it."""

import numpy as np

from ionstore.cube.mesh import Array
from ionstore.readers.base import FieldSource

_ROWS = 16
_ROW_CELLS = 256


def sample_values(source: FieldSource) -> Array:
    """Return up to 4096 values from all over a cube, in float64."""
    side = source.shape[0]
    # Damaged bytes may be anything, such as signaling NaN, or numbers that overflow on conversion.
    with np.errstate(all="ignore"):
        return _sample(source, side)


def _sample(source: FieldSource, side: int) -> Array:
    if side**3 <= _ROWS * _ROW_CELLS:
        return source.read_block((0, 0, 0), (side, side, side)).astype(np.float64).ravel()
    cells = min(side, _ROW_CELLS)
    # Rows along z whose beginnings lie on a diagonal, so that a few meet all parts of each axis.
    rows = [
        source.read_block((first, first, first * (side - cells) // side), (1, 1, cells)).ravel()
        for first in range(0, side, -(-side // _ROWS))
    ]
    return np.concatenate(rows).astype(np.float64)
