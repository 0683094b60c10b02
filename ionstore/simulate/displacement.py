"""Move gas and halos along linear displacements on the periodic mesh."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Displacement = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""Displacement along x, y and z at the centers of the cells, in cells, each shape (n, n, n)."""

# Fractional parts of multiples of these fill the unit cube evenly (Roberts 2018, d = 3).
_STEPS = (0.8191725133961645, 0.6710436067037893, 0.5497004779019703)
_MOST_MOVES = 512  # per cell, to bound the time: more halos move in groups


def deposit_gas(displacement: Displacement, growth: float) -> NDArray[np.float32]:
    """Move evenly spaced gas by displacement × growth; return ``ρ / ρ̄``, of mean 1 to rounding."""
    ratio = np.zeros(displacement[0].shape, dtype=np.float32)
    _deposit(*displacement, growth, ratio)
    return ratio


def move_halos(
    counts: NDArray[np.int64],
    offsets: NDArray[np.float32],
    first_plane: int,
    displacement: Displacement,
    growth: float,
    *,
    out: NDArray[np.float32],
) -> None:
    """Move the halos of some planes with their matter, and add 1 to `out` where each one ends.

    Offsets, shape (planes, n, n, 3), place the first halo of a cell within it, 0 to 1.
    """
    _move_halos(counts, offsets, first_plane, *displacement, growth, out)


@njit(cache=True, nogil=True)
def _interpolate(  # noqa: PLR0917
    field: NDArray[np.float32], i: int, j: int, k: int, x: float, y: float, z: float
) -> float:
    """Return a field at the center of cell (i, j, k) plus (x, y, z), each within ±1/2."""
    n = field.shape[0]
    # An index of -1 needs no wrap: it is the last cell.
    a = i - 1 if x < 0 else (i + 1 if i + 1 < n else 0)
    b = j - 1 if y < 0 else (j + 1 if j + 1 < n else 0)
    c = k - 1 if z < 0 else (k + 1 if k + 1 < n else 0)
    x, y, z = abs(x), abs(y), abs(z)
    near = (1 - z) * field[i, j, k] + z * field[i, j, c]
    beside = (1 - z) * field[i, b, k] + z * field[i, b, c]
    far = (1 - z) * field[a, j, k] + z * field[a, j, c]
    across = (1 - z) * field[a, b, k] + z * field[a, b, c]
    value: float = (1 - x) * ((1 - y) * near + y * beside) + x * ((1 - y) * far + y * across)
    return value


@njit(cache=True, nogil=True)
def _deposit(
    along_x: NDArray[np.float32],
    along_y: NDArray[np.float32],
    along_z: NDArray[np.float32],
    growth: float,
    out: NDArray[np.float32],
) -> None:
    # Cloud-in-cell: Hockney & Eastwood 1988, Computer Simulation Using Particles, section 5-2.
    # Serial, so that sums do not depend on threads. Eight particles per cell, ±1/4 of a cell from
    # its center: with a single one, the mesh of particles shows through where the gas expands.
    n = out.shape[0]
    for i in range(n):
        for j in range(n):
            for k in range(n):
                for corner in range(8):
                    x = 0.25 if corner & 4 else -0.25
                    y = 0.25 if corner & 2 else -0.25
                    z = 0.25 if corner & 1 else -0.25
                    x_end = x + growth * _interpolate(along_x, i, j, k, x, y, z)
                    y_end = y + growth * _interpolate(along_y, i, j, k, x, y, z)
                    z_end = z + growth * _interpolate(along_z, i, j, k, x, y, z)
                    x_cell = math.floor(x_end)
                    y_cell = math.floor(y_end)
                    z_cell = math.floor(z_end)
                    x_far = x_end - x_cell
                    y_far = y_end - y_cell
                    z_far = z_end - z_cell
                    a, b, c = (i + x_cell) % n, (j + y_cell) % n, (k + z_cell) % n
                    a_far, b_far, c_far = (a + 1) % n, (b + 1) % n, (c + 1) % n
                    xy = 0.125 * (1 - x_far) * (1 - y_far)
                    out[a, b, c] += xy * (1 - z_far)
                    out[a, b, c_far] += xy * z_far
                    xy = 0.125 * (1 - x_far) * y_far
                    out[a, b_far, c] += xy * (1 - z_far)
                    out[a, b_far, c_far] += xy * z_far
                    xy = 0.125 * x_far * (1 - y_far)
                    out[a_far, b, c] += xy * (1 - z_far)
                    out[a_far, b, c_far] += xy * z_far
                    xy = 0.125 * x_far * y_far
                    out[a_far, b_far, c] += xy * (1 - z_far)
                    out[a_far, b_far, c_far] += xy * z_far


@njit(cache=True, nogil=True)
def _move_halos(  # noqa: PLR0917
    counts: NDArray[np.int64],
    offsets: NDArray[np.float32],
    first_plane: int,
    along_x: NDArray[np.float32],
    along_y: NDArray[np.float32],
    along_z: NDArray[np.float32],
    growth: float,
    out: NDArray[np.float32],
) -> None:
    n = out.shape[0]
    for plane in range(counts.shape[0]):
        i = first_plane + plane
        for j in range(n):
            for k in range(n):
                count = counts[plane, j, k]
                together = 1 + count // _MOST_MOVES
                # Further halos of a cell follow a fixed sequence that fills it evenly.
                for halo in range(0, count, together):
                    x = (offsets[plane, j, k, 0] + halo * _STEPS[0]) % 1.0 - 0.5
                    y = (offsets[plane, j, k, 1] + halo * _STEPS[1]) % 1.0 - 0.5
                    z = (offsets[plane, j, k, 2] + halo * _STEPS[2]) % 1.0 - 0.5
                    x_end = x + 0.5 + growth * _interpolate(along_x, i, j, k, x, y, z)
                    y_end = y + 0.5 + growth * _interpolate(along_y, i, j, k, x, y, z)
                    z_end = z + 0.5 + growth * _interpolate(along_z, i, j, k, x, y, z)
                    a = (i + math.floor(x_end)) % n
                    b = (j + math.floor(y_end)) % n
                    c = (k + math.floor(z_end)) % n
                    out[a, b, c] += min(together, count - halo)
