"""The contract of readers: which fields a file holds, and their values in blocks.

To add a format, write one file in ``readers/formats/`` with a class derived from `FileReader`, and
add it to `READERS` in ``readers/__init__.py``, where formats are tried in order. Its `inspect`
returns sources: take them from ``readers/arrays/`` (numbers of one array) and ``readers/points/``
(lists of sources), or derive your own from `FieldSource` or `PointList`. A sample in
``tests/support/format_files.py`` puts the format through the tests that all formats pass.

Errors mean the same everywhere: `SourceDataError` for a file that is damaged, incomplete or not as
its format requires, in one sentence that begins with its path and says how to go on; `OSError` for
a file that the system cannot read.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from ionstore.cube.cosmology import Cosmology
from ionstore.cube.mesh import Array, Cells, Corner
from ionstore.cube.units import KnownFrame
from ionstore.storage.files import OnBytes


class FieldSource(ABC):
    """The values of one field at one redshift, somewhere in a file.

    A source is small and can be pickled: it opens its file when values are asked for, and closes
    it again. Several threads may read from one source.

    Attributes
    ----------
    path : Path
        File that holds the values.
    shape : tuple of int
        Shape of the values, not necessarily that of a cube.
    dtype : numpy.dtype
        Dtype of the values in the file, byte order included.
    fortran_order : bool
        Whether the first index runs fastest in the file, and in what `stream` yields.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool = False

    @abstractmethod
    def stream(self, on_bytes: OnBytes) -> Iterator[Array]:
        """Yield all values once, in flat pieces that fit in memory.

        Parameters
        ----------
        on_bytes : callable
            Called with all bytes of the file in their order, for a digest of it.

        Raises
        ------
        SourceDataError
            If the file turns out to be damaged, or has become too short.
        OSError
            If it cannot be read.
        """

    @abstractmethod
    def read_block(self, start: Corner, shape: Corner) -> Array:
        """Return the values of a block, indexed [x, y, z] whatever the order in the file.

        Parameters
        ----------
        start : tuple of three int
            First cell of the block.
        shape : tuple of three int
            Cells along x, y, z; the block lies on the mesh.

        Returns
        -------
        ndarray
            New array of `dtype`, C-contiguous.

        Raises
        ------
        SourceDataError
            If the file is damaged, or has become too short.
        OSError
            If it cannot be read.
        NotImplementedError
            If blocks can only be read from a spool file, see `spool_bytes`.
        """

    @property
    def n_bytes(self) -> int:
        """Bytes of all values."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def spool_bytes(self) -> int:
        """Bytes of values to spool because blocks cannot be read from the file; 0 if they can."""
        return 0

    def from_spool(self, path: Path) -> "FieldSource":
        """Return a source of the same values whose blocks can be read.

        Parameters
        ----------
        path : Path
            File of `spool_bytes` bytes: all pieces of `stream`, one after the other.
        """
        return self

    def absolute(self) -> Self:
        """Return the same source, to be read from any working folder."""
        source = copy.copy(self)
        object.__setattr__(source, "path", self.path.absolute())  # most sources are frozen
        return source


@dataclass(frozen=True)
class SourceOfSource(FieldSource):
    """A source made of another one; all but `read_block` is taken from it, unless overridden."""

    source: FieldSource

    @property
    def path(self) -> Path:  # type: ignore[override]
        """File of the other source."""
        return self.source.path

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of its values."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        """Dtype of its values."""
        return self.source.dtype

    @property
    def fortran_order(self) -> bool:  # type: ignore[override]
        """Order of its values."""
        return self.source.fortran_order

    def stream(self, on_bytes: OnBytes) -> Iterator[Array]:
        """Yield its values."""
        return self.source.stream(on_bytes)

    def absolute(self) -> Self:
        """Return the same source, to be read from any working folder."""
        return replace(self, source=self.source.absolute())


class PointList(ABC):
    """Sources at positions, to be gridded onto a mesh that the file may not know.

    Small and can be pickled, as a `FieldSource`.

    Attributes
    ----------
    path : Path
        File that holds the list.
    """

    path: Path

    @abstractmethod
    def points(self, mesh_cells: int, on_bytes: OnBytes) -> Iterator[tuple[Cells, Array]]:
        """Yield all sources once, in pieces that fit in memory.

        Parameters
        ----------
        mesh_cells : int
            Cells along a side of the mesh.
        on_bytes : callable
            Called with all bytes of the file in their order, for a digest of it.

        Yields
        ------
        cells : ndarray of int64, shape (n, 3)
            Cell (i, j, k) of each source on the mesh, counted from 0.
        weights : ndarray of float64, shape (n,)
            Contribution of each to its cell: its mass, not negative, or 1.

        Raises
        ------
        SourceDataError
            If the file is damaged, or a source lies off the mesh.
        OSError
            If it cannot be read.
        """


Quantity = Literal[
    "density",
    "overdensity",
    "gas_grid_mass",
    "counts",
    "msun",
    "grid_mass",
    "sources",
    "ionized_fraction",
    "neutral_fraction",
    "as_is",
]
"""Physical meaning of the numbers in a file.

