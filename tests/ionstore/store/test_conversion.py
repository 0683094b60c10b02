"""ValueMap to float32 against the same formula in NumPy, whatever the dtype and the strides."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ionstore.cube.mesh import Array
from ionstore.store.conversion import AS_STORED, Block, BlockWriter, ValueMap, convert

DTYPES = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int64", "f2", "f4", "f8"]

shapes = st.tuples(*[st.integers(1, 5)] * 2, st.integers(1, 40))


def converted(values: Array, conversion: ValueMap = AS_STORED) -> Block:
    out = np.full(values.shape, np.nan, np.float32)
    convert(values, out, conversion)
    return out


@settings(deadline=None)  # the first call of a kernel compiles it
@given(st.data(), shapes, st.sampled_from(DTYPES), st.booleans())
def test_a_map_is_that_of_float64(
    data: st.DataObject, shape: tuple[int, int, int], name: str, in_logarithm: bool
) -> None:
    dtype = np.dtype(name)
    elements = None
    if dtype.kind == "f":
        elements = st.floats(0, 6e4, width=dtype.itemsize * 8)  # type: ignore[arg-type]
    values = data.draw(arrays.arrays(dtype, shape, elements=elements))
    scale, offset = data.draw(st.tuples(*[st.floats(-100, 100)] * 2))
    wide = values.astype(np.float64)
    if in_logarithm:
        wide = np.abs(wide)
        values = np.abs(values)
        log_scale = data.draw(st.floats(1e-3, 1e3))
        if dtype.kind == "i":  # the smallest integer has no absolute value of its dtype
            values[values < 0], wide[values < 0] = 0, 0
        wide = values.astype(np.float64)
        expected = (scale * np.log1p(log_scale * wide) + offset).astype(np.float32)
        result = converted(values, ValueMap(scale, offset, log_scale))
        np.testing.assert_allclose(result, expected, rtol=2.0**-23, atol=1e-9)
    else:
        expected = (scale * wide + offset).astype(np.float32)
        np.testing.assert_array_equal(converted(values, ValueMap(scale, offset)), expected)


@settings(deadline=None)  # the first call of a kernel compiles it
@given(arrays.arrays(np.uint32, shapes, elements=st.integers(0, 2**32 - 1)))
def test_float32_as_stored_keep_every_bit(bits: Array) -> None:
    np.testing.assert_array_equal(converted(bits.view(np.float32)).view(np.uint32), bits)


def test_odd_values_keep_every_bit_as_stored() -> None:
    values = np.array([-0.0, 0.0, 1e-45, -1e-39, np.inf, -np.inf, np.nan, 3.4e38], np.float32)
    result = converted(values.reshape(1, 1, -1))
    np.testing.assert_array_equal(result.ravel().view("u4"), values.view("u4"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_as_stored_is_a_cast(dtype: str) -> None:
    values = np.arange(-60, 60).reshape(2, 3, 20).astype(dtype)
    np.testing.assert_array_equal(converted(values), values.astype(np.float32))


def test_logarithms_are_those_of_numpy_at_every_magnitude() -> None:
    rng = np.random.default_rng(1)
    magnitudes = 10.0 ** rng.uniform(-300, 300, 4000)
    edges = [0.0, 5e-324, 1e-17, 0.4142135623730950, 0.41421356237309515, 1.0, 2.0**53, 2.0**60]
    special = [-1.0, -2.0, np.inf, -np.inf, np.nan, 1.7e308]
    values = np.concatenate([magnitudes, -rng.random(4000), rng.random(4000), edges, special])
    result = converted(values.reshape(1, 1, -1), ValueMap(log_scale=1.0)).ravel()
    with np.errstate(all="ignore"):
        expected = np.log1p(values).astype(np.float32)
    np.testing.assert_allclose(result, expected, rtol=2.0**-23)


def test_cancellation_leaves_the_digits_of_float64() -> None:
    """After an offset that takes the logarithm away, 1e-11 of it are still right."""
    values = np.linspace(0.0, 1e6, 4001).reshape(1, 1, -1)
    near = np.log1p(values)
    for position in range(0, values.size, 400):
        shifted = converted(values, ValueMap(1.0, -float(near[0, 0, position]), 1.0))
        assert abs(shifted[0, 0, position]) <= 1e-11


@settings(deadline=None)  # the first call of a kernel compiles it
@given(
    shapes,
    st.permutations([0, 1]),
    st.tuples(*[st.sampled_from([1, 2, 3, -1, -2])] * 2),
    st.sampled_from(["u1", "f4", "f8"]),
    st.sampled_from([AS_STORED, ValueMap(2.0, 1.0), ValueMap(2.0, 1.0, 0.5)]),
)
def test_any_strides_are_filled_and_nothing_beside(
    shape: tuple[int, int, int],
    order: list[int],
    steps: tuple[int, int],
    dtype: str,
    conversion: ValueMap,
) -> None:
    a, b, c = shape
    whole = np.full((12 * 5, 12 * 5, c + 7), -7, np.float32).transpose(*order, 2)
    region = tuple(slice(20 if step > 0 else 40, None, step) for step in steps)
    out = whole[(*region, slice(3, 3 + c))][:a, :b]
    values = np.arange(a * b * c).reshape(shape).astype(dtype)
    expected = whole.copy()
    expected[(*region, slice(3, 3 + c))][:a, :b] = converted(values, conversion)
    convert(values, out, conversion)
    np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "f8"])
@pytest.mark.parametrize("conversion", [AS_STORED, ValueMap(2.0, 1.0), ValueMap(2, 1, 0.5)])
@pytest.mark.parametrize(("first", "cells"), [(2, 4), (5, 1), (2, 5), (0, 18), (5, 13), (3, 9)])
def test_a_box_of_a_run_of_chunks_goes_where_it_belongs(
    dtype: str, conversion: ValueMap, first: int, cells: int
) -> None:
    values = np.arange(4 * 5 * 18).reshape(4, 5, 18).astype(dtype)
    chunks = np.stack(np.split(values, 3, axis=2))  # (3, 4, 5, 6)
    out = np.full((7, 8, 25), -7, np.float32)
    expected = out.copy()
    expected[2:4, 4:5, 1 : 1 + cells] = converted(values, conversion)[
        1:3, 3:4, first : first + cells
    ]
    converter = BlockWriter(chunks.dtype, out, conversion)
    converter.place(chunks, (1, 3, first), (2, 4, 1), (2, 1, cells))
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_as_stored_may_keep_their_dtype(dtype: str) -> None:
    values = np.arange(-60, 60).reshape(1, 2, 3, 20).astype(dtype)
    out = np.zeros((2, 3, 20), dtype)
    BlockWriter(out.dtype, out, AS_STORED).place(values, (0, 0, 0), (0, 0, 0), (2, 3, 20))
    np.testing.assert_array_equal(out, values[0])


def test_arrays_of_another_kind_are_refused() -> None:
    values = np.zeros((2, 3, 4), np.float32)
    outs: list[Array] = [
        np.zeros((2, 3, 4)),
        np.zeros((6, 4), np.float32),
        np.zeros((2, 3, 8), np.float32)[:, :, ::2],
        np.zeros((4, 3, 2), np.float32).T,
    ]
    for out in outs:
        with pytest.raises(ValueError, match="out must be float32"):
            convert(values, out)
    fixed = np.zeros((2, 3, 4), np.float32)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        convert(values, fixed)
    with pytest.raises(ValueError, match="shape"):
        convert(values, np.zeros((2, 3, 5), np.float32))
    for dtype in (">f4", "c8", "M8[s]"):
        with pytest.raises(ValueError, match="real numbers"):
            convert(np.zeros((2, 3, 4), dtype), np.zeros((2, 3, 4), np.float32))


def test_no_cells_are_converted_to_no_cells() -> None:
    convert(np.zeros((2, 0, 4), np.float32), np.zeros((2, 0, 4), np.float32), ValueMap(2.0))


@pytest.mark.process
def test_the_kernels_are_plain_python_too() -> None:
    code = """
import numpy as np
from ionstore.store.conversion import ValueMap, convert
for dtype in ("u1", "f4"):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    out = np.zeros((2, 3, 4), np.float32)
    convert(values, out, ValueMap(2.0, 1.0))
    np.testing.assert_array_equal(out, 2 * values.astype("f4") + 1)
    convert(values, out, ValueMap(2.0, 1.0, 0.5))
    np.testing.assert_allclose(out, 2 * np.log1p(0.5 * values) + 1, rtol=1e-6)
"""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
