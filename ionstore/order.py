"""Samples and the order in which an epoch visits them: plans, no data."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from ionstore.cube import Cells
from ionstore.grid import Mesh
from ionstore.split import Region

Centers = Region | Cells
"""Center cells of one box: a region of them, or a list."""

_ROUNDS = 6


def shuffled(positions: NDArray[np.int64], n: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return what stands at the given positions of a random permutation of ``range(n)``.

    Parameters
    ----------
    positions : ndarray of int64, shape (m,)
        Positions in the permutation, 0 to ``n - 1``.
    n : int
        Length of the permutation, at least 1.
    seed, epoch : int
        Each pair gives another permutation; both at least 0.

    Returns
    -------
    ndarray of int64, shape (m,)
        Members of ``range(n)``, different for different positions.

    Raises
    ------
    ValueError
        If ``n`` is below 1, or ``seed`` or ``epoch`` below 0.

    Notes
    -----
    A Feistel network with `_ROUNDS` keyed rounds permutes ``range(4**half)``, the smallest such
    range that holds n; members outside ``range(n)`` are permuted again until they fall inside.
    No permutation is stored, so that an epoch over billions of cells takes no memory and can
    start anywhere.

    References
    ----------
    Black & Rogaway 2002, Ciphers with arbitrary finite domains, section 4 (cycle walking).

    Examples
    --------
    >>> sorted(shuffled(np.arange(5), 5, seed=1, epoch=0).tolist())
    [0, 1, 2, 3, 4]
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    keys: NDArray[np.uint64] = np.array(
        np.random.SeedSequence([seed, epoch]).generate_state(_ROUNDS, np.uint64), dtype=np.uint64
    )
    values = _permute(positions.astype(np.uint64), half, keys)
    while (outside := values >= n).any():
        values[outside] = _permute(values[outside], half, keys)
    return values.astype(np.int64)


def _permute(
    values: NDArray[np.uint64], half: np.uint64, keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit words (the finalizer of Steele, Lea & Flood 2014, SplitMix)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclass(frozen=True, slots=True)
class CubeSamples:
    """The samples of one coeval cube.

    Parameters
    ----------
    store_index : int
        Place of the cube's store among the loader's stores.
    redshift : float
        Redshift of the cube.
    centers : Region or ndarray of int64, shape (n, 3)
        Center cells.
    """

    store_index: int
    redshift: float
    centers: Centers

    @property
    def n_samples(self) -> int:
        """Number of centers."""
        return self.centers.n_cells if isinstance(self.centers, Region) else len(self.centers)

    def cells(self, indices: NDArray[np.int64]) -> Cells:
        """Return the centers at the given places, int64 of shape (n, 3)."""
        if isinstance(self.centers, Region):
            return self.centers.cells(indices)
        return self.centers[indices]


class SamplePlan:
    """Samples of several coeval cubes, numbered cube after cube.

    Parameters
    ----------
    cubes : sequence of CubeSamples
        At least one cube with at least one sample.
    seed : int
        Seed of the order.
    shuffle : bool
        Whether an epoch visits the samples in random order or by their number.

    Raises
    ------
    ValueError
        If there are no samples.
    """

    def __init__(self, cubes: Sequence[CubeSamples], *, seed: int, shuffle: bool) -> None:
        self.cubes = tuple(cubes)
        self.seed = seed
        self.shuffle = shuffle
        self.n_samples = sum(cube.n_samples for cube in cubes)
        if self.n_samples == 0:
            raise ValueError("centers must hold at least one cell, got none")
        self._first = np.array(
            list(accumulate((cube.n_samples for cube in cubes), initial=0))[:-1], dtype=np.int64
        )

    def batch(self, epoch: int, start: int, stop: int) -> list[tuple[int, Cells]]:
        """Return the samples at positions ``start`` to ``stop`` of an epoch, cube by cube.

        Returns
        -------
        list of (int, ndarray of int64, shape (n, 3))
            Place of a cube in `cubes` and the center cells there, in ascending order of cubes.
        """
        samples = np.arange(start, stop, dtype=np.int64)
        if self.shuffle:
            samples = shuffled(samples, self.n_samples, seed=self.seed, epoch=epoch)
        cube_of_sample = np.searchsorted(self._first, samples, side="right") - 1
        parts = []
        for index in np.unique(cube_of_sample).tolist():
            within = samples[cube_of_sample == index] - self._first[index]
            parts.append((index, self.cubes[index].cells(within)))
        return parts


def centers_of_boxes(
    meshes: Sequence[Mesh], centers: Centers | Sequence[Centers] | None
) -> list[Centers]:
    """Return the center cells of each of several boxes.

    Parameters
    ----------
    meshes : sequence of Mesh
        Meshes of the boxes.
    centers : Region or ndarray of int64, shape (n, 3), or one of them for each box, optional
        Center cells; every cell by default. Listed cells may lie off the mesh, they wrap.

    Raises
    ------
    ValueError
        If a region leaves the mesh, a list has another dtype or shape, or there are not as many
        as boxes.
    """
    if centers is None:
        return [Region((0, 0, 0), mesh.shape) for mesh in meshes]
    given = [centers] * len(meshes) if isinstance(centers, Region | np.ndarray) else list(centers)
    if len(given) != len(meshes):
        raise ValueError(f"centers must be given for {len(meshes)} stores, got {len(given)}")
    for mesh, one in zip(meshes, given, strict=True):
        if isinstance(one, Region):
            last = [first + length for first, length in zip(one.start, one.shape, strict=True)]
            if max(last) > mesh.cells_per_side:
                raise ValueError(f"centers must lie on the mesh {mesh.shape}, got {one}")
        elif one.dtype != np.int64 or one.ndim != 2 or one.shape[1] != 3:
            raise ValueError(
                f"centers must be int64 of shape (n, 3), got {one.dtype} of shape {one.shape}"
            )
    return given
