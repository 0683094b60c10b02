"""Another implementation of Zarr than the one that writes stores opens them as well."""

from pathlib import Path

import numpy as np
import pytest
import tensorstore

from ionstore.cube.mesh import Array
from ionstore.store.cube_store import DIMENSIONS, CubeStore
from ionstore.store.layout import Layout
from tests.support.places import DATA
from tests.support.stores import cubes_at, write_store

FORMAT_1 = DATA / "format_1.zarr"
REDSHIFTS = (9.0, 7.5)


def opened(store: CubeStore, name: str) -> tensorstore.TensorStore:
    kvstore = {"driver": "file", "path": f"{Path(str(store.path)).resolve() / name}/"}
    return tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, open=True).result()


def check_all(store: CubeStore) -> None:
    for name in store.field_names:
        array = opened(store, name)
        assert array.domain.labels == DIMENSIONS
        assert array.dtype.numpy_dtype == store.dtype(name)
        values: Array = array.read().result()
        for index, redshift in enumerate(store.redshifts):
            np.testing.assert_array_equal(values[index], store.read_field(name, redshift))
    np.testing.assert_array_equal(opened(store, "redshift").read().result(), store.redshifts)
    for axis in DIMENSIONS[1:]:
        centers = opened(store, axis).read().result()
        np.testing.assert_allclose(centers, store.mesh.cell_centers(), rtol=1e-12)


@pytest.mark.parametrize(
    ("mesh", "layout"), [(8, None), (33, None), (13, Layout(13, 4, 8)), (7, Layout(7, 7, 14))]
)
def test_tensorstore_reads_all_fields_and_coordinates(
    tmp_path: Path, mesh: int, layout: Layout | None
) -> None:
    cubes = cubes_at(mesh, REDSHIFTS)
    cubes["n_src"][0, :4, :4, :4] = 0  # a chunk of zeros, which are no fill values
    check_all(write_store(tmp_path / "cubes.zarr", cubes, REDSHIFTS, layout=layout))


def test_tensorstore_reads_format_1() -> None:
    check_all(CubeStore.open(FORMAT_1))


def test_tensorstore_notices_a_flipped_bit(tmp_path: Path) -> None:
    store = write_store(tmp_path / "cubes.zarr", cubes_at(8, REDSHIFTS), REDSHIFTS)
    path = Path(str(store.shard_path("n_src", 0, (0, 0, 0))))
    content = bytearray(path.read_bytes())
    content[40] ^= 4
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"(?i)crc32|checksum|data_loss"):
        opened(store, "n_src").read().result()
    assert (opened(store, "xhii").read().result() == cubes_at(8, REDSHIFTS)["xhii"]).all()
