"""Meshes in a file that begins with their three sizes, without records ("cbin" in tools21cm)."""

import struct
from math import prod
from pathlib import Path

from ionstore.cube.mesh import Corner
from ionstore.errors import SourceDataError
from ionstore.readers.arrays.flat import ByteOrder, FlatArray, float_dtype

SIZES_BYTES = 12
"""Bytes of the three sizes that a mesh begins with."""

# Sizes up to here are far above it when read in the wrong byte order, and letters always are.
_MAX_CELLS = 65535


def read_sizes(head: bytes) -> tuple[ByteOrder, Corner] | None:
    """Return byte order and sizes of a mesh, None if a file does not begin with sizes."""
    if len(head) < SIZES_BYTES:
        return None
    # The files carry no mark of their byte order; the codes write that of their machine.
    byte_orders: tuple[ByteOrder, ByteOrder] = ("<", ">")
    for byte_order in byte_orders:
        x, y, z = struct.unpack(f"{byte_order}3i", head[:SIZES_BYTES])
        if min(x, y, z) >= 1 and max(x, y, z) <= _MAX_CELLS:
            return byte_order, (x, y, z)
    return None


def open_mesh(path: Path, head: bytes) -> FlatArray | None:
    """Return the values of a mesh, None if the size of the file fits no float dtype."""
    found = read_sizes(head)
    if found is None:
        return None
    byte_order, shape = found
    dtype = float_dtype(byte_order, path.stat().st_size - SIZES_BYTES, shape)
    # Fortran and tools21cm write the first index fastest.
    return FlatArray(path, shape, dtype, SIZES_BYTES, fortran_order=True) if dtype else None


def is_vector_mesh(path: Path, head: bytes) -> bool:
    """Tell whether a file holds three float32 for each cell of a mesh."""
    found = read_sizes(head)
    return found is not None and path.stat().st_size == SIZES_BYTES + 12 * prod(found[1])


def check_complete(path: Path, head: bytes) -> None:
    """Refuse a file that is named as a mesh, and is none by its size, if it begins as one."""
    found, there = read_sizes(head), path.stat().st_size
    if len(head) < SIZES_BYTES:
        raise SourceDataError(
            f"{path}: expected the three sizes of a mesh and its values, the file has {there} "
            "bytes; it is truncated, copy it again"
        )
    if found is not None:
        shape, n_cells = found[1], prod(found[1])
        raise SourceDataError(
            f"{path}: the mesh {shape} needs {SIZES_BYTES + 4 * n_cells} bytes in float32 "
            f"and {SIZES_BYTES + 8 * n_cells} in float64, the file has {there}; "
            "it is truncated or damaged, copy it again"
        )
