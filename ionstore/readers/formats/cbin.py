"""Meshes that only their three sizes stand before, without records ("cbin")."""

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from ionstore.cube.mesh import Corner
from ionstore.errors import SourceDataError
from ionstore.readers.arrays.flat import FlatArray
from ionstore.readers.base import FileContents, FileReader
from ionstore.readers.formats.c2ray_names import results

SIZES_BYTES = 12
"""Bytes of the three sizes that a mesh begins with."""

# Sizes up to here are far above it when read in the wrong byte order, and letters always are.
_MAX_CELLS = 65535


@dataclass(frozen=True, slots=True)
class Sizes:
    """The three sizes of a mesh, and the byte order that they are written in.

    Parameters
    ----------
    shape : tuple of three int
        Cells along x, y, z.
    byte_order : str
        "<" or ">".
    """

    shape: Corner
    byte_order: str


class PlainMesh(FileReader):
    """Reads meshes of any name: what they hold is for the user to say."""

    name = "cbin"
    description = "meshes of any name: three int32 sizes, then float32 or float64, x fastest"

    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        """Return the mesh of a file.

        Parameters
        ----------
        path : Path
            The file; its size must be exact.
        head : bytes
            Its first bytes, at most 64.

        Raises
        ------
        OSError
            If the file cannot be read.
        """
        source = open_mesh(path, head)
        return None if source is None else results(path, source)


def read_sizes(head: bytes) -> Sizes | None:
    """Return the three sizes that a file begins with, None if these are no sizes of a mesh."""
    if len(head) < SIZES_BYTES:
        return None
    for byte_order in "<>":
        x, y, z = struct.unpack(f"{byte_order}3i", head[:SIZES_BYTES])
        if min(x, y, z) >= 1 and max(x, y, z) <= _MAX_CELLS:
            return Sizes((x, y, z), byte_order)
    return None


def open_mesh(path: Path, head: bytes) -> FlatArray | None:
    """Return the values of a mesh that its sizes stand before.

    Parameters
    ----------
    path : Path
        The file; its values are not read.
    head : bytes
        Its first bytes, at least 12 where it has as many.

    Returns
    -------
    FlatArray, optional
        float32 or float64, told apart by the size of the file, in the byte order of the sizes;
        None if the size of the file fits neither.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    sizes = read_sizes(head)
    n_bytes = path.stat().st_size - SIZES_BYTES
    if sizes is not None:
        for itemsize in (4, 8):
            if n_bytes == itemsize * prod(sizes.shape):
                dtype = np.dtype(f"{sizes.byte_order}f{itemsize}")
                return FlatArray(path, sizes.shape, dtype, SIZES_BYTES, fortran_order=True)
    return None


def is_vector_mesh(path: Path, head: bytes) -> bool:
    """Tell whether a file holds three float32 for each cell of a mesh."""
    sizes = read_sizes(head)
    return sizes is not None and path.stat().st_size == SIZES_BYTES + 12 * prod(sizes.shape)


def check_complete(path: Path, head: bytes) -> None:
    """Check that a file, named as a mesh but none by its size, is not a damaged one.

    Parameters
    ----------
    path : Path
        The file.
    head : bytes
        Its first bytes, at least 12 where it has as many.

    Raises
    ------
    SourceDataError
        If it begins with the sizes of a mesh, or ends before them.
    OSError
        If the file cannot be read.
    """
    sizes, there = read_sizes(head), path.stat().st_size
    if len(head) < SIZES_BYTES:
        raise SourceDataError(
            f"{path}: expected the three sizes of a mesh and its values, the file has {there} "
            "bytes; it is truncated, copy it again"
        )
    if sizes is not None:
        n_cells = prod(sizes.shape)
        raise SourceDataError(
            f"{path}: the mesh {sizes.shape} needs {SIZES_BYTES + 4 * n_cells} bytes in float32 "
            f"and {SIZES_BYTES + 8 * n_cells} in float64, the file has {there}; "
            "it is truncated or damaged, copy it again"
        )
