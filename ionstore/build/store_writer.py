"""`StoreWriter`: makes a store; readers refuse it until it is finalized."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from ionstore.build.shard_writer import Encoding, ShardWriter
from ionstore.cube.cosmology import Cosmology
from ionstore.cube.fields import FIELDS
from ionstore.cube.mesh import Array, Mesh
from ionstore.cube.statistics import FieldStatistics
from ionstore.cube.units import Frame
from ionstore.storage.files import sync
from ionstore.store.codecs import Compression, chunk_codecs, default_compression, stored_compression
from ionstore.store.cube_store import DIMENSIONS, layout_of
from ionstore.store.layout import Layout, plan_layout
from ionstore.store.metadata import (
    ATTRIBUTE,
    ROOT_METADATA,
    SourceFile,
    StoreAttributes,
    parse_attributes,
    read_root_metadata,
    software_versions,
)

if TYPE_CHECKING:
    import zarr


@dataclass(frozen=True, slots=True)
class StoredField:
    """A field as it is stored."""

    name: str  # one of `ionstore.cube.fields.FIELDS`, unless `long_name` is given
    dtype: str  # "float32", "uint8" or "uint16"
    units: str  # CF units, or "unknown"
    frame: Frame | None = None  # of a density
    keep_bits: int | None = None  # bits of the mantissa that the values were rounded to
    long_name: str | None = None  # CF; that of the field by default

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype as NumPy knows it."""
        dtype: np.dtype[Any] = np.dtype(self.dtype)
        return dtype

    def cf_attributes(self) -> dict[str, Any]:
        """Return the attributes of the array, without those that do not apply."""
        known = FIELDS.get(self.name)
        attributes = {
            "units": self.units,
            "long_name": self.long_name or FIELDS[self.name].long_name,
            "standard_name": known and known.standard_name,
            "frame": self.frame,
            "keep_bits": self.keep_bits,
        }
        return {key: value for key, value in attributes.items() if value is not None}


@dataclass(frozen=True, slots=True)
class StoreOrigin:
    """The simulation, files and commands that a store is made from."""

    # Builds record the identifier before there is a store, so they give their own.
    uuid: str = field(default_factory=lambda: str(uuid4()))
    cosmology: Cosmology | None = None
    n_box: int | None = None  # cells along a side of the finest mesh of the N-body run
    grid_mass_msun: float | None = None
    sources: tuple[SourceFile, ...] = ()
    command_line: str | None = None
    earlier_command_lines: tuple[str, ...] = ()  # of ingests that this one appends to


class StoreWriter:
    """A store that is being built, from its metadata until it is marked complete."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.attributes = parse_attributes(path, read_root_metadata(path))

    # Pickled as its path alone: the attributes are read again where it arrives.
    def __reduce__(self) -> tuple[type["StoreWriter"], tuple[Path]]:
        return type(self), (self.path,)

    @cached_property
    def shards(self) -> ShardWriter:
        """Writer of the shards of its fields."""
        arrays = {
            path.parent.name: json.loads(path.read_bytes())
            for path in sorted(self.path.glob(f"*/{ROOT_METADATA}"))
        }
        metadata = {
            name: array
            for name, array in arrays.items()
            if tuple(array["dimension_names"]) == DIMENSIONS
        }
        encodings = {
            name: Encoding(np.dtype(array["data_type"]), stored_compression(array))
            for name, array in metadata.items()
        }
        return ShardWriter(self.path, layout_of(next(iter(metadata.values()))), encodings)

    def finalize(
        self,
        statistics: Mapping[str, Sequence[FieldStatistics]],
        *,
        n_clipped: Mapping[str, Sequence[int]] | None = None,
        n_zeros: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Mark the store complete; all blocks must have been written."""
        complete = self.attributes.model_copy(
            update={
                "status": "complete",
                "statistics": {name: tuple(values) for name, values in statistics.items()},
                "n_clipped": {name: tuple(counts) for name, counts in (n_clipped or {}).items()},
                "n_zeros": {name: tuple(counts) for name, counts in (n_zeros or {}).items()},
            }
        )
        write_attributes(self.path, complete)
        self.attributes = complete


