"""Decode coeval cubes once, whole, into memory that all workers share."""

from collections.abc import Iterator, Sequence

import numpy as np

from ionstore.cube.mesh import Fields
from ionstore.loading.cubes import CubeToDecode, FieldToDecode
from ionstore.loading.gather import Blocks, Run
from ionstore.loading.shared_memory import allocate
from ionstore.sampling.batches import Picked
from ionstore.threads import run_in_threads

_PLANES = 32  # decoded at a time: whole chunks in the default layout, so that none is decoded twice


class ResidentFields:
    """Input and target fields of several cubes, whole.

    Sent to a worker process, an instance refers to the same memory there.
    """

    def __init__(self, cubes: Sequence[CubeToDecode], *, shared: bool) -> None:
        self._n_channels = len(cubes[0].inputs)
        self._cells = np.array([cube.mesh_cells for cube in cubes], dtype=np.int64)
        n_values = (self._n_channels + 1) * self._cells**3
        self._first = np.cumsum(n_values) - n_values
        self._shapes = np.repeat(self._cells[:, None], 3, axis=1)
        self._buffer = allocate(resident_bytes(cubes), shared=shared)
        # Slabs rather than fields, so that all threads have work to the end, even for one cube.
        slabs = [
            (field, out[first : first + _PLANES], first)
            for index, cube in enumerate(cubes)
            for field, out in zip((*cube.inputs, cube.target), self._fields(index), strict=True)
            for first in range(0, cube.mesh_cells, _PLANES)
        ]
        run_in_threads(_decode_slab, slabs)

    def runs(self, batch: int, picked: Picked) -> Iterator[Run]:
        """Yield all samples of a batch at once: everything is there."""
        yield Run(slice(None), picked.cube, self._blocks(0), self._blocks(self._n_channels))

    def _blocks(self, channel: int) -> Blocks:
        memory = self._buffer.array((self._buffer.n_bytes // 4,), np.float32)
        offsets = self._first + channel * self._cells**3
        return Blocks(memory, offsets, self._shapes, np.zeros_like(self._shapes))

    def _fields(self, index: int) -> Fields:
        n = int(self._cells[index])
        shape = (self._n_channels + 1, n, n, n)
        return self._buffer.array(shape, np.float32, 4 * int(self._first[index]))


def resident_bytes(cubes: Sequence[CubeToDecode]) -> int:
    """Return the memory that `ResidentFields` of cubes take: 4 bytes a cell and field."""
    return sum(4 * (len(cube.inputs) + 1) * cube.mesh_cells**3 for cube in cubes)


def _decode_slab(slab: tuple[FieldToDecode, Fields, int]) -> None:
    field, out, first = slab
    field.store.read_into(
        field.name, field.redshift, (first, 0, 0), out, conversion=field.conversion
    )
