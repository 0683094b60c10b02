"""`JoinedStore`: a store read together with a second one of fields derived from it."""

import os
from collections.abc import Callable
from typing import Self

from ionstore.cube.mesh import Corner
from ionstore.cube.statistics import FieldStatistics
from ionstore.errors import StoreDamageError, StoreFormatError
from ionstore.storage.paths import StorePath
from ionstore.store.conversion import BlockWriter
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Layout


class JoinedStore(CubeStore):
    """A store that also offers the fields of a second one, computed from it on the same mesh.

    Name, path, redshifts and all else are those of the first; the second may hold fewer redshifts.
    """

    def __init__(self, store: CubeStore, beside: CubeStore) -> None:
        twice = sorted({*store.field_names} & {*beside.field_names})
        if store.mesh != beside.mesh or twice:
            raise StoreFormatError(
                f"{beside.path}: expected other fields on the mesh of {store.path}, "
                f"{store.mesh}, found {', '.join(twice) or beside.mesh}; remove it"
            )
        self.path, self.attributes, self.layout = store.path, store.attributes, store.layout
        self._first, self._second = store, beside
        self._metadata = {**store._metadata, **beside._metadata}

    @classmethod
    def open_both(cls, path: str | os.PathLike[str], beside: str | os.PathLike[str]) -> Self:
        """Open two complete stores and join them."""
        return cls(CubeStore.open(path), CubeStore.open(beside))

    # Pickled as both paths, so that worker processes open both for themselves.
    def __reduce__(self) -> tuple[Callable[..., Self], tuple[str, ...]]:
        return type(self).open_both, (str(self.path), str(self._second.path))

    def __repr__(self) -> str:
        return f"JoinedStore({self._first!r}, {self._second!r})"

    def statistics(self, field: str, redshift: float) -> FieldStatistics:
        """Return the statistics of the stored values of a field at a redshift."""
        return self._holder(field).statistics(field, redshift)

    def shard_path(self, field: str, redshift_index: int, shard: Corner) -> StorePath:
        """Return the file or the object that holds a shard of a field."""
        holder = self._holder(field)
        index = holder.redshift_index(self.redshifts[redshift_index])
        return holder.shard_path(field, index, shard)

    def _holder(self, field: str) -> CubeStore:
        return self._second if field in self._second.field_names else self._first

    def _decode(
        self, field: str, redshift: float, start: Corner, shape: Corner, converter: BlockWriter
    ) -> int:
        holder = self._holder(field)
        try:
            return holder._decode(field, redshift, start, shape, converter)
        except StoreDamageError as error:
            if holder is self._first:
                raise
            raise StoreDamageError(
                f"{holder.path}: {field} is damaged; remove this store of derived fields and run "
                "the same command again, which computes it anew"
            ) from error

    def _field_layout(self, field: str) -> Layout:
        return self._holder(field)._field_layout(field)
