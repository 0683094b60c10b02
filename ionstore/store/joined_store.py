"""`JoinedStore`: a store with the fields of a second one beside its own."""

import os
from collections.abc import Callable
from typing import Self

from ionstore.cube.statistics import FieldStatistics
from ionstore.errors import StoreDamageError, StoreFormatError
from ionstore.storage.paths import StorePath
from ionstore.store.conversion import BlockConverter
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Corner, Layout


class JoinedStore(CubeStore):
    """A store to read from that also offers the fields of a second store of the same mesh.

    Name, path, redshifts and all else are those of the first. It is pickled as both paths.

    Parameters
    ----------
    store : CubeStore
        The first store.
    beside : CubeStore
        The second one, computed from the first; it may hold fewer redshifts.

    Raises
    ------
    StoreFormatError
        If their meshes differ, or a field is in both.
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
        """Open two complete stores and join them.

        Raises
        ------
        StoreFormatError
            As `CubeStore.open`, or if they do not go together.
        OSError
            If their metadata cannot be read.
        """
        return cls(CubeStore.open(path), CubeStore.open(beside))

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[str, ...]]:
        return type(self).open_both, (str(self.path), str(self._second.path))

    def __repr__(self) -> str:
        return f"JoinedStore({self._first!r}, {self._second!r})"

    def statistics(self, field: str, redshift: float) -> FieldStatistics:
        """Return the statistics of the stored values of a field at a redshift.

        Raises
        ------
        NotInStoreError
            If there is no such field or redshift.
        """
        return self._holder(field).statistics(field, redshift)

    def shard_path(self, field: str, redshift_index: int, shard: Corner) -> StorePath:
        """Return the file or the object that holds a shard of a field."""
        holder = self._holder(field)
        index = holder.redshift_index(self.redshifts[redshift_index])
        return holder.shard_path(field, index, shard)

    def _holder(self, field: str) -> CubeStore:
        return self._second if field in self._second.field_names else self._first

    def _decode(
        self, field: str, redshift: float, start: Corner, shape: Corner, converter: BlockConverter
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
