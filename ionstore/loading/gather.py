"""Cut periodic neighborhoods and tiles of cells out of fields in memory.

Kernels are serial, as Numba's `prange` never helped. They release the interpreter lock instead, so
that other threads decode or train beside them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from ionstore.cube.mesh import Array, Cells, Fields, Neighborhoods
from ionstore.sampling.symmetry import N_SYMMETRIES, PERMUTATIONS


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of fields in one stretch of memory, each C-contiguous of (channel, nx, ny, nz)."""

    memory: Fields  # float32, shape (size,)
    offsets: NDArray[np.int64]  # of the first value of every block
    # nx, ny, nz of every block. An axis as long as the mesh holds it whole; on a shorter one, what
    # is cut does not reach the ends. So either way an index that leaves the block wraps correctly.
    shapes: NDArray[np.int64]
    start: Cells  # cell of the mesh that every block begins with


@dataclass(frozen=True, slots=True)
class Run:
    """Samples of a batch that can be cut now, and the blocks to cut them from."""

    samples: slice  # of the batch
    block: NDArray[np.int64]  # of each sample, among both the inputs and the targets
    inputs: Blocks
    targets: Blocks


def gather_neighborhoods(
    fields: Fields,
    centers: Cells,
    radius: int,
    *,
    symmetries: NDArray[np.int64] | None = None,
    out: Neighborhoods | None = None,
) -> Neighborhoods:
    """Cut the periodic neighborhood of every center out of all fields.

    Parameters
    ----------
    fields : ndarray of float32, shape (channel, nx, ny, nz)
        Fields of one coeval cube, C-contiguous, each in its own unit.
    centers : ndarray of int64, shape (n, 3)
        Cell indices (i, j, k). Indices off the mesh wrap around.
    radius : int
        Neighborhood radius in cells; the width is ``2 * radius + 1``.
    symmetries : ndarray of int64, shape (n,), optional
        Symmetry of the cube under which each neighborhood appears, as in
        `ionstore.sampling.symmetry.transformed`; by default none is changed.
    out : ndarray of float32, optional
        Filled and returned instead of a new array; C-contiguous.

    Returns
    -------
    ndarray of float32, shape (n, channel, width, width, width)
        Entry ``m`` is centered on ``centers[m]``.

    Raises
    ------
    ValueError
        If an argument has another dtype, shape or memory order than stated, the neighborhood is
        wider than the mesh, or ``radius`` is negative.

    Notes
    -----
    Allocates ``4 * n * channel * width**3`` bytes: callers choose ``n`` to bound memory.
    Releases the global interpreter lock while it copies.

    Examples
    --------
    >>> fields = np.arange(27, dtype=np.float32).reshape(1, 3, 3, 3)
    >>> corner = np.array([[0, 0, 0]])
    >>> gather_neighborhoods(fields, corner, radius=1)[0, 0, :, 1, 1]
    array([18.,  0.,  9.], dtype=float32)
    """
    return gather_tiles(fields, centers, 1, radius, symmetries=symmetries, out=out)


def gather_tiles(
    fields: Fields,
    starts: Cells,
    tile: int,
    halo: int,
    *,
    symmetries: NDArray[np.int64] | None = None,
    out: Neighborhoods | None = None,
) -> Neighborhoods:
    """Cut periodic tiles with their halos out of all fields; a neighborhood is a tile of one cell.

    Like `gather_neighborhoods`; ``starts`` are first cells of tiles without their halos. A tile
    that is wider than the mesh with its halo repeats cells.
    """
    _check_array("fields", fields, np.float32, "(channel, nx, ny, nz)", ndim=4)
    if starts.dtype != np.int64 or starts.ndim != 2 or starts.shape[1] != 3:
        raise ValueError(
            f"centers or starts must be int64 of shape (n, 3), got {starts.dtype} of shape "
            f"{starts.shape}"
        )
    if halo < 0 or tile < 1:
        raise ValueError(
            f"radius or halo must be at least 0, tile at least 1, got {halo} and {tile}"
        )
    mesh = fields.shape[1:]
    if 2 * halo + 1 > min(mesh):
        raise ValueError(
            f"a radius or halo of {halo} needs a mesh of {2 * halo + 1} cells a side, got {mesh}; "
            f"the largest that fits is {(min(mesh) - 1) // 2}"
        )
    width = tile + 2 * halo
    shape = (len(starts), fields.shape[0], width, width, width)
    if out is None:
        out = np.empty(shape, dtype=np.float32)
    else:
        _check_array("out", out, np.float32, "(n, channel, width, width, width)", ndim=5)
        if out.shape != shape:
            raise ValueError(f"out must have shape {shape}, got {out.shape}")
    n = len(starts)
    if symmetries is None:
        symmetries = np.zeros(n, np.int64)
    elif symmetries.dtype != np.int64 or symmetries.shape != (n,):
        raise ValueError(
            f"symmetries must be int64 of shape ({n},), got {symmetries.dtype} of shape "
            f"{symmetries.shape}"
        )
    elif n and not 0 <= symmetries.min() <= symmetries.max() < N_SYMMETRIES:
        raise ValueError(
            f"symmetries must be 0 to {N_SYMMETRIES - 1}, got {symmetries.min()} to "
            f"{symmetries.max()}"
        )
    no_offset, cell_0 = np.zeros(1, np.int64), np.zeros((1, 3), np.int64)
    whole = Blocks(fields.reshape(-1), no_offset, np.array([mesh], np.int64), cell_0)
    first = (starts - halo) % np.array(mesh)
    cut(whole, np.zeros(n, np.int64), first, symmetries, np.arange(n), out)
    return out


