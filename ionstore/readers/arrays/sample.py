"""A few values out of a cube: what its numbers look like, without reading it."""

import numpy as np

from ionstore.cube.mesh import Array
from ionstore.readers.base import FieldSource

_ROWS = 16
_ROW_CELLS = 256


def sample_values(source: FieldSource) -> Array:
    """Return values of a cube from places all over it.

    Parameters
    ----------
    source : FieldSource
        A cube of shape (n, n, n) whose blocks can be read.

    Returns
    -------
    ndarray of float64, shape (m,)
        At most 4096 values, in rows along z whose beginnings lie on a diagonal of the cube; all of
        a cube that has no more.
    """
    side = source.shape[0]
    # Bytes that are damaged may be anything, signaling NaN and numbers beyond float64 among it.
    with np.errstate(all="ignore"):
        return _sample(source, side)


def _sample(source: FieldSource, side: int) -> Array:
    if side**3 <= _ROWS * _ROW_CELLS:
        return source.read_block((0, 0, 0), (side, side, side)).astype(np.float64).ravel()
    cells = min(side, _ROW_CELLS)
    rows = [
        source.read_block((first, first, first * (side - cells) // side), (1, 1, cells)).ravel()
        for first in range(0, side, -(-side // _ROWS))
    ]
    return np.concatenate(rows).astype(np.float64)
