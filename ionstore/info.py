"""`Inventory`: contents and sizes of a store, to print or to parse."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer

from ionstore.cube.cosmology import Cosmology
from ionstore.cube.statistics import FieldStatistics
from ionstore.cube.units import Frame
from ionstore.storage.paths import StorePath, bytes_below
from ionstore.store.cube_store import StoreLike, open_store
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
        Name for plots and tables.
    statistics : tuple of FieldStatistics
        One for each redshift, in the order of the store.
    uncompressed_bytes, stored_bytes : int
        Bytes of all values, and of the files that hold them.
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
        """Uncompressed bytes per stored byte."""
        return self.uncompressed_bytes / max(self.stored_bytes, 1)  # 0 if all files are missing


class Inventory(BaseModel):
    """Contents of a store.

    Parameters
    ----------
    path : Path or ObjectPath
        Folder or address of the store.
    uuid : str
        Permanent name of the store.
    format_version : int
        Version of the store format.
    mesh_cells : int
        Cells along a side of the mesh.
    chunk_cells, shard_cells : int
        Cells along a side of a chunk and of a shard.
    box_length_cmpc, cell_size_cmpc : float, optional
        Comoving sides of the box and of a cell, cMpc; None while unknown.
    cosmology : Cosmology, optional
        Cosmology of the simulation.
    n_box, grid_mass_msun : optional
        Cells along a side of the N-body mesh, and the grid mass in Msun, with which grid masses
        were converted.
    density_frame : {"proper", "comoving", "unknown"}
        Frame of the gas density.
    redshifts : tuple of float
        Redshifts, descending.
    fields : mapping of str to FieldInventory
        The fields.
    n_clipped, n_zeros : mapping of str to tuple of int
        Cells that were clipped into the range of the field or are zero, at each redshift.
    sources : tuple of SourceFile
        Files from which the store was made.
    versions : mapping of str to str
        Versions of the software that wrote the store.
    command_line : str, optional
        Last command that wrote or extended the store.
    earlier_command_lines : tuple of str
        The commands before it, oldest first.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    # A string in JSON; in Python a path that can be opened.
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
        """Stored bytes of all fields."""
        return sum(field.stored_bytes for field in self.fields.values())

    @property
    def ratio(self) -> float:
        """Uncompressed bytes per stored byte."""
        return self.uncompressed_bytes / max(self.stored_bytes, 1)  # 0 if all files are missing


def take_inventory(store: StoreLike) -> Inventory:
    """Return the contents of a store, from its metadata and the sizes of its files.

    Parameters
    ----------
    store : CubeStore, str or path-like
        The store, or its path.

    Raises
    ------
    StoreFormatError
        If a path holds no complete store.
    OSError
        If the store cannot be read.
    """
    store = open_store(store)
    mesh, said = store.mesh, store.attributes
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
        format_version=said.format_version,
        mesh_cells=mesh.cells_per_side,
        chunk_cells=store.layout.chunk_cells,
        shard_cells=store.layout.shard_cells,
        box_length_cmpc=mesh.box_length_cmpc,
        cell_size_cmpc=mesh.cell_size_cmpc,
        cosmology=store.cosmology,
        n_box=said.n_box,
        grid_mass_msun=said.grid_mass_msun,
        density_frame=store.frame,
        redshifts=store.redshifts,
        fields=fields,
        n_clipped=said.n_clipped,
        n_zeros=said.n_zeros,
        sources=said.sources,
        versions=said.versions,
        command_line=said.command_line,
        earlier_command_lines=said.earlier_command_lines,
    )
