"""What a reader of a simulation format offers: where its cubes lie, and their values in blocks."""

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np

from ionstore.cube.cosmology import Cosmology
from ionstore.cube.mesh import Array, Cells, Corner
from ionstore.cube.units import KnownFrame
from ionstore.storage.files import OnBytes


class FieldSource(ABC):
    """The values of one field at one redshift, somewhere in a file.

    A source is light and picklable: it opens its file when values are asked for.

    Attributes
    ----------
    path : Path
        File that holds the values.
    shape : tuple of int
        Shape of the values, not necessarily that of a cube.
    dtype : numpy.dtype
        Dtype of the values in the file.
    fortran_order : bool
        Whether the first index runs fastest in the file, and in what `stream` yields.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool = False

    @abstractmethod
    def stream(self, on_bytes: OnBytes) -> Iterator[Array]:
        """Yield all values once, in flat pieces.

        Parameters
        ----------
        on_bytes : callable
            Called with all bytes of the file in their order, for a digest of it.

        Raises
        ------
        SourceDataError
            If the file turns out to be damaged.
        OSError
            If it cannot be read.
        """

    @abstractmethod
    def read_block(self, start: Corner, shape: Corner) -> Array:
        """Return the values of a block, indexed [x, y, z] whatever the order in the file.

        Raises
        ------
        SourceDataError
            If the file is damaged, or has become too short.
        OSError
            If it cannot be read.
        NotImplementedError
            If blocks are to be read from a spool file, see `spool_bytes`.
        """

    def absolute(self) -> Self:
        """Return the same source, to be read from any working folder."""
        source = copy.copy(self)
        object.__setattr__(source, "path", self.path.absolute())  # most sources are frozen
        return source

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


@dataclass(frozen=True)
class SourceOfSource(FieldSource):
    """What is made of another source: all but `read_block` is as there, unless said otherwise.

    Parameters
    ----------
    source : FieldSource
        The other source.
    """

    source: FieldSource

    @property
    def path(self) -> Path:  # type: ignore[override]
        """File that holds the values."""
        return self.source.path

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of the values."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        """Dtype of the values."""
        return self.source.dtype

    @property
    def fortran_order(self) -> bool:  # type: ignore[override]
        """Whether the first index runs fastest."""
        return self.source.fortran_order

    def stream(self, on_bytes: OnBytes) -> Iterator[Array]:
        """Yield the values in the order of the file."""
        return self.source.stream(on_bytes)

    def absolute(self) -> Self:
        """Return the same source, to be read from any working folder."""
        return replace(self, source=self.source.absolute())


class PointList(ABC):
    """Sources at positions, to be gridded onto a mesh that the file may not know.

    Light and picklable, as a `FieldSource`.

    Attributes
    ----------
    path : Path
        File that holds the list.
    """

    path: Path

    @abstractmethod
    def points(self, mesh_cells: int, on_bytes: OnBytes) -> Iterator[tuple[Cells, Array]]:
        """Yield all sources once, in pieces.

        Parameters
        ----------
        mesh_cells : int
            Cells along a side of the mesh.
        on_bytes : callable
            Called with all bytes of the file in their order, for a digest of it.

        Yields
        ------
        cells : ndarray of int64, shape (n, 3)
            Cell (i, j, k) of each source, counted from 0, on the mesh.
        weights : ndarray of float64, shape (n,)
            What each adds to its cell: its mass, or 1.

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
"""What the numbers in a file are.

``density`` is a gas density in g/cm3 whose frame the file leaves open, ``gas_grid_mass`` and
``grid_mass`` masses in units of the mean mass of a fine N-body cell, ``sources`` sources whose unit
the file leaves open, and ``as_is`` what is stored in the unit of its field already.
"""

PLAIN_QUANTITIES: Mapping[str, Quantity] = {
    "n_igm": "density",
    "n_src": "sources",
    "xhii": "ionized_fraction",
}
"""What the numbers of a field are where its file says no more; ``as_is`` for other fields."""


