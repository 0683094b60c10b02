"""The cut: periodic neighborhoods of cells out of fields in memory."""

from typing import Any

import numpy as np
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ionstore.cube import Array, Cells, Fields, Neighborhoods


def gather_neighborhoods(
    fields: Fields, centers: Cells, radius: int, *, out: Neighborhoods | None = None
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
    _check_array("fields", fields, np.float32, "(channel, nx, ny, nz)", ndim=4)
    if centers.dtype != np.int64 or centers.ndim != 2 or centers.shape[1] != 3:
        raise ValueError(
            f"centers must be int64 of shape (n, 3), got {centers.dtype} of shape {centers.shape}"
        )
    if radius < 0:
        raise ValueError(f"radius must be at least 0, got {radius}")
    width = 2 * radius + 1
    if width > min(fields.shape[1:]):
        raise ValueError(
            f"radius {radius} needs a mesh of {width} cells a side, got {fields.shape[1:]}; "
            f"the largest radius that fits is {(min(fields.shape[1:]) - 1) // 2}"
        )
    shape = (len(centers), fields.shape[0], width, width, width)
    if out is None:
        out = np.empty(shape, dtype=np.float32)
    else:
        _check_array("out", out, np.float32, "(n, channel, width, width, width)", ndim=5)
        if out.shape != shape:
            raise ValueError(f"out must have shape {shape}, got {out.shape}")
    _gather(fields, np.ascontiguousarray(centers), radius, out)
    return out


def _check_array(name: str, array: Any, dtype: type, shape: str, *, ndim: int) -> None:
    if array.dtype != dtype or array.ndim != ndim or not array.flags.c_contiguous:
        raise ValueError(
            f"{name} must be a C-contiguous {np.dtype(dtype)} array of shape {shape}, got "
            f"{array.dtype} of shape {array.shape}"
            f"{'' if array.flags.c_contiguous else ', not C-contiguous'}"
        )


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


if config.DISABLE_JIT:  # type: ignore[attr-defined]
    _copy_row = _copy_row_by_slices  # type: ignore[assignment]


@njit(nogil=True, cache=True)
def _gather(fields: Fields, centers: Cells, radius: int, out: Neighborhoods) -> None:
    n_channels, nx, ny, nz = fields.shape
    width = 2 * radius + 1
    # Unsigned offsets: Numba wraps negative signed indices, at the cost of a branch per access.
    unsigned_width = np.uint64(width)
    written = np.uint64(0)
    for m in range(centers.shape[0]):
        first_x = (centers[m, 0] - radius) % nx
        first_y = (centers[m, 1] - radius) % ny
        first_z = np.uint64((centers[m, 2] - radius) % nz)
        before_face = min(unsigned_width, np.uint64(nz) - first_z)
        past_face = unsigned_width - before_face
        for channel in range(n_channels):
            for a in range(width):
                x = first_x + a
                if x >= nx:
                    x -= nx
                for b in range(width):
                    y = first_y + b
                    if y >= ny:
                        y -= ny
                    row = np.uint64(((channel * nx + x) * ny + y) * nz)
                    _copy_row(out, written, fields, row + first_z, before_face)  # type: ignore[call-arg]
                    if past_face > 0:
                        _copy_row(out, written + before_face, fields, row, past_face)
                    written += unsigned_width
