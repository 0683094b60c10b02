"""Blocks of decoded fields: what is decoded, and what can be cut from where."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from ionstore.cube.mesh import Cells, Fields
from ionstore.sampling.regions import Reach
from ionstore.store.conversion import AS_STORED, ValueMap
from ionstore.store.cube_store import CubeStore
from ionstore.store.normalization import Normalization


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
    conversion : ValueMap
        Applied while it is decoded.
    """

    store: CubeStore
    name: str
    redshift: float
    conversion: ValueMap = AS_STORED


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


Store = str | PathLike[str] | CubeStore


def open_stores(store: Store | Sequence[Store]) -> list[CubeStore]:
    """Return stores, opened where they are paths.

    Raises
    ------
    ValueError
        If there are none.
    StoreFormatError
        If a path is not a complete store.
    """
    stores = [store] if isinstance(store, str | PathLike | CubeStore) else list(store)
    if not stores:
        raise ValueError("store must name at least one store, got none")
    return [one if isinstance(one, CubeStore) else CubeStore.open(one) for one in stores]


def select_cubes(
    stores: Sequence[CubeStore],
    inputs: Sequence[str],
    target: str,
    *,
    redshifts: Sequence[float] | None,
    reach: Reach,
    normalization: Normalization | None,
    halo_name: str = "radius",
) -> tuple[list[int], list[DecodedCube]]:
    """Return the store of every cube, and what to decode of it.

    Parameters
    ----------
    stores : sequence of CubeStore
        Where the cubes are.
    inputs : sequence of str
        Names of the input fields, in the order of their channels.
    target : str
        Name of the target field.
    redshifts : sequence of float, optional
        Redshifts to use of every store; all of each by default.
    reach : Reach
        What belongs to a sample.
    normalization : Normalization, optional
        Applied to the inputs while they are decoded.
    halo_name : str
        What the user calls the radius of the reach.

    Raises
    ------
    ValueError
        If nothing is chosen, a redshift twice, or a store lacks a field or is too small for the
        reach.
    NotInStoreError
        If a store does not hold a redshift.
    """
    if isinstance(inputs, str):
        raise ValueError(f"inputs must be a list of names, got {inputs!r}; give [{inputs!r}]")
    if not isinstance(target, str):
        raise ValueError(f"target must be the name of a field, got {target!r}")
    if redshifts is not None and np.ndim(redshifts) != 1:
        raise ValueError(
            f"redshifts must be a list of numbers, got {redshifts!r}; give [{redshifts!r}] for one"
        )
    if not len(inputs) or (redshifts is not None and not len(redshifts)):
        raise ValueError(
            f"inputs and redshifts must name at least one each, got inputs {list(inputs)}, "
            f"redshifts {redshifts}"
        )
    store_of_cube, cubes = [], []
    for index, store in enumerate(stores):
        _check_store(store, inputs, target, reach, halo_name)
        wanted = store.redshifts if redshifts is None else redshifts
        chosen = [store.redshifts[store.redshift_index(redshift)] for redshift in wanted]
        if len(set(chosen)) < len(chosen):
            shown = ", ".join(f"{redshift:g}" for redshift in chosen)
            raise ValueError(f"redshifts must all be different, got {shown} of {store.path}")
        for redshift in chosen:
            fields = [
                FieldToDecode(
                    store,
                    name,
                    redshift,
                    AS_STORED
                    if normalization is None
                    else normalization.conversion(store, name, redshift),
                )
                for name in inputs
            ]
            store_of_cube.append(index)
            cubes.append(DecodedCube(tuple(fields), FieldToDecode(store, target, redshift)))
    return store_of_cube, cubes


def _check_store(
    store: CubeStore, inputs: Sequence[str], target: str, reach: Reach, halo_name: str
) -> None:
    there = ", ".join(store.field_names)
    missing = [name for name in inputs if name not in store.field_names]
    if missing:
        raise ValueError(
            f"{store.path} must hold the inputs {', '.join(missing)}, it holds {there}; give "
            "inputs among these, or a store with them"
        )
    if target not in store.field_names:
        raise ValueError(
            f"{store.path} must hold the target {target}, it holds {there}; give a target among "
            "these, or a store with it"
        )
    if 2 * reach.radius + 1 > store.mesh.cells_per_side:
        raise ValueError(
            f"{halo_name} {reach.radius} needs a mesh of {2 * reach.radius + 1} cells a side, "
            f"{store.path} has {store.mesh.cells_per_side}"
        )
