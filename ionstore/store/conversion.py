"""Convert stored values to float32, linearly or through log1p, while copying them into a block."""

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
"""The part of a run of chunks that a kernel copies: its first cell in the first chunk, the shape of
a chunk, its place in the memory of the block (index of the first cell, steps along the first two
axes), its own shape."""

_LN_2 = float(np.log(2.0))
_MANTISSA = np.int64(52)  # its bits in a float64
_BIAS = np.int64(1023)  # of the exponent of a float64
_LARGEST = np.int64(60)
_ROOT_HALF = np.float64(np.sqrt(0.5)).view(np.int64)

_TABLE_BYTES = 2  # larger dtypes have too many values for a table


@dataclass(frozen=True, slots=True)
class ValueMap:
    """Map of a stored value to ``scale * value + offset``, computed in float64.

    With `log_scale`, ``log1p(log_scale * value)`` takes the place of the value.
    """

    scale: float = 1.0
    offset: float = 0.0
    log_scale: float | None = None


AS_STORED = ValueMap()
"""The map that changes nothing: values are only rounded to float32."""


class BlockWriter:
    """Writes cells of a stored dtype into a block, converting them.

    The last axis of `out` must be contiguous. With `AS_STORED` it may be of the stored dtype.
    """

    # Kernels make no copy and release the interpreter lock, so that several threads decode at once.

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
        # A table of all values costs less than their logarithms; and Numba knows no float16.
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
        """Write a box of cells, from chunks in a row along the last axis, into the block.

        `source` and `target` are its first cell in the first chunk and in the block, `shape` its
        cells over all chunks. Nothing is checked.
        """
        rows, columns = self._steps
        first = self._first + target[0] * rows + target[1] * columns + target[2]
        box = (source, chunks.shape[1:], (first, rows, columns), shape)
        self._fill(chunks.reshape(-1).view(self._dtype), box)


def convert(values: Array, out: Block, conversion: ValueMap = AS_STORED) -> None:
    """Convert a block of stored values, shape (a, b, c), into `out`.

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
    """Return a block's memory as one row, the index of its first cell, and its two steps."""
    if not block.size:
        return np.empty(0, block.dtype), 0, (0, 0)
    # Numba vectorizes a loop over a row only if it knows that the row is contiguous, which the type
    # of a strided array of three axes does not tell.
    a, b, c = block.shape
    rows, columns = (stride // block.itemsize for stride in block.strides[:2])
    forward = block[:: -1 if rows < 0 else 1, :: -1 if columns < 0 else 1]
    span = abs(rows) * (a - 1) + abs(columns) * (b - 1) + c
    first = -min(rows, 0) * (a - 1) - min(columns, 0) * (b - 1)
    return as_strided(forward, (span,), (block.itemsize,)), first, (rows, columns)


@lru_cache(maxsize=32)
def _table(conversion: ValueMap, dtype: np.dtype[Any]) -> NDArray[np.float32]:
    """Return every value of a small dtype converted, in the order of their bit patterns."""
    bits = np.arange(256**dtype.itemsize, dtype=f"u{dtype.itemsize}")
    with np.errstate(all="ignore"):  # the table also has values that fields never hold
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


# With Python's rules of division, a test for zero divisors would prevent vectorization.
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
    """Return where one chunk's part of a row is read, where it goes, and its number of cells."""
    (x, y, z), (nx, ny, nz), (first, rows, columns), (_, _, cells) = box
    begin = max(z, chunk * nz)
    end = min(z + cells, (chunk + 1) * nz)
    source = (((chunk * nx + x + i) * ny + y + j) - chunk) * nz + begin
    target = first + i * rows + j * columns + begin - z
    # Unsigned: for signed indices, Numba adds a branch that wraps negative ones.
    return np.uint64(source), np.uint64(target), np.uint64(end - begin)


@njit(cache=True, error_model="numpy")
def _log1p(value: float) -> float:
    """Return log(1 + value) to a relative 1e-13."""
    # Written out, because a call of the C library's log1p would prevent vectorization. The value is
    # mantissa * 2**exponent; the logarithm of the mantissa is a series in s = (m - 1) / (m + 1).
    total = 1.0 + value
    bits = np.float64(total).view(np.int64)
    exponent = (bits - _ROOT_HALF) >> _MANTISSA
    mantissa = np.int64(bits - (exponent << _MANTISSA)).view(np.float64)  # sqrt(1/2) to sqrt(2)
    # `shrink` scales what rounding took from the sum; from 2**60 on, that no longer matters.
    shrink = np.int64((_BIAS - min(exponent, _LARGEST)) << _MANTISSA).view(np.float64)
    above_one = (mantissa - 1.0) + (value - (total - 1.0)) * shrink
    s = above_one / (2.0 + above_one)
    z = s * s
    series = 1 / 9 + z * (1 / 11 + z * (1 / 13 + z * (1 / 15)))
    series = 1 / 3 + z * (1 / 5 + z * (1 / 7 + z * series))
    result: float = np.float64(exponent) * _LN_2 + 2.0 * (s + s * z * series)
    result = result if total > 0.0 else (-np.inf if total == 0.0 else np.nan)
    return result if total < np.inf else total
