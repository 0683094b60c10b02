"""Measure how fast blocks of a store become float32, against the time that Blosc alone takes.

Prints one JSON line per field, kind of block and contestant. A region is a core with its halo, at
places drawn at random; a field is the whole box. The contestants:

    ionstore            read from the file, checksums checked, decoded, normalized to float32
    ionstore as stored  the same without normalization: the values as they are, as float32
    blosc               the chunks that the block needs, already in memory, decoded one by one into
                        the same buffer by numcodecs: the least that any reader takes
    zarr, tensorstore   the block in its stored dtype

All run on one thread as far as they can be told to, with the files in the memory of the system.
Every contestant reads the same blocks in every round, in another order, and is compared with Blosc
within the round, so that a busy moment of the machine hits all of them alike. Time of the processor
is given beside that on the clock: other work on the machine disturbs it less.

    python benchmarks/decode.py STORE --redshift 8.000 --field n_igm --field n_src
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import blosc
from result import median_and_spread, print_result

from ionstore.cube.mesh import Array, Corner, Region
from ionstore.storage.paths import open_file
from ionstore.store.block_plan import plan_block
from ionstore.store.conversion import convert, slices
from ionstore.store.cube_store import CubeStore
from ionstore.store.normalization import fit_normalization
from ionstore.store.shard_index import ShardIndexes

Block = tuple[Corner, Corner]
"""First cell and shape of a block."""

Read = Callable[[int], Array]
"""Takes the place of a block in the list of blocks, returns its values."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--redshift", type=float, help="the first of the store by default")
    parser.add_argument("--field", action="append", help="all fields of the store by default")
    parser.add_argument("--width", type=int, default=112, help="cells along a side of a region")
    parser.add_argument("--places", type=int, default=6, help="regions read per round")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    blosc.use_threads = False
    zarr.config.set({"threading.max_workers": 1})
    store = CubeStore.open(arguments.store)
    redshift = arguments.redshift or store.redshifts[0]
    for field in arguments.field or store.field_names:
        for case, blocks in (
            ("region", random_regions(store, arguments.width, arguments.places)),
            ("field", [((0, 0, 0), store.mesh.shape)]),
        ):
            for line in measure(store, field, redshift, blocks, rounds=arguments.rounds):
                print_result(case, packages=("google-crc32c", "tensorstore"), **line)


def random_regions(store: CubeStore, width: int, n: int) -> list[Block]:
    """Return cubes at random places that lie on the mesh."""
    width = min(width, store.mesh.cells_per_side)
    starts = np.random.default_rng(1).integers(0, store.mesh.cells_per_side - width + 1, (n, 3))
    return [((int(i), int(j), int(k)), (width, width, width)) for i, j, k in starts]


def measure(
    store: CubeStore, field: str, redshift: float, blocks: list[Block], *, rounds: int
) -> Iterator[dict[str, object]]:
    """Time the contestants on one list of blocks, and yield a result for each."""
    encoded = [chunks_of(store, field, redshift, block) for block in blocks]
    contestants: dict[str, Read] = {
        **ionstore_readers(store, field, redshift, blocks),
        "blosc": blosc_decoder(store, field, encoded),
        "zarr": zarr_reader(store, field, redshift, blocks),
    }
    tensorstore = tensorstore_reader(store, field, redshift, blocks)
    if tensorstore is not None:
        contestants["tensorstore"] = tensorstore
    check_equal(store, field, redshift, contestants, len(blocks))
    times = {name: np.zeros((2, rounds)) for name in contestants}
    order = np.random.default_rng(2)
    for index in range(rounds):
        for name in order.permutation(list(contestants)):
            begin = np.array([time.perf_counter(), time.process_time()])
            for place in range(len(blocks)):
                contestants[name](place)
            times[name][:, index] = (time.perf_counter(), time.process_time()) - begin
    n_cells = sum(int(np.prod(shape)) for _, shape in blocks)
    n_chunks = sum(map(len, encoded))
    for name, (took, worked) in times.items():
        median, spread = median_and_spread(list(took))
        ratio, ratio_spread = median_and_spread(list(took / times["blosc"][0]))
        work_ratio, work_spread = median_and_spread(list(worked / times["blosc"][1]))
        yield {
            "contestant": name,
            "field": field,
            "dtype": str(store.dtype(field)),
            "mesh": store.mesh.cells_per_side,
            "chunk_cells": store.layout.chunk_cells,
            "shard_cells": store.layout.shard_cells,
            "block": list(blocks[0][1]),
            "blocks_per_round": len(blocks),
            "chunks_per_round": n_chunks,
            "compressed_mb": round(sum(len(one) for block in encoded for one in block) / 1e6, 2),
            "times_blosc": round(ratio, 3),
            "times_blosc_spread": round(ratio_spread, 3),
            "cpu_times_blosc": round(work_ratio, 3),
            "cpu_times_blosc_spread": round(work_spread, 3),
            "ms": round(1e3 * median, 2),
            "ms_spread": round(1e3 * spread, 2),
            "mcells_per_s": round(n_cells / median / 1e6, 1),
            "us_per_chunk": round(1e6 * median / n_chunks, 1),
            "rounds": rounds,
        }


