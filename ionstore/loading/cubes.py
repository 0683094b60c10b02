"""Select the cubes of stores that are decoded, and the fields of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ionstore.sampling.regions import Reach
from ionstore.store.conversion import AS_STORED, ValueMap
from ionstore.store.cube_store import CubeStore
from ionstore.store.normalization import Normalization


@dataclass(frozen=True, slots=True)
class FieldToDecode:
    """A field of a coeval cube, and how its values become float32."""

    store: CubeStore
    name: str
    redshift: float
    conversion: ValueMap = AS_STORED


@dataclass(frozen=True, slots=True)
class CubeToDecode:
    """Fields to decode of one coeval cube: its inputs, then its target."""

    inputs: tuple[FieldToDecode, ...]
    target: FieldToDecode

    @property
    def mesh_cells(self) -> int:
        """Cells along a side of the cube."""
        return self.target.store.mesh.cells_per_side


def select_cubes(
    stores: Sequence[CubeStore],
    inputs: Sequence[str],
    target: str,
    *,
    redshifts: Sequence[float] | None,
    reach: Reach,
    normalization: Normalization | None,
    halo_name: str = "radius",
) -> tuple[list[int], list[CubeToDecode]]:
    """Return the store of every cube by its place in ``stores``, and the fields to decode of it.

    Only inputs are normalized. ``halo_name`` is the user's name of the radius of the reach.
    """
    _check_names(inputs, target, redshifts)
    store_of_cube, cubes = [], []
    for index, store in enumerate(stores):
        _check_store(store, inputs, target, reach, halo_name)
        chosen = store.chosen_redshifts(redshifts)
        # Its samples would be drawn twice.
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
            cubes.append(CubeToDecode(tuple(fields), FieldToDecode(store, target, redshift)))
    return store_of_cube, cubes


def _check_names(inputs: Sequence[str], target: str, redshifts: Sequence[float] | None) -> None:
    # A string is a sequence of names of one letter each, so its error would name none of these.
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
