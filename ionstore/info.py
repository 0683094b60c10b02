"""`Inventory`: what a store holds and how much space it takes, to be shown or parsed."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer

from ionstore.cube.cosmology import Cosmology
from ionstore.cube.statistics import FieldStatistics
from ionstore.cube.units import Frame
from ionstore.storage.paths import StorePath, bytes_below
from ionstore.store.cube_store import CubeStore
from ionstore.store.metadata import SourceFile


class FieldInventory(BaseModel):
    """One field of a store.

    Parameters
    ----------
    dtype : str
        Dtype as stored.
    units : str
        CF units, "1" when dimensionless, "unknown" when not known.
    long_name : str
        Name for people.
    statistics : tuple of FieldStatistics
        At each redshift, in the order of the redshifts.
    uncompressed_bytes : int
        Bytes of all values.
    stored_bytes : int
        Bytes on disk.
    """

    model_config = ConfigDict(frozen=True)

    dtype: str
    units: str
    long_name: str
    statistics: tuple[FieldStatistics, ...]
    uncompressed_bytes: int
    stored_bytes: int

    @property
    def ratio(self) -> float:
        """Uncompressed bytes per byte on disk."""
        return self.uncompressed_bytes / max(self.stored_bytes, 1)


class Inventory(BaseModel):
    """What a store holds.

    Parameters
    ----------
    path : Path or ObjectPath
        Where the store lies.
    uuid : str
        Name of the store for good.
    format_version : int
        Version of the store format.
    mesh_cells : int
        Cells along a side of the mesh.
    chunk_cells, shard_cells : int
        Cells along a side of a chunk and of a shard.
    box_length_cmpc, cell_size_cmpc : float, optional
        Comoving sides of the box and of a cell in cMpc; None while unknown.
    cosmology : Cosmology, optional
        Cosmology of the simulation.
    n_box, grid_mass_msun : optional
        What grid masses were converted with, as in `ionstore.store.metadata.StoreAttributes`.
    density_frame : {"proper", "comoving", "unknown"}
        Frame of the gas density.
    redshifts : tuple of float
        Redshifts, descending.
    fields : mapping of str to FieldInventory
        The fields.
    n_clipped, n_zeros : mapping of str to tuple of int
        Cells clipped and cells that are zero, as in `ionstore.store.metadata.StoreAttributes`.
    sources : tuple of SourceFile
        Files that the store was made from.
    versions : mapping of str to str
        Software that wrote the store.
    command_line : str, optional
        Command that wrote the store, the last one where redshifts were added.
    earlier_command_lines : tuple of str
        Commands that wrote what it took over, in their order.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    path: Annotated[StorePath, PlainSerializer(str, return_type=str, when_used="json")]
    uuid: str
    format_version: int
    mesh_cells: int
    chunk_cells: int
    shard_cells: int
    box_length_cmpc: float | None
    cell_size_cmpc: float | None
    cosmology: Cosmology | None
    n_box: int | None = None
    grid_mass_msun: float | None = None
    density_frame: Frame
    redshifts: tuple[float, ...]
    fields: Mapping[str, FieldInventory]
    n_clipped: Mapping[str, tuple[int, ...]]
    n_zeros: Mapping[str, tuple[int, ...]]
    sources: tuple[SourceFile, ...]
    versions: Mapping[str, str]
    command_line: str | None
    earlier_command_lines: tuple[str, ...] = ()

    @property
    def uncompressed_bytes(self) -> int:
        """Bytes of all values of all fields."""
        return sum(field.uncompressed_bytes for field in self.fields.values())

    @property
    def stored_bytes(self) -> int:
        """Bytes of all fields on disk."""
        return sum(field.stored_bytes for field in self.fields.values())

    @property
    def ratio(self) -> float:
        """Uncompressed bytes per byte on disk."""
        return self.uncompressed_bytes / max(self.stored_bytes, 1)


def take_inventory(store: CubeStore) -> Inventory:
    """Return what a store holds, from its metadata and the sizes of its files."""
    mesh = store.mesh
    fields = {
        name: FieldInventory(
            dtype=str(store.dtype(name)),
            units=store.units(name),
            long_name=store.long_name(name),
            statistics=tuple(store.statistics(name, redshift) for redshift in store.redshifts),
            uncompressed_bytes=mesh.n_cells * len(store.redshifts) * store.dtype(name).itemsize,
            stored_bytes=bytes_below(store.path / name),
        )
        for name in store.field_names
    }
    return Inventory(
        path=store.path,
        uuid=store.uuid,
        format_version=store.attributes.format_version,
        mesh_cells=mesh.cells_per_side,
        chunk_cells=store.layout.chunk_cells,
        shard_cells=store.layout.shard_cells,
        box_length_cmpc=mesh.box_length_cmpc,
        cell_size_cmpc=mesh.cell_size_cmpc,
        cosmology=store.cosmology,
        n_box=store.attributes.n_box,
        grid_mass_msun=store.attributes.grid_mass_msun,
        density_frame=store.frame,
        redshifts=store.redshifts,
        fields=fields,
        n_clipped=store.attributes.n_clipped,
        n_zeros=store.attributes.n_zeros,
        sources=store.attributes.sources,
        versions=store.attributes.versions,
        command_line=store.attributes.command_line,
        earlier_command_lines=store.attributes.earlier_command_lines,
    )
