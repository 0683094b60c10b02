from pathlib import Path

import numpy as np
import pytest
import zarr
from google_crc32c import value as crc32c

from ionstore.build.shard_writer import encode_shard
from ionstore.build.store_writer import StoredField, create_store
from ionstore.cube.mesh import Corner, Mesh
from ionstore.store.codecs import default_compression
from ionstore.store.layout import Layout

LAYOUTS = [Layout(8, 4, 8), Layout(11, 4, 8), Layout(5, 5, 5), Layout(9, 3, 6), Layout(1, 1, 1)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "uint8", "uint16"])
def test_zarr_reads_what_it_would_have_written(tmp_path: Path, layout: Layout, dtype: str) -> None:
    values = np.random.default_rng(5).integers(0, 200, (layout.mesh_cells,) * 3).astype(dtype)
    fields = [StoredField("n_src", dtype, "1")]
    stores = {}
    for name in ("ours", "zarr"):
        path = tmp_path / name
        writer = create_store(path, Mesh(layout.mesh_cells), [9.0], fields, layout=layout)
        stored = zarr.open_array(path / "n_src", mode="r+", zarr_format=3)
        if name == "zarr":
            stored.with_config({"write_empty_chunks": True})[0] = values
        else:
            for shard in layout.shard_indices():
                start, shape = layout.shard_region(shard)
                cells = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
                writer.shards.write_block("n_src", 0, start, values[cells])
        np.testing.assert_array_equal(stored[0], values)
        stores[name] = {
            str(file.relative_to(path)): file.stat().st_size
            for file in sorted(path.glob("n_src/c/**/*"))
            if file.is_file()
        }
    assert stores["ours"] == stores["zarr"]
    for name in stores["ours"]:
        ours, theirs = (chunks_of((tmp_path / store / name).read_bytes()) for store in stores)
        assert ours == theirs
        assert len(ours) == (layout.shard_cells // layout.chunk_cells) ** 3


def chunks_of(shard: bytes) -> list[bytes | None]:
    """The encoded chunks of a shard in C order, None where the index says that there is none."""
    n_entries = next(n**3 for n in range(1, 9) if has_index(shard, n**3))
    index = np.frombuffer(shard[-16 * n_entries - 4 : -4], "<u8").reshape(-1, 2).tolist()
    missing = 2**64 - 1
    return [None if first == missing else shard[first : first + n] for first, n in index]


def has_index(shard: bytes, n_entries: int) -> bool:
    index = shard[-16 * n_entries - 4 : -4]
    return crc32c(index).to_bytes(4, "little") == shard[-4:]


@pytest.mark.parametrize("shape", [(8, 8, 8), (3, 8, 8), (8, 5, 1)])
def test_chunks_wholly_off_the_mesh_are_missing(shape: Corner) -> None:
    layout = Layout(19, 4, 8)
    values = np.zeros(shape, "uint8")
    pieces = list(
        encode_shard(values, layout=layout, compression=default_compression(values.dtype))
    )
    chunks = chunks_of(b"".join(pieces))
    there = [
        x < shape[0] and y < shape[1] and z < shape[2]
        for x in (0, 4)
        for y in (0, 4)
        for z in (0, 4)
    ]
    assert [chunk is not None for chunk in chunks] == there
    assert [chunk for chunk in chunks if chunk is not None] == pieces[:-1]


def test_values_in_any_memory_order_are_encoded_alike() -> None:
    layout, values = Layout(8, 4, 8), np.random.default_rng(1).random((8, 8, 8), "f4")
    compression = default_compression(values.dtype)
    views = (values, np.asfortranarray(values), np.repeat(values, 2, axis=2)[:, :, ::2])
    shards = {
        b"".join(encode_shard(view, layout=layout, compression=compression)) for view in views
    }
    assert len(shards) == 1