def create_store(
    path: str | os.PathLike[str],
    mesh: Mesh,
    redshifts: Sequence[float],
    fields: Sequence[StoredField],
    origin: StoreOrigin | None = None,
    *,
    layout: Layout | None = None,
    compression: Mapping[str, Compression] | None = None,
) -> StoreWriter:
    """Create a store with status ``building``: metadata and coordinates, no values yet."""
    import zarr

    if not fields:
        raise ValueError("fields must name at least one field, got none")
    if list(redshifts) != sorted(set(redshifts), reverse=True) or not redshifts:
        raise ValueError(f"redshifts must be descending, without repeats, got {list(redshifts)}")
    folder = Path(path)
    folder.mkdir(parents=True)
    layout = layout or plan_layout(mesh.cells_per_side)
    origin = origin or StoreOrigin()
    attributes = StoreAttributes(
        uuid=origin.uuid,
        status="building",
        redshifts=tuple(float(redshift) for redshift in redshifts),
        box_length_cmpc=mesh.box_length_cmpc,
        cosmology=origin.cosmology,
        n_box=origin.n_box,
        grid_mass_msun=origin.grid_mass_msun,
        sources=origin.sources,
        versions=software_versions(),
        command_line=origin.command_line,
        earlier_command_lines=origin.earlier_command_lines,
    )
    group = zarr.create_group(
        folder, zarr_format=3, attributes={ATTRIBUTE: attributes.model_dump(mode="json")}
    )
    for stored in fields:
        dtype = stored.numpy_dtype
        settings = (compression or {}).get(stored.name) or default_compression(dtype)
        group.create_array(
            stored.name,
            shape=(len(redshifts), *mesh.shape),
            dtype=dtype,
            chunks=(1, *(layout.chunk_cells,) * 3),
            shards=(1, *(layout.shard_cells,) * 3),
            compressors=chunk_codecs(settings, dtype),
            fill_value=np.nan if dtype.kind == "f" else 0,
            dimension_names=DIMENSIONS,
            attributes=stored.cf_attributes(),
        )
    redshift_attributes = {"units": "1", "long_name": "redshift"}
    _write_coordinate(group, "redshift", np.array(redshifts, np.float64), redshift_attributes)
    write_cell_centers(group, mesh)
    return StoreWriter(folder)


def write_cell_centers(group: "zarr.Group", mesh: Mesh) -> None:
    """Write the coordinates x, y, z: cell centers in cMpc, or in cells without a box length."""
    for axis in DIMENSIONS[1:]:
        names = {
            "units": mesh.length_units,
            "long_name": f"comoving position along {axis}",
            "axis": axis.upper(),
        }
        _write_coordinate(group, axis, mesh.cell_centers(), names)


def write_attributes(path: Path, attributes: StoreAttributes) -> None:
    """Write what a store says about itself, and consolidate the metadata of its arrays."""
    import zarr
    from zarr.errors import ZarrUserWarning

    group = zarr.open_group(path, mode="r+", zarr_format=3, use_consolidated=False)
    group.attrs[ATTRIBUTE] = attributes.model_dump(mode="json")
    with warnings.catch_warnings():
        # Zarr warns that v3 does not specify these yet, but xarray looks for them first.
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(path, zarr_format=3)
    sync(path / "zarr.json")


def _write_coordinate(
    group: "zarr.Group", name: str, values: Array, attributes: Mapping[str, str]
) -> None:
    from zarr.codecs import Crc32cCodec

    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=values.shape,
        compressors=[Crc32cCodec()],
        fill_value=np.nan,
        dimension_names=(name,),
        attributes=dict(attributes),
        overwrite=True,
        config={"write_empty_chunks": True},
    )
    array[:] = values
