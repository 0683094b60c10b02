"""Linear overdensity on a periodic mesh: drawing it, displacing with it, smoothing it."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ionstore.cube.mesh import Mesh
from ionstore.simulate.power_spectrum import LinearSpectrum, top_hat_window

_AXES = (0, 1, 2)
Modes = NDArray[np.complex64]
"""Fourier modes of a real field, shape (n, n, n // 2 + 1), as `numpy.fft.rfftn` orders them."""


def squared_frequencies(cells_per_side: int) -> NDArray[np.int32]:
    """Return the squared length of the integer wave vector of every mode.

    Parameters
    ----------
    cells_per_side : int
        Cells along each axis of the mesh.

    Returns
    -------
    ndarray of int32, shape (n, n, n // 2 + 1)
        ``m^2``, where the wavenumber is ``2 π m / box length``.

    Notes
    -----
    The squares are small integers, so a function of the wavenumber is evaluated once for each
    integer and looked up per mode: no sine or square root per cell.
    """
    full = _frequencies(cells_per_side).astype(np.int32) ** 2
    half = np.arange(cells_per_side // 2 + 1, dtype=np.int32) ** 2
    return full[:, None, None] + full[None, :, None] + half


def mode_wavenumbers(mesh: Mesh) -> NDArray[np.float64]:
    """Return the wavenumber for every value of `squared_frequencies`, 1/cMpc.

    Returns
    -------
    ndarray of float64, shape (3 * (n // 2)**2 + 1,)
        Entry ``m2`` is ``2 π sqrt(m2) / box length``; in 1/cells where the length is unknown.
    """
    length = mesh.cells_per_side if mesh.box_length_cmpc is None else mesh.box_length_cmpc
    largest = 3 * (mesh.cells_per_side // 2) ** 2
    return 2 * np.pi / length * np.sqrt(np.arange(largest + 1, dtype=np.float64))


def draw_linear_modes(mesh: Mesh, spectrum: LinearSpectrum, rng: np.random.Generator) -> Modes:
    """Draw a Gaussian overdensity field with the given power spectrum.

    Parameters
    ----------
    mesh : Mesh
        Its box length must be known.
    spectrum : LinearSpectrum
        Spectrum at redshift 0.
    rng : numpy.random.Generator
        Source of one standard normal number per cell.

    Returns
    -------
    ndarray of complex64, shape (n, n, n // 2 + 1)
        Modes of the linear overdensity at redshift 0; the mean overdensity is exactly 0.

    Raises
    ------
    ValueError
        If the box length is unknown.

    Notes
    -----
    White noise of unit variance times ``sqrt(P(k) / cell volume)``: real by construction.
    """
    if mesh.cell_size_cmpc is None:
        raise ValueError(f"mesh must have a box length, got {mesh}")
    noise = rng.standard_normal(mesh.shape, dtype=np.float32)
    modes = forward_transform(noise)
    amplitude = np.sqrt(spectrum.power(mode_wavenumbers(mesh)) / mesh.cell_size_cmpc**3)
    modes *= amplitude.astype(np.float32)[squared_frequencies(mesh.cells_per_side)]
    return modes


def mode_variance(mesh: Mesh, spectrum: LinearSpectrum, *, radius_cmpc: float = 0.0) -> float:
    """Return the variance at redshift 0 of fields that `draw_linear_modes` draws.

    Parameters
    ----------
    mesh : Mesh
        Its box length must be known.
    spectrum : LinearSpectrum
        Spectrum at redshift 0.
    radius_cmpc : float
        Radius of a top-hat that smooths the field, cMpc; 0 for none.

    Returns
    -------
    float
        Dimensionless. The sum over the modes of the mesh, so waves longer than the box and
        shorter than two cells are left out, as in the field.

    Raises
    ------
    ValueError
        If the box length is unknown.
    """
    if mesh.box_length_cmpc is None:
        raise ValueError(f"mesh must have a box length, got {mesh}")
    n = mesh.cells_per_side
    wavenumbers = mode_wavenumbers(mesh)
    power = spectrum.power(wavenumbers) * top_hat_window(wavenumbers * radius_cmpc) ** 2
    squares = squared_frequencies(n)
    weights = np.full(n // 2 + 1, 2.0)  # a mode and its mirror image
    weights[0] = 1.0
    if n % 2 == 0:
        weights[-1] = 1.0
    total = sum(float((power[plane] @ weights).sum()) for plane in squares)
    return total / mesh.box_length_cmpc**3


def displacements(modes: Modes, cells_per_side: int) -> Iterator[NDArray[np.float32]]:
    """Yield the linear displacement along x, then y, then z, in cells.

    Parameters
    ----------
    modes : ndarray of complex64, shape (n, n, n // 2 + 1)
        Modes of the linear overdensity.
    cells_per_side : int
        Cells along each axis of the mesh.

    Yields
    ------
    ndarray of float32, shape (n, n, n)
        ``ψ`` with ``-∇·ψ = δ``, in cells: to move by at the redshift of the modes.

    References
    ----------
    Zel'dovich 1970, A&A 5, 84.
    """
    n = cells_per_side
    squares = squared_frequencies(n)
    squares[0, 0, 0] = 1  # the mean does not move
    scaled: Modes = np.divide(modes, squares.astype(np.float32), dtype=np.complex64)
    del squares
    full = _frequencies(n)
    half = np.arange(n // 2 + 1, dtype=np.float64)
    if n % 2 == 0:
        # The derivative of the wave that alternates from cell to cell vanishes at the cells.
        full[n // 2] = half[-1] = 0.0
    for axis, frequencies in enumerate((full, full, half)):
        factor = (1j * n / (2 * np.pi) * frequencies).astype(np.complex64)
        shape = [1, 1, 1]
        shape[axis] = -1
        along: Modes = scaled * factor.reshape(shape)
        yield inverse_transform(along, n)


def forward_transform(field: NDArray[np.float32]) -> Modes:
    """Return the modes of a real field of shape (n, n, n), as `numpy.fft.rfftn` gives them."""
    return np.fft.rfftn(field, axes=_AXES).astype(np.complex64, copy=False)


def inverse_transform(modes: Modes, cells_per_side: int) -> NDArray[np.float32]:
    """Return the real field, shape (n, n, n), of modes as `numpy.fft.rfftn` gives them."""
    field = np.fft.irfftn(modes, s=(cells_per_side,) * 3, axes=_AXES)
    return field.astype(np.float32, copy=False)


def smooth_modes(modes: Modes, cells_per_side: int, radius_cells: float) -> Modes:
    """Return the modes of a field averaged over spheres.

    Parameters
    ----------
    modes : ndarray of complex64, shape (n, n, n // 2 + 1)
        Modes of the field.
    cells_per_side : int
        Cells along each axis of the mesh.
    radius_cells : float
        Radius of the spheres, in cells.
    """
    window = top_hat_window(mode_wavenumbers(Mesh(cells_per_side)) * radius_cells)
    return modes * window.astype(np.float32)[squared_frequencies(cells_per_side)]


def _frequencies(cells_per_side: int) -> NDArray[np.float64]:
    frequencies: NDArray[np.float64] = np.rint(np.fft.fftfreq(cells_per_side) * cells_per_side)
    return frequencies