def chunks_of(store: CubeStore, field: str, redshift: float, block: Block) -> list[bytes]:
    """Return the compressed chunks that a block needs, without their checksums."""
    per_shard = (store.layout.shard_cells // store.layout.chunk_cells) ** 3
    chunks = []
    for part in plan_block(store.layout, *block):
        path = store.shard_path(field, store.redshift_index(redshift), part.shard)
        with open_file(path) as file:
            index = ShardIndexes().index_of(path, file, per_shard).tolist()
        content = path.read_bytes()
        for run in part.runs:
            for first, n_bytes in index[run.chunk : run.chunk + run.n_chunks]:
                chunks.append(content[first : first + n_bytes - 4])
    return chunks


def ionstore_readers(
    store: CubeStore, field: str, redshift: float, blocks: Sequence[Block]
) -> dict[str, Read]:
    outs = {shape: np.empty(shape, np.float32) for _, shape in blocks}
    mesh = Region((0, 0, 0), store.mesh.shape)
    fitted = fit_normalization([store], [field], [mesh], redshifts=[redshift])
    conversion = fitted.conversion(store, field, redshift)

    def read_normalized(place: int) -> Array:
        start, shape = blocks[place]
        store.read_into(field, redshift, start, outs[shape], conversion=conversion)
        return outs[shape]

    def read_as_stored(place: int) -> Array:
        start, shape = blocks[place]
        store.read_into(field, redshift, start, outs[shape])
        return outs[shape]

    return {"ionstore": read_normalized, "ionstore as stored": read_as_stored}


def blosc_decoder(store: CubeStore, field: str, encoded: Sequence[Sequence[bytes]]) -> Read:
    chunk = np.empty((store.layout.chunk_cells,) * 3, store.dtype(field))

    def decode(place: int) -> Array:
        for frame in encoded[place]:
            blosc.decompress(frame, chunk)
        return chunk

    return decode


def zarr_reader(store: CubeStore, field: str, redshift: float, blocks: Sequence[Block]) -> Read:
    array = zarr.open_array(store.path / field, mode="r", zarr_format=3)
    index = store.redshift_index(redshift)
    return lambda place: np.asarray(array[(index, *slices(*blocks[place]))])


def tensorstore_reader(
    store: CubeStore, field: str, redshift: float, blocks: Sequence[Block]
) -> Read | None:
    try:
        import tensorstore
    except ImportError:
        return None
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str((store.path / field).resolve())},
        "context": {
            "data_copy_concurrency": {"limit": 1},
            "file_io_concurrency": {"limit": 1},
        },
    }
    array: Any = tensorstore.open(spec, read=True).result()
    index = store.redshift_index(redshift)
    return lambda place: np.asarray(array[(index, *slices(*blocks[place]))].read().result())


def check_equal(
    store: CubeStore, field: str, redshift: float, contestants: dict[str, Read], n_blocks: int
) -> None:
    """Check that all contestants give the same values; it also compiles and opens everything."""
    mesh = Region((0, 0, 0), store.mesh.shape)
    fitted = fit_normalization([store], [field], [mesh], redshifts=[redshift])
    for place in range(n_blocks):
        values = contestants["zarr"](place)
        normalized = np.empty(values.shape, np.float32)
        convert(values, normalized, fitted.conversion(store, field, redshift))
        np.testing.assert_array_equal(contestants["ionstore"](place), normalized)
        np.testing.assert_array_equal(contestants["ionstore as stored"](place), values)
        if "tensorstore" in contestants:
            np.testing.assert_array_equal(contestants["tensorstore"](place), values)
        contestants["blosc"](place)


if __name__ == "__main__":
    main()
