"""`CubeStore`: the coeval cubes of one simulation in one chunked, compressed Zarr group."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Self, cast

import numpy as np

from ionstore.cube.cosmology import Cosmology
from ionstore.cube.fields import FIELDS
from ionstore.cube.mesh import REDSHIFT_TOLERANCE, Array, Corner, Mesh, check_region
from ionstore.cube.statistics import FieldStatistics
from ionstore.cube.units import Frame
from ionstore.errors import NotInStoreError, StoreFormatError
from ionstore.storage.paths import StorePath, parse_place
from ionstore.storage.s3 import ObjectPath
from ionstore.store.block_plan import plan_block
from ionstore.store.codecs import Compression, check_storage, stored_compression
from ionstore.store.conversion import AS_STORED, Block, BlockWriter, ValueMap
from ionstore.store.layout import Layout
from ionstore.store.metadata import (
    how_to_finish,
    parse_attributes,
    partial_folder,
    read_root_metadata,
)
from ionstore.store.shard_index import ShardIndexes
from ionstore.store.shards import read_chunks

DIMENSIONS = ("redshift", "x", "y", "z")


class CubeStore:
    """A store of coeval cubes on one periodic mesh; `CubeStore.open` opens one.

    Opening reads one small file. Every method that takes a field or a redshift raises
    NotInStoreError if the store does not hold it; redshifts are matched within 0.0005.

    Notes
    -----
    Threads may read at the same time, different blocks or the same. A store is pickled as its
    path, so that worker processes open it for themselves.
    """

    def __init__(self, path: StorePath, root: Mapping[str, Any]) -> None:
        self.path = path
        self.attributes = parse_attributes(path, root)
        self._indexes = ShardIndexes()
        self._layouts: dict[str, Layout] = {}
        try:
            members = root["consolidated_metadata"]["metadata"]
            self._metadata = {
                name: array
                for name, array in members.items()
                if tuple(array.get("dimension_names") or ()) == DIMENSIONS
            }
            self.layout = layout_of(next(iter(self._metadata.values())))
        except (KeyError, TypeError, IndexError, StopIteration, ValueError) as error:
            raise StoreFormatError(
                f"{path}: expected consolidated metadata of at least one field, found none; "
                "ingest the simulation again"
            ) from error

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a complete store for reading.

        Parameters
        ----------
        path : str or path-like
            Folder of the store, or ``s3://bucket/key``.

        Raises
        ------
        StoreFormatError
            If there is no store, it is still being built, its format is newer than this one, or
            its metadata are damaged.
        OSError
            If its metadata cannot be read.
        """
        place = parse_place(path)
        root = read_root_metadata(place)
        if parse_attributes(place, root).status != "complete":
            building = partial_folder(place) if isinstance(place, ObjectPath) else place.parent
            raise StoreFormatError(
                f"{place}: this store is still being built; {how_to_finish(building)} to finish it"
            )
        return cls(place, root)

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[str, ...]]:
        return type(self).open, (str(self.path),)

    def __repr__(self) -> str:
        return f"CubeStore({str(self.path)!r})"

    @property
    def uuid(self) -> str:
        """Identifier of the store, which moving or renaming it does not change."""
        return self.attributes.uuid

    @property
    def mesh(self) -> Mesh:
        """Mesh of all fields; its box length is None while unknown."""
        return Mesh(self.layout.mesh_cells, self.attributes.box_length_cmpc)

    @property
    def redshifts(self) -> tuple[float, ...]:
        """Redshifts, descending: the order of cosmic time."""
        return self.attributes.redshifts

    @property
    def cosmology(self) -> Cosmology | None:
        """Cosmology of the simulation, None while unknown."""
        return self.attributes.cosmology

    @cached_property
    def field_names(self) -> tuple[str, ...]:
        """Fields of the store, required ones first."""
        known = [name for name in FIELDS if name in self._metadata]
        return (*known, *sorted(set(self._metadata) - set(known)))

    def units(self, field: str) -> str:
        """Return the CF units of a field: "1" when dimensionless, "unknown" when not known."""
        return str(self._field(field)["attributes"]["units"])

    def long_name(self, field: str) -> str:
        """Return the CF long name of a field, for figures and tables."""
        return str(self._field(field)["attributes"]["long_name"])

    def dtype(self, field: str) -> np.dtype[Any]:
        """Return the dtype in which a field is stored."""
        dtype: np.dtype[Any] = np.dtype(self._field(field)["data_type"])
        return dtype

    def keep_bits(self, field: str) -> int | None:
        """Return the bits of the mantissa that a field was rounded to, None if it was not."""
        return cast(int | None, self._field(field)["attributes"].get("keep_bits"))

    def compression(self, field: str) -> Compression:
        """Return the settings with which a field is compressed."""
        self._field_layout(field)
        return stored_compression(self._field(field))

    @property
    def frame(self) -> Frame:
        """Frame of the gas density: proper, comoving or unknown."""
        attributes = self._metadata.get("n_igm", {}).get("attributes", {})
        return cast(Frame, attributes.get("frame", "unknown"))

    def statistics(self, field: str, redshift: float) -> FieldStatistics:
        """Return the statistics of the stored values of a field at a redshift."""
        self._field(field)
        return self.attributes.statistics[field][self.redshift_index(redshift)]

    def redshift_index(self, redshift: float) -> int:
        """Return the index of a redshift in `redshifts`."""
        for index, stored in enumerate(self.redshifts):
            if abs(stored - redshift) <= REDSHIFT_TOLERANCE:
                return index
        there = ", ".join(f"{stored:g}" for stored in self.redshifts)
        raise NotInStoreError(
            f"redshift must be one of {there} (those of {self.path.name}), got {redshift:g}"
        )

    def chosen_redshifts(self, wanted: Sequence[float] | None = None) -> tuple[float, ...]:
        """Return the redshifts asked for, as the store has them; all where none are given."""
        if wanted is None or not len(wanted):  # `or` would refuse NumPy arrays
            return self.redshifts
        return tuple(self.redshifts[self.redshift_index(redshift)] for redshift in wanted)

    def read_field(self, field: str, redshift: float) -> Array:
        """Return a field at a redshift, shape (nx, ny, nz), in its stored dtype.

        Raises
        ------
        StoreFormatError, StoreDamageError, OSError
            As `read_block`.
        """
        return self.read_block(field, redshift, (0, 0, 0), self.mesh.shape)

    def read_block(self, field: str, redshift: float, start: Corner, shape: Corner) -> Array:
        """Return a block of a field at a redshift; only the chunks it touches are read.

        Parameters
        ----------
        field : str
            Name of the field.
        redshift : float
            Redshift of the cube.
        start : tuple of three int
            First cell (i, j, k).
        shape : tuple of three int
            Cells along each axis.

        Returns
        -------
        ndarray
            In the stored dtype and unit, C-contiguous.

        Raises
        ------
        ValueError
            If the block leaves the mesh: blocks do not wrap.
        StoreFormatError
            If the field is not stored as this format says.
        StoreDamageError
            If a shard or a chunk is missing, or a checksum does not match.
        OSError
            If a file cannot be read.
        """
        self._field_layout(field)
        check_region(start, shape, self.mesh.cells_per_side)
        block: Array = np.empty(shape, self.dtype(field))
        self._decode(field, redshift, start, shape, BlockWriter(block.dtype, block, AS_STORED))
        return block

    def read_into(
        self,
        field: str,
        redshift: float,
        start: Corner,
        out: Block,
        *,
        conversion: ValueMap = AS_STORED,
    ) -> int:
        """Fill an array with a block of a field; only the chunks it touches are read.

        Parameters
        ----------
        field : str
            Name of the field.
        redshift : float
            Redshift of the cube.
        start : tuple of three int
            First cell (i, j, k).
        out : ndarray of float32, shape (a, b, c)
            Filled with the block of its shape; its last axis must be contiguous, its other
            strides may be any.
        conversion : ValueMap, optional
            How a stored value becomes a float32; by default it is only rounded to one.

        Returns
        -------
        int
            Cells decoded, which are those of whole chunks.

        Raises
        ------
        ValueError
            If the block leaves the mesh or `out` is not as stated.
        StoreFormatError, StoreDamageError, OSError
            As `read_block`; `out` may then be filled in part.
        """
        self._field_layout(field)
        converter = BlockWriter(self.dtype(field), out, conversion)
        return self._decode(field, redshift, start, out.shape, converter)

    def shard_path(self, field: str, redshift_index: int, shard: Corner) -> StorePath:
        """Return the file or object that holds a shard of a field."""
        return self.path.joinpath(field, "c", str(redshift_index), *map(str, shard))

    def _field(self, field: str) -> Mapping[str, Any]:
        try:
            return cast(Mapping[str, Any], self._metadata[field])
        except KeyError:
            there = ", ".join(self.field_names)
            raise NotInStoreError(
                f"field must be one of {there} (those of {self.path.name}), got {field}"
            ) from None

    def _decode(
        self, field: str, redshift: float, start: Corner, shape: Corner, converter: BlockWriter
    ) -> int:
        layout, dtype = self._field_layout(field), self.dtype(field)
        check_region(start, shape, layout.mesh_cells)
        index = self.redshift_index(redshift)
        parts = plan_block(layout, start, shape)
        read_chunks(
            partial(self.shard_path, field, index),
            parts,
            converter.place,
            layout=layout,
            dtype=dtype,
            indexes=self._indexes,
        )
        return sum(part.n_chunks for part in parts) * layout.chunk_cells**3

    def _field_layout(self, field: str) -> Layout:
        """Return how a field is cut into chunks; raise StoreFormatError if they cannot be read."""
        if field not in self._layouts:
            check_storage(self.path / field, self._field(field))
            self._layouts[field] = layout_of(self._field(field))
        return self._layouts[field]


def layout_of(metadata: Mapping[str, Any]) -> Layout:
    """Return how a field is cut into chunks and shards, from the metadata of its array."""
    shard = metadata["chunk_grid"]["configuration"]["chunk_shape"][1]
    chunk = metadata["codecs"][0]["configuration"]["chunk_shape"][1]
    return Layout(metadata["shape"][1], chunk, shard)


StoreLike = CubeStore | str | os.PathLike[str]
"""A store, or its path."""


def open_store(store: StoreLike) -> CubeStore:
    """Return a store, opened if it is a path."""
    return store if isinstance(store, CubeStore) else CubeStore.open(store)


def open_stores(store: StoreLike | Sequence[StoreLike]) -> list[CubeStore]:
    """Return one store or several, opened where they are paths."""
    stores = [store] if isinstance(store, str | os.PathLike | CubeStore) else list(store)
    if not stores:
        raise ValueError("store must name at least one store, got none")
    return [open_store(one) for one in stores]
