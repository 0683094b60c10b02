"""Arrays in objects: the blocks are those of the same array in a file."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ionstore.errors import SourceDataError
from ionstore.readers.arrays.bucket import FlatObject
from ionstore.storage.s3 import ObjectPath
from tests.support.object_server import environment, make_bucket, running_object_server

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def place() -> Iterator[ObjectPath]:
    with running_object_server() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(address).items():
            patch.setenv(name, value)
        make_bucket(address, "spools")
        yield ObjectPath("spools", "cubes.zarr.partial/spools/n_src-0.spool")


@pytest.mark.parametrize("fortran_order", [False, True])
@pytest.mark.parametrize("fetch_bytes", [1, 2000, 1 << 24])
def test_blocks_are_those_of_the_array(
    place: ObjectPath,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fortran_order: bool,
    fetch_bytes: int,
) -> None:
    monkeypatch.setattr("ionstore.readers.arrays.bucket._FETCH_BYTES", fetch_bytes)
    values = np.random.default_rng(1).random((11, 12, 13)).astype(">f4")
    (tmp_path / "spool").write_bytes(values.tobytes("F" if fortran_order else "C"))
    place.upload(tmp_path / "spool")
    source = FlatObject(place, values.shape, values.dtype, fortran_order).absolute()
    for start, shape in (
        ((0, 0, 0), (11, 12, 13)),
        ((3, 4, 5), (4, 5, 6)),
        ((10, 11, 12), (1, 1, 1)),
        ((0, 4, 0), (11, 1, 13)),
    ):
        i, j, k = (slice(first, first + n) for first, n in zip(start, shape, strict=True))
        block = source.read_block(start, shape)
        np.testing.assert_array_equal(block, values[i, j, k])
        assert block.dtype == values.dtype


def test_an_object_that_is_too_short_or_gone_is_named(place: ObjectPath) -> None:
    source = FlatObject(place, (4, 4, 4), np.dtype("f4"))
    for content in (b"", bytes(200)):
        place.write_bytes(content)
        with pytest.raises(SourceDataError, match=f"{place}: .* the object is shorter"):
            source.read_block((0, 0, 0), (4, 4, 4))
    place.unlink()
    with pytest.raises(FileNotFoundError, match="no such object"):
        source.read_block((0, 0, 0), (4, 4, 4))
