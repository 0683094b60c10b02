"""Files of meshes as the codes write them, and checks of the sources read from them."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ionstore.cube.mesh import Array
from ionstore.readers.base import FieldSource, FileContents, FileReader, FoundField

SAMPLE_CELLS = 20
"""Cells along a side of the samples of C2-Ray and pyC2Ray in `tests/data`."""


def record(content: bytes, byte_order: str = "<", max_bytes: int = 2147483639) -> bytes:
    """One record; split into sub-records where it is longer than `max_bytes`."""
    parts = [content[first : first + max_bytes] for first in range(0, len(content), max_bytes)]
    marked = b""
    for index, part in enumerate(parts or [b""]):
        leading = len(part) if index == max(len(parts) - 1, 0) else -len(part)
        trailing = len(part) if index == 0 else -len(part)
        marked += struct.pack(f"{byte_order}i", leading) + part
        marked += struct.pack(f"{byte_order}i", trailing)
    return marked


def record_mesh(cube: Array, byte_order: str = "<", max_bytes: int = 2147483639) -> bytes:
    """The sizes of a cube and its values, as C2-Ray writes them."""
    sizes = struct.pack(f"{byte_order}3i", *cube.shape)
    values = cube.astype(cube.dtype.newbyteorder(byte_order)).tobytes(order="F")
    return record(sizes, byte_order) + record(values, byte_order, max_bytes)


def plain_mesh(cube: Array, byte_order: str = "<") -> bytes:
    """The sizes of a cube and its values, without records."""
    values = cube.astype(cube.dtype.newbyteorder(byte_order)).tobytes(order="F")
    return struct.pack(f"{byte_order}3i", *cube.shape) + values


def blocks(shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Start and shape of the whole, of single cells at both ends, and of random blocks."""
    rng = np.random.default_rng(5)
    yield (0, 0, 0), shape
    yield (0, 0, 0), (1, 1, 1)
    yield tuple(cells - 1 for cells in shape), (1, 1, 1)
    for _ in range(20):
        start = tuple(int(rng.integers(cells)) for cells in shape)
        yield (
            start,
            tuple(
                int(rng.integers(1, cells - first + 1))
                for first, cells in zip(start, shape, strict=True)
            ),
        )


def check_source(source: FieldSource | None, cube: Array, path: Path) -> None:
    """Check that a source gives all values of a cube, in a stream and in blocks."""
    assert source is not None
    assert source.shape == cube.shape
    file_bytes: list[bytes] = []
    streamed = np.concatenate(list(source.stream(file_bytes.append)))
    np.testing.assert_array_equal(streamed, cube.ravel(order="F"))
    assert b"".join(file_bytes) == path.read_bytes()
    for start, shape in blocks(cube.shape):
        block = source.read_block(start, shape)  # type: ignore[arg-type]
        cut = tuple(slice(first, first + cells) for first, cells in zip(start, shape, strict=True))
        np.testing.assert_array_equal(block, cube[cut])
        assert block.flags.c_contiguous


def inspected(reader: FileReader, path: Path, content: bytes | None = None) -> FileContents | None:
    """The finding of a reader in a file, which is written first if content is given."""
    if content is not None:
        path.write_bytes(content)
    with path.open("rb") as file:
        return reader.inspect(path, file.read(64))


def the_field(contents: FileContents | None) -> FoundField:
    """The only field of a file."""
    assert contents is not None
    (found,) = contents.fields
    return found
