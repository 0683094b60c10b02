"""`ObjectWriter`: puts the shards of a store into an object store, each as one object."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ionstore.conversion import AS_STORED, BlockConverter, slices
from ionstore.cube import Array
from ionstore.layout import Corner, Layout
from ionstore.objects import ObjectPath
from ionstore.shards import ShardIndexes, plan_block, read_chunks

if TYPE_CHECKING:
    import zarr


@dataclass(frozen=True, slots=True)
class ObjectWriter:
    """Writes the blocks of a store that is being built below a key.

    Parameters
    ----------
    place : ObjectPath
        Key of the store.
    layout : Layout
        Chunks and shards of all fields.
    metadata : mapping of str to bytes
        For every field the metadata of its Zarr array.

    Notes
    -----
    Light, and pickled for other processes. A shard that is written twice is the same object.
    """

    place: ObjectPath
    layout: Layout
    metadata: Mapping[str, bytes]

    def write_block(
        self, field: str, redshift_index: int, start: Corner, values: Array
    ) -> ObjectPath:
        """Encode one whole shard of a field in memory and put it.

        Parameters
        ----------
        field : str
            Name of the field.
        redshift_index : int
            Place of the redshift.
        start : tuple of three int
            First cell (i, j, k) of the shard.
        values : ndarray
            Values of all cells of the shard that lie on the mesh, in the stored dtype.

        Returns
        -------
        ObjectPath
            Key of the shard.

        Raises
        ------
        ValueError
            If the block is not one whole shard, or its dtype is not the stored one.
        ObjectStoreError
            If the object store does not take it.

        Notes
        -----
        Memory: the encoded shard beside its values.
        """
        kept: dict[str, Any] = {}
        array = _array_in_memory(self.metadata[field], kept)
        if values.dtype != array.dtype:
            raise ValueError(f"values must be {array.dtype} for {field}, got {values.dtype}")
        i, j, k = values.shape
        shard = self.layout.shard_of_region(start, (i, j, k))
        array[(redshift_index, *slices(start, (i, j, k)))] = values
        path = self._shard_path(field, redshift_index, shard)
        path.write_bytes(kept["/".join(("c", str(redshift_index), *map(str, shard)))].to_bytes())
        return path

    def read_block(self, field: str, redshift_index: int, start: Corner, shape: Corner) -> Array:
        """Return a block as it was put, read and decoded as loaders do it.

        Raises
        ------
        StoreDamageError
            If it cannot be decoded.
        ObjectStoreError
            If the object store does not answer.
        """
        block: Array = np.empty(shape, _array_in_memory(self.metadata[field], {}).dtype)
        read_chunks(
            lambda shard: self._shard_path(field, redshift_index, shard),
            plan_block(self.layout, start, shape),
            BlockConverter(block.dtype, block, AS_STORED).place,
            layout=self.layout,
            dtype=block.dtype,
            indexes=ShardIndexes(),
        )
        return block

    def _shard_path(self, field: str, redshift_index: int, shard: Corner) -> ObjectPath:
        return self.place.joinpath(field, "c", str(redshift_index), *map(str, shard))


def _array_in_memory(metadata: bytes, kept: dict[str, Any]) -> "zarr.Array[Any]":
    """Return an array without values, whose shards will be kept in a mapping."""
    import zarr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    kept["zarr.json"] = default_buffer_prototype().buffer.from_bytes(metadata)
    array = zarr.open_array(MemoryStore(kept), mode="r+", zarr_format=3)
    # All-zero chunks too: see `ionstore.store_writer.StoreWriter`.
    return array.with_config({"write_empty_chunks": True})
