"""`PeriodicField`: a field of a whole box, smoothed by balls across its faces."""

import numpy as np
import torch
from numpy.typing import NDArray

from ionstore.cube.mesh import Array, Fields

FIELDS_AT_ONCE = 5
"""Memory of smoothing a field, in fields of float32, that field included."""


class PeriodicField:
    """A field of a periodic box, transformed once for any number of balls."""

    def __init__(self, values: Array) -> None:
        if values.ndim != 3 or len(set(values.shape)) != 1:
            raise ValueError(f"values must be a cube, got shape {values.shape}")
        self.cells_per_side = values.shape[0]
        # The mean is subtracted in float64, so that rounding to float32 is relative to the scatter
        # of the field, not to its mean.
        self._mean = float(values.mean(dtype=np.float64))
        self._range = float(values.min()), float(values.max())
        # Scaled by the largest value, so that no unit comes near the limits of float32.
        self._unit = max(map(abs, self._range)) or 1.0
        about_mean = np.empty(values.shape, np.float32)
        # Plane by plane: a float64 copy of the whole box would take twice the field.
        for plane, out in zip(values, about_mean, strict=True):
            out[...] = (plane.astype(np.float64) - self._mean) / self._unit
        self._spectrum = torch.fft.rfftn(torch.from_numpy(about_mean))

    def smoothed(self, radius_cells: float) -> Fields:
        """Return the mean of the field within a ball around every cell, across the faces."""
        n = self.cells_per_side
        # In float32 this holds about four fields beside the result: FIELDS_AT_ONCE counts them.
        product = torch.fft.rfftn(torch.from_numpy(ball_weights(n, radius_cells)))
        product *= self._spectrum
        out: Fields = torch.fft.irfftn(product, s=(n, n, n)).numpy()
        del product  # as large as the field, and not needed while the result is scaled
        for plane in out:
            plane[...] = np.clip(plane * self._unit + self._mean, *self._range)
        return out


def ball_weights(cells_per_side: int, radius_cells: float) -> NDArray[np.float32]:
    """Return the weight of every cell in the mean over a ball around cell (0, 0, 0).

    Examples
    --------
    >>> weights = ball_weights(8, 1.0)
    >>> [round(float(weights[0, 0, k] / weights[0, 0, 0]), 3) for k in range(4)]
    [1.0, 0.5, 0.0, 0.0]
    """
    if not 0 <= radius_cells <= cells_per_side / 4 + 1e-6:
        raise ValueError(
            f"radius_cells must be from 0 to a quarter of {cells_per_side}, got {radius_cells}"
        )
    # About the share of each cell in the ball: min(1, max(0, R + 1/2 - d)), with the distance d
    # from center to center. It changes smoothly with R, so that a mean free path does not jump from
    # one redshift to the next. The analytic transform 3 (sin x - x cos x) / x**3 would ring, cut
    # off at the frequency of the mesh, and make means of sources negative beside bright ones.
    along = np.arange(cells_per_side)
    squared = np.minimum(along, cells_per_side - along).astype(np.float64) ** 2
    weights = np.zeros((cells_per_side,) * 3, np.float32)
    face, total = squared[:, None] + squared, 0.0
    for plane, distance in zip(weights, squared, strict=True):
        if distance < (radius_cells + 0.5) ** 2:
            plane[...] = np.clip(radius_cells + 0.5 - np.sqrt(face + distance), 0, 1)
            total += float(plane.sum(dtype=np.float64))
    weights /= total
    return weights
