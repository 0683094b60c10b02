"""Blocks of decoded fields: what is decoded, and what can be cut from where."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ionstore.cube.arrays import Cells, Fields
from ionstore.store.conversion import AS_STORED, Conversion
from ionstore.store.cube_store import CubeStore


@dataclass(frozen=True, slots=True)
class FieldToDecode:
    """A field of a coeval cube, and how its values become float32.

    Parameters
    ----------
    store : CubeStore
        Store that holds it.
    name : str
        Name of the field.
    redshift : float
        Redshift of the cube.
    conversion : Conversion
        Applied while it is decoded.
    """

    store: CubeStore
    name: str
    redshift: float
    conversion: Conversion = AS_STORED


@dataclass(frozen=True, slots=True)
class DecodedCube:
    """What is decoded of one coeval cube: its inputs, then its target."""

    inputs: tuple[FieldToDecode, ...]
    target: FieldToDecode

    @property
    def mesh_cells(self) -> int:
        """Cells along a side of the cube."""
        return self.target.store.mesh.cells_per_side


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of fields in one stretch of memory, as `ionstore.loading.gather.cut` reads them.

    Parameters
    ----------
    memory : ndarray of float32, shape (size,)
        Where the blocks lie, each C-contiguous of shape (channel, nx, ny, nz).
    offsets, shapes : ndarray of int64, shape (n_blocks,) and (n_blocks, 3)
        Index of the first value of every block, and its nx, ny, nz. An axis as long as the mesh
        holds it whole; on a shorter one, what is cut does not reach the ends.
    start : ndarray of int64, shape (n_blocks, 3)
        Cell of the mesh that every block begins with.
    """

    memory: Fields
    offsets: NDArray[np.int64]
    shapes: NDArray[np.int64]
    start: Cells


@dataclass(frozen=True, slots=True)
class Run:
    """Samples of a batch that can be cut now, and the blocks to cut them from.

    Parameters
    ----------
    samples : slice
        Which samples of the batch.
    block : ndarray of int64, shape (n,)
        Block of each, among both the inputs and the targets.
    inputs, targets : Blocks
        Blocks of the input fields, and of the target alone.
    """

    samples: slice
    block: NDArray[np.int64]
    inputs: Blocks
    targets: Blocks