``density`` is a gas density in g/cm3 whose frame the file leaves open, ``gas_grid_mass`` and
``grid_mass`` masses in units of the mean mass of a fine N-body cell, ``sources`` sources whose unit
the file leaves open, and ``as_is`` numbers that are in the unit of their field already.
"""

PLAIN_QUANTITIES: Mapping[str, Quantity] = {
    "n_igm": "density",
    "n_src": "sources",
    "xhii": "ionized_fraction",
}
"""Quantity of a field where its file says no more; ``as_is`` for other fields."""


@dataclass(frozen=True, slots=True)
class FoundField:
    """One field at one redshift in one file.

    Parameters
    ----------
    field : str, optional
        Name of the field, one of `ionstore.cube.fields.FIELDS`; None where neither the file nor its
        name says, so that a user has to name the file for a field.
    redshift : float, optional
        Redshift that the file or its name tells; None where neither does.
    source : FieldSource or PointList
        Its numbers, as they are in the file.
    quantity : Quantity
        Physical meaning of the numbers; ignored without a field.
    """

    field: str | None
    redshift: float | None
    source: FieldSource | PointList
    quantity: Quantity


@dataclass(frozen=True, slots=True)
class FileContents:
    """The fields that a reader found in one file; no values are read yet.

    Parameters
    ----------
    fields : tuple of FoundField
        Fields, at most one of a name and redshift.
    box_length_cmpc : float, optional
        Comoving side of the box in cMpc.
    cosmology : Cosmology, optional
        Cosmology of the simulation.
    notes : tuple of str
        Remarks on the file for the user, one line each.
    initial_conditions : mapping of str to float
        Numbers that identify the initial conditions, such as their seed and mesh, by the names
        that the format has for them. Files that differ in one are not of the same run.
    """

    fields: tuple[FoundField, ...]
    box_length_cmpc: float | None = None
    cosmology: Cosmology | None = None
    notes: tuple[str, ...] = ()
    initial_conditions: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def left_out(cls, path: Path, reason: str) -> Self:
        """Return the contents of a file of the format that gives no field, and the reason."""
        return cls((), notes=(f"{path.name} is left out: {reason}",))


class FileReader(ABC):
    """Reads the files of one format, each on its own.

    Attributes
    ----------
    name : str
        Name of the format on the command line, such as "c2ray".
    description : str
        The format in one line for users, with the names that its files usually have.
    """

    name: ClassVar[str]
    description: ClassVar[str]

    @abstractmethod
    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        """Return the fields of a file, None if it is not of this format.

        Return `FileContents` without fields, and a note, for a file of this format that cannot be
        used: it is not offered to the readers that come after.

        Parameters
        ----------
        path : Path
            The file. Its name may tell a redshift or which field it holds; its content decides the
            format.
        head : bytes
            Its first bytes, at most 64.

        Raises
        ------
        SourceDataError
            If the file is of this format, but truncated or damaged.
        OSError
            If it cannot be read.
        """

    def named(self, name: str) -> tuple[str, float | None] | None:
        """Return field and redshift that the name of a file tells, None where it tells no field.

        For files that are damaged, so that the name alone says what is missing. Leave it out where
        the content tells the field.

        Parameters
        ----------
        name : str
            Name of the file, without its folder.
        """
        return None


@dataclass(frozen=True, slots=True)
class Simulation:
    """The coeval cubes found in the files of a simulation, and what these say of it."""

    # By field and redshift; all fields at the same redshifts.
    cubes: Mapping[str, Mapping[float, FieldSource]]
    box_length_cmpc: float | None = None
    cosmology: Cosmology | None = None
    density_frame: KnownFrame | None = None
    n_src_units: str | None = None

    @property
    def redshifts(self) -> tuple[float, ...]:
        """Redshifts, descending: the order of cosmic time."""
        return tuple(sorted(next(iter(self.cubes.values())), reverse=True))


Sources = Mapping[str, Mapping[float, FieldSource]]
"""For every field the source of its values at every redshift."""