def cut(  # noqa: PLR0917 - as its kernel
    blocks: Blocks,
    block: NDArray[np.int64],
    first: Cells,
    symmetries: NDArray[np.int64],
    rows: NDArray[np.int64],
    out: Neighborhoods,
) -> None:
    """Cut cubes of cells out of their blocks into rows of ``out``, all different; checks nothing.

    ``first`` are first cells within the blocks. Cubes that leave a block wrap.
    """
    memory, offsets, shapes = blocks.memory, blocks.offsets, blocks.shapes
    _cut(memory, offsets, shapes, block, first, symmetries, PERMUTATIONS, rows, out)


def _check_array(name: str, array: Any, dtype: type, shape: str, *, ndim: int) -> None:
    if array.dtype != dtype or array.ndim != ndim or not array.flags.c_contiguous:
        raise ValueError(
            f"{name} must be a C-contiguous {np.dtype(dtype)} array of shape {shape}, got "
            f"{array.dtype} of shape {array.shape}"
            f"{'' if array.flags.c_contiguous else ', not C-contiguous'}"
        )


# LLVM's memcpy is as fast as C's; a plain inner loop in Numba takes four times as long.
@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def _copy_row(  # noqa: PLR0917 - an intrinsic takes positional arguments only
    typingctx: Any, out: Any, out_start: Any, row: Any, row_start: Any, n_values: Any
) -> Any:
    """Copy ``n_values`` items between two contiguous arrays, at flat item offsets, by memcpy."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        out_type, _, row_type, _, _ = signature.args
        out_struct = context.make_array(out_type)(context, builder, args[0])
        row_struct = context.make_array(row_type)(context, builder, args[2])
        target = builder.gep(out_struct.data, [args[1]])
        source = builder.gep(row_struct.data, [args[3]])
        item = context.get_abi_sizeof(context.get_data_type(out_type.dtype))
        cgutils.raw_memcpy(builder, target, source, args[4], item)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    size = types.uintp
    return types.void(out, size, row, size, size), codegen


def _copy_row_by_slices(
    out: Array, out_start: int, row: Array, row_start: int, n_values: int
) -> None:
    """Do what `_copy_row` does, where kernels run as plain Python (NUMBA_DISABLE_JIT=1)."""
    target, source = int(out_start), int(row_start)
    copied = row.reshape(-1)[source : source + int(n_values)]
    out.reshape(-1)[target : target + int(n_values)] = copied


# An intrinsic cannot run as plain Python.
if config.DISABLE_JIT:  # type: ignore[attr-defined]
    _copy_row = _copy_row_by_slices  # type: ignore[assignment]


@njit(nogil=True, cache=True)
def _cut(  # noqa: PLR0917 - a kernel takes positional arguments only
    memory: Fields,
    offsets: NDArray[np.int64],
    shapes: NDArray[np.int64],
    block: NDArray[np.int64],
    first: Cells,
    symmetries: NDArray[np.int64],
    permutations: NDArray[np.int64],
    rows: NDArray[np.int64],
    out: Neighborhoods,
) -> None:
    n_channels, width = out.shape[1], out.shape[2]
    n_cells = width * width * width
    values = out.reshape(-1)
    # Allocated once, not for every sample.
    plane = np.empty(width * width, np.float32)
    step = np.empty(3, np.int64)
    symmetry, origin = -1, 0
    for m in range(first.shape[0]):
        if symmetries[m] != symmetry:
            symmetry = symmetries[m]
            origin = _image(width, symmetry, permutations, step)
        shape = shapes[block[m]]
        source, target = offsets[block[m]], rows[m] * n_channels * n_cells + origin
        for _ in range(n_channels):
            # Rows along z stay rows, or are turned or reversed value by value.
            if step[2] == 1:
                _copy_rows(memory, source, shape, first[m], values, target, step, width)
            else:
                _copy_turned(memory, source, shape, first[m], values, target, step, width, plane)
            source += shape[0] * shape[1] * shape[2]
            target += n_cells


@njit(nogil=True, cache=True)
def _image(
    width: int, symmetry: int, permutations: NDArray[np.int64], step: NDArray[np.int64]
) -> int:
    """Fill in how far apart neighbors along x, y, z are in the image; return where cell 0 goes."""
    origin = 0
    stride = width * width
    for axis in range(3):
        reverse = (symmetry & (4 >> axis)) != 0
        step[permutations[symmetry // 8, axis]] = -stride if reverse else stride
        if reverse:
            origin += (width - 1) * stride
        stride //= width
    return origin


@njit(nogil=True, cache=True)
def _copy_rows(  # noqa: PLR0917
    memory: Fields,
    source: int,
    shape: NDArray[np.int64],
    first: NDArray[np.int64],
    values: Fields,
    target: int,
    step: NDArray[np.int64],
    width: int,
) -> None:
    """Copy a cube of cells whose rows stay rows."""
    nx, ny, nz = shape
    step_x, step_y = step[0], step[1]
    # Unsigned offsets: Numba wraps negative signed indices, at the cost of a branch per access and
    # half of the speed.
    first_z = np.uint64(first[2])
    before_face = np.uint64(min(width, nz - first[2]))
    past_face = np.uint64(width) - before_face
    x = first[0]
    for a in range(width):
        y = first[1]
        for b in range(width):
            row = np.uint64(source + (x * ny + y) * nz)
            to = np.uint64(target + a * step_x + b * step_y)
            _copy_row(values, to, memory, row + first_z, before_face)  # type: ignore[call-arg]
            # Past the face the row goes on at its start: two copies, more only where a tile is
            # wider than the mesh.
            copied, left = before_face, past_face
            while left > 0:
                n_values = min(left, np.uint64(nz))
                _copy_row(values, to + copied, memory, row, n_values)
                copied += n_values
                left -= n_values
            y += 1
            if y == ny:
                y = 0
        x += 1
        if x == nx:
            x = 0


@njit(nogil=True, cache=True)
def _copy_turned(  # noqa: PLR0917
    memory: Fields,
    source: int,
    shape: NDArray[np.int64],
    first: NDArray[np.int64],
    values: Fields,
    target: int,
    step: NDArray[np.int64],
    width: int,
    plane: Fields,
) -> None:
    """Copy a cube of cells whose rows become columns, or are reversed."""
    # Plane by plane through the nearest cache: rows come fast only in one piece. The axis that
    # becomes the last one lies in the planes, so that neighbors are written together.
    _, ny, nz = shape
    outer, inner = (1, 0) if abs(step[0]) == 1 else (0, 1)
    outer_cells, inner_cells = shape[outer], shape[inner]
    step_inner, step_z = np.uint64(step[inner]), np.uint64(step[2])
    unsigned_width = np.uint64(width)
    one = np.uint64(1)
    along_outer = first[outer]
    for a in range(width):
        along_inner = first[inner]
        for b in range(width):
            x, y = (along_outer, along_inner) if outer == 0 else (along_inner, along_outer)
            row = np.uint64(source + (x * ny + y) * nz)
            to = np.uint64(b * width)
            z, left = first[2], width
            while left > 0:
                n_values = min(left, nz - z)
                _copy_row(plane, to, memory, row + np.uint64(z), np.uint64(n_values))  # type: ignore[call-arg]
                to += np.uint64(n_values)
                left -= n_values
                z = 0
            along_inner += 1
            if along_inner == inner_cells:
                along_inner = 0
        corner = np.uint64(target + a * step[outer])
        if abs(step[2]) == 1:
            for b in range(unsigned_width):
                to = corner + b * step_inner
                for k in range(unsigned_width):
                    values[to] = plane[b * unsigned_width + k]
                    to -= one
        else:
            for k in range(unsigned_width):
                to = corner + k * step_z
                for b in range(unsigned_width):
                    values[to] = plane[b * unsigned_width + k]
                    to += step_inner
        along_outer += 1
        if along_outer == outer_cells:
            along_outer = 0
