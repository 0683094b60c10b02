"""Check positions and masses of sources, and read them from the datasets of HDF5 files."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ionstore.cube.mesh import Array, Cells
from ionstore.errors import SourceDataError
from ionstore.readers.arrays.hdf5 import check_dataset, member, opened_hdf5
from ionstore.storage.files import OnBytes, read_pieces

_ROWS = 1 << 18  # sources of one piece; bounds the memory for positions, masses and cells


def n_listed(path: Path, group: Any, datasets: tuple[str, str], way_on: str) -> int:
    """Return how many sources a group lists; its datasets must be of shape (n, 3) and (n,)."""
    # A group in place of a dataset has no shape, and the shape of an empty dataset is None.
    there = [member(group, name) for name in datasets]
    shapes = [getattr(one, "shape", None) for one in there]
    if shapes[1] is None or len(shapes[1]) != 1 or shapes[0] != (*shapes[1], 3):
        positions, masses = datasets
        where = "" if group.name == "/" else f" in {group.name}"
        raise SourceDataError(
            f"{path}: expected {positions} of shape (n, 3) and {masses} of shape (n,){where}, "
            f"got {' and '.join(str(shape or 'none') for shape in shapes)}; {way_on}"
        )
    for one in there:
        check_dataset(path, one)
    return int(shapes[1][0])


def read_sources(
    path: Path,
    datasets: tuple[str, str],
    n_sources: int | None,
    on_bytes: OnBytes,
    cells_of: Callable[[Array, int], Cells],
) -> Iterator[tuple[Cells, Array]]:
    """Yield cells and masses of the first sources in two datasets, or of all of them.

    `cells_of` makes cells of the stored positions, and of the number of sources before them.
    """
    # HDF5 reads a file in no set order, so a pass of its own hands over the bytes for the digest.
    read_pieces(path, on_bytes)
    with opened_hdf5(path) as file:
        positions, masses = (member(file, name) for name in datasets)
        end = len(masses) if n_sources is None else n_sources
        for first in range(0, end, _ROWS):
            piece = slice(first, min(first + _ROWS, end))
            values: Array = masses[piece].astype(np.float64)
            check_masses(path, values, first)
            # Inside of the block, so that numbers that damage made odd end in its sentence too.
            yield cells_of(positions[piece], first), values


def cells_at(
    path: Path, positions: Array, mesh_cells: int, *, counted_from: int, n_before: int
) -> Cells:
    """Return the cells of sources, counted from 0; `n_before` sources precede them in the list."""
    last = counted_from + mesh_cells - 1
    on_mesh = (positions >= counted_from) & (positions <= last) & (positions == np.rint(positions))
    off = np.flatnonzero(~on_mesh.all(axis=1))
    if off.size:
        position = ", ".join(f"{index:g}" for index in positions[off[0]])
        raise SourceDataError(
            f"{path}: positions of sources must be cells from {counted_from} to {last}, got "
            f"({position}) for source {n_before + off[0] + 1}; give the list of this mesh"
        )
    return positions.astype(np.int64) - counted_from


def check_masses(path: Path, masses: Array, n_before: int) -> None:
    """Refuse negative masses; shape (n,) or (n, columns)."""
    # Before the masses of a cell are added up: positive ones would hide a negative one.
    negative = np.argwhere(masses < 0)
    if len(negative):
        first = tuple(negative[0])
        raise SourceDataError(
            f"{path}: masses of sources cannot be negative, got {masses[first]:g} for source "
            f"{n_before + first[0] + 1}; fix the list"
        )