@dataclass(frozen=True, slots=True)
class FoundField:
    """One field at one redshift in one file.

    Parameters
    ----------
    field : str, optional
        Name of the field, one of `ionstore.cube.fields.FIELDS`; None where neither the file nor its
        name says, so that only a user who names the file for a field can.
    redshift : float, optional
        Redshift as the file or its name says; None where neither does.
    source : FieldSource or PointList
        Its numbers, as they are in the file.
    quantity : Quantity
        What the numbers are; of no meaning without a field.
    """

    field: str | None
    redshift: float | None
    source: FieldSource | PointList
    quantity: Quantity


@dataclass(frozen=True, slots=True)
class FileContents:
    """What a reader found in one file: light, values unread.

    Parameters
    ----------
    fields : tuple of FoundField
        Fields, at most one of a name and redshift.
    box_length_cmpc : float, optional
        Comoving side of the box in cMpc.
    cosmology : Cosmology, optional
        Cosmology of the simulation.
    notes : tuple of str
        What the user should know about the file, one line each.
    initial_conditions : mapping of str to float
        Numbers that make the initial conditions what they are, such as their seed and mesh, by
        the names that the format has for them.
    """

    fields: tuple[FoundField, ...]
    box_length_cmpc: float | None = None
    cosmology: Cosmology | None = None
    notes: tuple[str, ...] = ()
    initial_conditions: Mapping[str, float] = field(default_factory=dict)


class FileReader(ABC):
    """Reads the files of one format, each on its own.

    Attributes
    ----------
    name : str
        Name of the format on the command line, such as "c2ray".
    description : str
        The format for people, with the names that its files usually have, in one line.
    """

    name: ClassVar[str]
    description: ClassVar[str]

    @abstractmethod
    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        """Return what a file holds, None if it is not of this format.

        Parameters
        ----------
        path : Path
            The file; its name may tell a redshift or which field it holds, its content decides
            the format.
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

        Parameters
        ----------
        name : str
            Name of a file, without its folder, that may be damaged.
        """
        return None


@dataclass(frozen=True, slots=True)
class Simulation:
    """The coeval cubes that a reader found, and what their files say about them.

    Parameters
    ----------
    cubes : mapping of str to mapping of float to FieldSource
        For every field its source at every redshift; all fields at the same redshifts.
    box_length_cmpc : float, optional
        Comoving side of the box in cMpc.
    cosmology : Cosmology, optional
        Cosmology of the simulation.
    density_frame : {"proper", "comoving"}, optional
        Frame of the gas density.
    n_src_units : str, optional
        Unit of the sources.
    """

    cubes: Mapping[str, Mapping[float, FieldSource]]
    box_length_cmpc: float | None = None
    cosmology: Cosmology | None = None
    density_frame: KnownFrame | None = None
    n_src_units: str | None = None

    @property
    def redshifts(self) -> tuple[float, ...]:
        """Redshifts, descending: the order of cosmic time."""
        return tuple(sorted(next(iter(self.cubes.values())), reverse=True))


# A version such as 3.4.0 is no number, so neither its beginning nor its end is one.
DECIMAL_NUMBER = re.compile(r"(?<!\d)(?<!\d\.)\d+\.\d+(?!\d)(?!\.\d)")
"""A number in a name that may be a redshift."""


def redshift_in(name: str) -> float | None:
    """Return the redshift that a file name tells: its last number with a decimal point.

    Parameters
    ----------
    name : str
        Name of the file, without its folder: ``8.397n_all.dat``, ``xfrac_z8.700.npy``.

    Returns
    -------
    float, optional
        None if no number in the name has a decimal point.
    """
    numbers = DECIMAL_NUMBER.findall(name)
    return float(numbers[-1]) if numbers else None


Sources = Mapping[str, Mapping[float, FieldSource]]
"""For every field the source of its values at every redshift."""
