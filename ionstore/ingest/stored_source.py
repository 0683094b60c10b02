"""A field of a store as the source of another."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ionstore.cube.mesh import Array, Corner
from ionstore.readers.base import FieldSource
from ionstore.storage.files import OnBytes
from ionstore.store.cube_store import CubeStore


class StoredSource(FieldSource):
    """The values of a field at a redshift of a store, read block by block.

    Parameters
    ----------
    store : CubeStore
        Where they are stored.
    field : str
        Name of the field.
    redshift : float
        Redshift, matched within 0.0005.

    Raises
    ------
    NotInStoreError
        If the store does not hold them.
    """

    def __init__(self, store: CubeStore, field: str, redshift: float) -> None:
        self._store, self._field, self._redshift = store, field, redshift
        self.path = Path(store.path)
        self.shape = store.mesh.shape
        self.dtype: np.dtype[Any] = store.dtype(field)
        store.redshift_index(redshift)

    def stream(self, on_bytes: OnBytes) -> Iterator[Array]:
        """Not to be had: what a store says of its values need not be found out again."""
        raise NotImplementedError("take the statistics of the store")

    def read_block(self, start: Corner, shape: Corner) -> Array:
        """Return the values of a block.

        Raises
        ------
        StoreDamageError
            If bytes of the store are missing or damaged.
        OSError
            If they cannot be read.
        """
        return self._store.read_block(self._field, self._redshift, start, shape)
