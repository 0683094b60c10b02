"""Ionized regions by the excursion set: where sources outnumber the atoms around them."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ionstore.simulate.linear_field import Modes, forward_transform, inverse_transform


def filter_radii(cells_per_side: int, max_radius_cells: float, *, step: float = 1.1) -> list[float]:
    """Return the radii to smooth with, in cells, largest first.

    Parameters
    ----------
    cells_per_side : int
        Cells along each axis; no radius is above a quarter of them.
    max_radius_cells : float
        Largest radius wanted, in cells.
    step : float
        Ratio of one radius to the next, above 1.

    Returns
    -------
    list of float
        Down to one cell; empty where even the largest is smaller than that.

    Raises
    ------
    ValueError
        If `step` is not above 1.
    """
    if not step > 1:
        raise ValueError(f"step must be above 1, got {step}")
    radii = []
    radius = min(max_radius_cells, cells_per_side / 4)
    while radius >= 1.0:
        radii.append(radius)
        radius /= step
    return radii


def smooth_top_hat(modes: Modes, cells_per_side: int, radius_cells: float) -> NDArray[np.float32]:
    """Average a periodic field over the cells whose centers lie in a sphere.

    Parameters
    ----------
    modes : ndarray of complex64, shape (n, n, n // 2 + 1)
        Modes of the field, in any unit.
    cells_per_side : int
        Cells along each axis of the mesh.
    radius_cells : float
        Radius of the spheres, in cells, from 0 to below half of the mesh.

    Returns
    -------
    ndarray of float32, shape (n, n, n)
        In the unit of the field.

    Raises
    ------
    ValueError
        If the sphere does not fit the box.

    Notes
    -----
    The sphere is that of the cells of the mesh, not of continuous space: the transform of the
    latter, cut at the shortest wave, rings, and ionizes cells far from a bright source.
    """
    n = cells_per_side
    if not 0 <= radius_cells < n / 2:
        raise ValueError(f"radius_cells must be from 0 to below {n / 2}, got {radius_cells}")
    reach = int(radius_cells)
    offsets = np.arange(-reach, reach + 1)
    squares = offsets**2
    inside = squares[:, None, None] + squares[:, None] + squares <= radius_cells**2
    sphere = np.zeros((n,) * 3, dtype=np.float32)
    wrapped = offsets % n
    sphere[np.ix_(wrapped, wrapped, wrapped)] = inside / np.count_nonzero(inside)
    window = forward_transform(sphere)
    del sphere
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

    Parameters
    ----------
    photons : ndarray of float32, shape (n, n, n)
        Ionizing photons that the sources of a cell have emitted so far, less those lost to
        absorbers, per atom of a mean cell; below 0 where losses prevail.
    atoms : ndarray of float32, shape (n, n, n)
        Atoms of a cell, relative to the mean; >= 0.
    radii_cells : sequence of float
        Radii of the spheres, in cells.
    on_radius : callable, optional
        Called after each radius.

    Returns
    -------
    ndarray of float32, shape (n, n, n)
        1 in a cell that is the center of a sphere whose photons are at least its atoms;
        elsewhere photons over atoms of the cell alone.

    Raises
    ------
    ValueError
        If a sphere does not fit the box.

    Notes
    -----
    Smoothing is linear, so ``<photons>_R >= <atoms>_R`` is ``<photons - atoms>_R >= 0``: one
    field is smoothed, not two. Radii may come in any order.

    References
    ----------
    Furlanetto, Zaldarriaga & Hernquist 2004, ApJ 613, 1, equation 3; Mesinger, Furlanetto &
    Cen 2011, MNRAS 411, 955, section 2.2 (centers marked, last scale partly ionized).
    """
    n = atoms.shape[0]
    # A cell without atoms counts as ionized as soon as it holds a photon.
    xhii = np.divide(photons, np.maximum(atoms, np.float32(1e-30)), dtype=np.float32)
    np.clip(xhii, 0.0, 1.0, out=xhii)
    excess = forward_transform(photons - atoms)
    for radius in radii_cells:
        xhii[smooth_top_hat(excess, n, radius) >= 0] = 1.0
        if on_radius is not None:
            on_radius()
    return xhii
