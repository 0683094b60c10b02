"""Ionized regions by the excursion set: spheres that have more photons than atoms."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ionstore.simulate.linear_field import Modes, forward_transform, inverse_transform


def filter_radii(cells_per_side: int, max_radius_cells: float, *, step: float = 1.1) -> list[float]:
    """Return the smoothing radii in cells, from at most a quarter of the mesh down to one cell."""
    if not step > 1:
        raise ValueError(f"step must be above 1, got {step}")
    radii = []
    radius = min(max_radius_cells, cells_per_side / 4)
    while radius >= 1.0:
        radii.append(radius)
        radius /= step
    return radii


def smooth_top_hat(modes: Modes, cells_per_side: int, radius_cells: float) -> NDArray[np.float32]:
    """Average a periodic field over the cells whose centers lie in a sphere."""
    n = cells_per_side
    if not 0 <= radius_cells < n / 2:
        raise ValueError(f"radius_cells must be from 0 to below {n / 2}, got {radius_cells}")
    # A sphere of cells, not `top_hat_window`: the transform of a continuous sphere, cut at the
    # shortest wave, rings and would ionize cells far from a bright source.
    reach = int(radius_cells)
    offsets = np.arange(-reach, reach + 1)
    squares = offsets**2
    inside = squares[:, None, None] + squares[:, None] + squares <= radius_cells**2
    sphere = np.zeros((n,) * 3, dtype=np.float32)
    wrapped = offsets % n
    sphere[np.ix_(wrapped, wrapped, wrapped)] = inside / np.count_nonzero(inside)
    window = forward_transform(sphere)
    del sphere  # 4 bytes per cell, before the inverse transform needs them
    window *= modes
    return inverse_transform(window, n)


def ionized_fraction(
    photons: NDArray[np.float32],
    atoms: NDArray[np.float32],
    radii_cells: Sequence[float],
    *,
    on_radius: Callable[[], None] | None = None,
) -> NDArray[np.float32]:
    """Return the ionized fraction of every cell.

    Photons are those that the sources of a cell emitted so far, less those lost to absorbers, per
    atom of a mean cell; atoms are relative to the mean cell.
    """
    # Mesinger, Furlanetto & Cen 2011, MNRAS 411, 955, section 2.2: a cell is ionized if it is the
    # center of a sphere that has enough photons; elsewhere its own photons ionize a part of it.
    n = atoms.shape[0]
    # A cell without atoms counts as ionized as soon as it holds a photon.
    xhii = np.divide(photons, np.maximum(atoms, np.float32(1e-30)), dtype=np.float32)
    np.clip(xhii, 0.0, 1.0, out=xhii)
    # Furlanetto, Zaldarriaga & Hernquist 2004, ApJ 613, 1, equation 3: <photons>_R >= <atoms>_R.
    # Averages are linear, so one field is smoothed, <photons - atoms>_R >= 0, and not two.
    excess = forward_transform(photons - atoms)
    for radius in radii_cells:
        xhii[smooth_top_hat(excess, n, radius) >= 0] = 1.0
        if on_radius is not None:
            on_radius()
    return xhii
