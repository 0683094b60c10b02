"""Coeval cubes decoded once into memory that all workers share."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ionstore.cube import Cells, Fields, Neighborhoods
from ionstore.errors import MemoryBudgetError
from ionstore.neighborhoods import gather_neighborhoods
from ionstore.normalize import Normalization
from ionstore.shared import SharedBuffer
from ionstore.store import CubeStore

_PLANES = 32  # decoded at a time, so that little stands beside the resident fields themselves


@dataclass(frozen=True, slots=True)
class Cube:
    """One coeval cube of a store.

    Parameters
    ----------
    store_index : int
        Place of the store among those opened together.
    redshift : float
        Redshift of the cube, one of its store's.
    """

    store_index: int
    redshift: float


class ResidentFields:
    """Input and target fields of several cubes, whole, in one shared copy.

    Sent to a worker process, an instance refers to the same memory there.

    Parameters
    ----------
    stores : sequence of CubeStore
        Stores that the cubes belong to.
    cubes : sequence of Cube
        Cubes to decode.
    inputs : sequence of str
        Names of the input fields.
    target : str
        Name of the target field.
    normalization : Normalization, optional
        Applied to the inputs while they are decoded; the target keeps its unit.
    memory_budget_bytes : int
        Refused beyond this.

    Raises
    ------
    MemoryBudgetError
        If the fields do not fit the budget.
    """

    def __init__(
        self,
        stores: Sequence[CubeStore],
        cubes: Sequence[Cube],
        *,
        inputs: Sequence[str],
        target: str,
        normalization: Normalization | None,
        memory_budget_bytes: int,
    ) -> None:
        self.n_channels = len(inputs)
        self._cells = [stores[cube.store_index].mesh.cells_per_side for cube in cubes]
        names = (*inputs, target)
        self.n_bytes = sum(4 * len(names) * n**3 for n in self._cells)
        if self.n_bytes > memory_budget_bytes:
            raise MemoryBudgetError(
                f"{len(names)} fields of {len(cubes)} cubes take {self.n_bytes / 1e6:.0f} MB of "
                f"memory, memory_budget leaves {memory_budget_bytes / 1e6:.0f} MB for them; "
                f"raise memory_budget or choose fewer redshifts"
            )
        self._shared = SharedBuffer(self.n_bytes)
        for index, cube in enumerate(cubes):
            fields = self._fields(index)
            store = stores[cube.store_index]
            for channel, name in enumerate(names):
                applied = normalization if channel < self.n_channels else None
                _decode(store, name, cube.redshift, applied, fields[channel])

    def gather(self, cube_index: int, centers: Cells, radius: int, out: Neighborhoods) -> None:
        """Fill ``out`` with the inputs' neighborhoods of cells of one cube."""
        inputs = self._fields(cube_index)[: self.n_channels]
        gather_neighborhoods(inputs, centers, radius, out=out)

    def targets(self, cube_index: int, centers: Cells) -> Fields:
        """Return the target field at cells of one cube, float32 of shape (n,)."""
        target = self._fields(cube_index)[self.n_channels]
        i, j, k = (centers % self._cells[cube_index]).T
        values: Fields = target[i, j, k]
        return values

    def _fields(self, cube_index: int) -> Fields:
        before = sum(4 * (self.n_channels + 1) * n**3 for n in self._cells[:cube_index])
        shape = (self.n_channels + 1, *(self._cells[cube_index],) * 3)
        return self._shared.array(shape, np.float32, before)


def _decode(
    store: CubeStore,
    name: str,
    redshift: float,
    normalization: Normalization | None,
    out: Fields,
) -> None:
    n = store.mesh.cells_per_side
    for first in range(0, n, _PLANES):
        block = store.read_block(name, redshift, (first, 0, 0), (min(_PLANES, n - first), n, n))
        if normalization is not None:
            block = normalization.apply(store, name, redshift, block)
        out[first : first + len(block)] = block
