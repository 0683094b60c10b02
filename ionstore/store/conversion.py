"""Stored values become float32: an affine map, or that of a logarithm, while cells are copied."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from ionstore.cube.mesh import Array, Corner

Block = NDArray[np.float32]
"""Cells of one field, shape (a, b, c), the last axis contiguous."""

_Triple = tuple[int, int, int]
_Box = tuple[_Triple, _Triple, _Triple, _Triple]
"""The box that a kernel takes out of a run of chunks: its first cell in the first chunk, the shape
of a chunk, the place in the memory of the block (its first cell there and the steps along its
first two axes), its own shape."""

_LN_2 = float(np.log(2.0))
_MANTISSA = np.int64(52)  # its bits in a float64
_BIAS = np.int64(1023)  # of the exponent of a float64
_LARGEST = np.int64(60)
_ROOT_HALF = np.float64(np.sqrt(0.5)).view(np.int64)

_TABLE_BYTES = 2  # values of at most this size are looked up: 65,536 of them at most


@dataclass(frozen=True, slots=True)
class ValueMap:
    """How a stored value becomes a float32.

    Parameters
    ----------
    scale, offset : float
        The value becomes ``scale * value + offset``, computed in float64.
    log_scale : float, optional
        Where given, ``log1p(log_scale * value)`` takes the place of the value.
    """

    scale: float = 1.0
    offset: float = 0.0
    log_scale: float | None = None


AS_STORED = ValueMap()
"""Values as they are stored, rounded to float32 where they are something else."""


class BlockWriter:
    """Writes cells of a stored dtype into a block.

    Parameters
    ----------
    dtype : dtype
        Stored dtype: a real number or bool, in the byte order of this machine.
    out : ndarray of float32, shape (a, b, c)
        The block; its last axis must be contiguous, its other strides may be any. With
        `AS_STORED` it may also be of the stored dtype.
    conversion : ValueMap
        What becomes of a value.

    Raises
    ------
    ValueError
        If `dtype` or `out` is not as stated.

    Notes
    -----
    Logarithms of values of one or two bytes are looked up in a table of them all; other values go
    through vector code. All kernels release the global interpreter lock and make no copy.
    """

    def __init__(self, dtype: np.dtype[Any], out: Array, conversion: ValueMap) -> None:
        if dtype.kind not in "biuf" or not dtype.isnative or dtype.itemsize > 8:
            raise ValueError(f"dtype must be real numbers in native byte order, got {dtype}")
        is_copy = conversion == AS_STORED and out.dtype == dtype
        if not (is_copy or out.dtype == np.float32) or out.ndim != 3 or not _has_whole_rows(out):
            raise ValueError(
                "out must be float32 of shape (a, b, c), its last axis contiguous, got "
                f"{out.dtype} of shape {out.shape} and strides {out.strides}"
            )
        if not out.flags.writeable:
            raise ValueError("out must be writeable, got an array that is not")
        cells, self._first, self._steps = _flat(out)
        is_small = dtype.itemsize <= _TABLE_BYTES
        # Numba knows no float16.
        is_looked_up = is_small and (conversion.log_scale is not None or dtype.kind in "bf")
        as_bits = is_copy or is_looked_up
        self._dtype = np.dtype(f"u{dtype.itemsize}") if as_bits else dtype
        self._fill: Callable[[Array, _Box], None]
        if is_copy:
            bits = cells.view(self._dtype)
            self._fill = lambda values, box: _copy(values, bits, box)
        elif is_looked_up:
            table = _table(conversion, dtype)
            self._fill = lambda values, box: _look_up(values, cells, box, table)
        elif conversion.log_scale is None:
            scale, offset = float(conversion.scale), float(conversion.offset)
            self._fill = lambda values, box: _map(values, cells, box, scale, offset)
        else:
            scales = (
                float(conversion.scale),
                float(conversion.offset),
                float(conversion.log_scale),
            )
            self._fill = lambda values, box: _map_logarithm(values, cells, box, scales)

    def place(self, chunks: Array, source: Corner, target: Corner, shape: Corner) -> None:
        """Write a box of cells out of a run of chunks into the block.

        Parameters
        ----------
        chunks : ndarray, shape (n, nx, ny, nz)
            Stored values of chunks that follow each other along the last axis, C-contiguous.
        source, target : tuple of three int
            First cell of the box in the first chunk and in the block; nothing is checked.
        shape : tuple of three int
            Cells of the box along each axis, over all chunks.
        """
        rows, columns = self._steps
        first = self._first + target[0] * rows + target[1] * columns + target[2]
        box = (source, chunks.shape[1:], (first, rows, columns), shape)
        self._fill(chunks.reshape(-1).view(self._dtype), box)


def convert(values: Array, out: Block, conversion: ValueMap = AS_STORED) -> None:
    """Convert a block of stored values.

    Parameters
    ----------
    values : ndarray of real numbers or bool, shape (a, b, c)
        Stored values, each in its own unit.
    out : ndarray of float32, shape (a, b, c)
        Filled; its last axis must be contiguous, its other strides may be any.
    conversion : ValueMap
        What becomes of a value.

    Raises
    ------
    ValueError
        If a dtype, a shape or the last axis of `out` is not as stated.

    Examples
    --------
    >>> out = np.empty((1, 1, 3), np.float32)
    >>> convert(np.array([[[0, 1, 3]]], np.uint8), out, ValueMap(scale=2.0, offset=-1.0))
    >>> out
    array([[[-1.,  1.,  5.]]], dtype=float32)
    """
    converter = BlockWriter(values.dtype, out, conversion)
    if values.shape != out.shape:
        raise ValueError(f"values must have the shape {out.shape} of out, got {values.shape}")
    if values.size:
        a, b, c = values.shape
        converter.place(np.ascontiguousarray(values)[np.newaxis], (0, 0, 0), (0, 0, 0), (a, b, c))


def slices(start: Corner, shape: Corner) -> tuple[slice, slice, slice]:
    """Return the slices of a box of cells from its first cell and its shape."""
    (i, j, k), (a, b, c) = start, shape
    return slice(i, i + a), slice(j, j + b), slice(k, k + c)


def _has_whole_rows(block: Array) -> bool:
    item = block.itemsize
    if not block.size:
        return True
    whole = all(stride % item == 0 for stride in block.strides) and block.flags.aligned
    return whole and (block.strides[-1] == item or block.shape[-1] <= 1)


def _flat(block: Array) -> tuple[Array, int, tuple[int, int]]:
    """Return a block's memory as one row, where its first cell lies there, and its two steps."""
    if not block.size:
        return np.empty(0, block.dtype), 0, (0, 0)
    # Numba makes vector code of a loop over a row only where it knows the row to be contiguous,
    # which a strided array of three axes does not say of its last one.
    a, b, c = block.shape
    rows, columns = (stride // block.itemsize for stride in block.strides[:2])
    forward = block[:: -1 if rows < 0 else 1, :: -1 if columns < 0 else 1]
    span = abs(rows) * (a - 1) + abs(columns) * (b - 1) + c
    first = -min(rows, 0) * (a - 1) - min(columns, 0) * (b - 1)
    return as_strided(forward, (span,), (block.itemsize,)), first, (rows, columns)


@lru_cache(maxsize=32)
def _table(conversion: ValueMap, dtype: np.dtype[Any]) -> NDArray[np.float32]:
    """Return what becomes of every value of a small dtype, in the order of their bit patterns."""
    bits = np.arange(256**dtype.itemsize, dtype=f"u{dtype.itemsize}")
    with np.errstate(all="ignore"):  # some of these values no field holds
        values = bits.astype(bool) if dtype.kind == "b" else bits.view(dtype)
        wide = values.astype(np.float64)
        if conversion.log_scale is not None:
            wide = np.log1p(conversion.log_scale * wide)
        if conversion != AS_STORED:
            wide = conversion.scale * wide + conversion.offset
        table: NDArray[np.float32] = wide.astype(np.float32)
    table.flags.writeable = False
    return table


@njit(nogil=True, cache=True)
def _copy(values: Array, out: Array, box: _Box) -> None:
    for i in range(box[3][0]):
        for j in range(box[3][1]):
            for chunk in range(_n_chunks(box)):
                source, target, n = _row(box, i, j, chunk)
                for k in range(n):
                    out[target + k] = values[source + k]


@njit(nogil=True, cache=True)
def _look_up(values: Array, out: Array, box: _Box, table: Array) -> None:
    for i in range(box[3][0]):
        for j in range(box[3][1]):
            for chunk in range(_n_chunks(box)):
                source, target, n = _row(box, i, j, chunk)
                for k in range(n):
                    out[target + k] = table[values[source + k]]


@njit(nogil=True, cache=True)
def _map(values: Array, out: Array, box: _Box, scale: float, offset: float) -> None:
    for i in range(box[3][0]):
        for j in range(box[3][1]):
            for chunk in range(_n_chunks(box)):
                source, target, n = _row(box, i, j, chunk)
                for k in range(n):
                    out[target + k] = np.float32(scale * np.float64(values[source + k]) + offset)


# Without NumPy's rules of division, a test for zero divisors would keep this from vector code.
@njit(nogil=True, cache=True, error_model="numpy")
def _map_logarithm(values: Array, out: Array, box: _Box, scales: tuple[float, ...]) -> None:
    scale, offset, log_scale = scales
    for i in range(box[3][0]):
        for j in range(box[3][1]):
            for chunk in range(_n_chunks(box)):
                source, target, n = _row(box, i, j, chunk)
                for k in range(n):
                    logarithm = _log1p(log_scale * np.float64(values[source + k]))
                    out[target + k] = np.float32(scale * logarithm + offset)


@njit(cache=True)
def _n_chunks(box: _Box) -> int:
    (_, _, z), (_, _, nz), _, (_, _, cells) = box
    return (z + cells - 1) // nz + 1


@njit(cache=True)
def _row(box: _Box, i: int, j: int, chunk: int) -> tuple[np.uint64, np.uint64, np.uint64]:
    """Return where one chunk's part of a row is read and where it goes, and its cells.

    Unsigned, as Numba wraps negative signed indices, at the cost of a branch.
    """
    (x, y, z), (nx, ny, nz), (first, rows, columns), (_, _, cells) = box
    begin = max(z, chunk * nz)
    end = min(z + cells, (chunk + 1) * nz)
    source = (((chunk * nx + x + i) * ny + y + j) - chunk) * nz + begin
    target = first + i * rows + j * columns + begin - z
    return np.uint64(source), np.uint64(target), np.uint64(end - begin)


@njit(cache=True, error_model="numpy")
def _log1p(value: float) -> float:
    """Return log(1 + value) to a relative 1e-13; a call of the C library's is no vector code."""
    total = 1.0 + value
    bits = np.float64(total).view(np.int64)
    exponent = (bits - _ROOT_HALF) >> _MANTISSA
    mantissa = np.int64(bits - (exponent << _MANTISSA)).view(np.float64)  # sqrt(1/2) to sqrt(2)
    # What rounding took from the sum; from 2**60 on it took nothing that matters.
    shrink = np.int64((_BIAS - min(exponent, _LARGEST)) << _MANTISSA).view(np.float64)
    above_one = (mantissa - 1.0) + (value - (total - 1.0)) * shrink
    s = above_one / (2.0 + above_one)
    z = s * s
    series = 1 / 9 + z * (1 / 11 + z * (1 / 13 + z * (1 / 15)))
    series = 1 / 3 + z * (1 / 5 + z * (1 / 7 + z * series))
    result: float = np.float64(exponent) * _LN_2 + 2.0 * (s + s * z * series)
    result = result if total > 0.0 else (-np.inf if total == 0.0 else np.nan)
    return result if total < np.inf else total
