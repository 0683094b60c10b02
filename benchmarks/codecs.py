"""Measure which Blosc settings compress real fields well and decode them fast.

Prints one JSON line per field and setting: the compression ratio, encoding and decoding speed of
single chunks on one thread, and the time to read a block through the store. Rounds are interleaved
over the settings, so that a busy moment of the machine hits all of them alike.

    python benchmarks/codecs.py FOLDER --redshift 8.000
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
from result import print_result

from ionstore.build.store_writer import StoredField, create_store
from ionstore.cube.fields import FIELDS
from ionstore.cube.mesh import Array, Mesh
from ionstore.cube.statistics import FieldStatistics
from ionstore.store.codecs import Compression, blosc
from ionstore.store.cube_store import CubeStore

SETTINGS = [
    *(
        Compression("zstd", level, shuffle)
        for level, shuffle in product((1, 3, 5, 7), ("noshuffle", "shuffle", "bitshuffle"))
    ),
    *(
        Compression(cname, 5, shuffle)
        for cname, shuffle in product(("lz4", "lz4hc"), ("shuffle", "bitshuffle"))
    ),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with files <prefix>_z<redshift>.npy")
    parser.add_argument("--redshift", default="8.000", help="as written in the file names")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for field in FIELDS.values():
        path = arguments.folder / f"{field.file_prefix}_z{arguments.redshift}.npy"
        if path.exists():
            for line in measure(field.name, stored(np.load(path)), arguments.rounds):
                print_result(field.name, **line)


def stored(values: Array) -> Array:
    """Return the values in the dtype that a store gives them."""
    if np.all(values == np.rint(values)) and values.max() <= 65535:
        return values.astype(np.uint8 if values.max() <= 255 else np.uint16)
    return values.astype(np.float32)


def measure(name: str, cube: Array, rounds: int) -> Iterator[dict[str, object]]:
    """Yield one result per setting."""
    chunks = [
        np.ascontiguousarray(cube[i : i + 32, j : j + 32, k : k + 32])
        for i, j, k in product(*(range(0, side, 32) for side in cube.shape))
    ]
    times: dict[Compression, dict[str, list[float]]] = {
        setting: {"encode": [], "decode": [], "read": []} for setting in SETTINGS
    }
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        stores = {
            setting: write_store(Path(folder) / f"{index}.zarr", name, cube, setting)
            for index, setting in enumerate(SETTINGS)
        }
        rng = np.random.default_rng(1)
        width = min(112, cube.shape[0])  # a core of 64 cells and a halo of 24
        for _ in range(rounds):
            start = tuple(int(first) for first in rng.integers(0, cube.shape[0] - width + 1, 3))
            for setting in SETTINGS:
                codec = blosc(setting, cube.dtype)
                begin = time.perf_counter()
                encoded = [codec.encode(chunk) for chunk in chunks]
                middle = time.perf_counter()
                for chunk in encoded:
                    codec.decode(chunk)
                end = time.perf_counter()
                stores[setting].read_block(name, 0.0, start, (width,) * 3)
                read = time.perf_counter()
                sizes[setting] = sum(map(len, encoded))
                for key, value in (
                    ("encode", middle - begin),
                    ("decode", end - middle),
                    ("read", read - end),
                ):
                    times[setting][key].append(value)
    for setting in SETTINGS:
        median = {key: statistics.median(values) for key, values in times[setting].items()}
        yield {
            **asdict(setting),
            "dtype": str(cube.dtype),
            "mesh": cube.shape[0],
            "ratio": round(cube.nbytes / sizes[setting], 3),
            "encode_mb_per_s": round(cube.nbytes / median["encode"] / 1e6),
            "decode_mb_per_s": round(cube.nbytes / median["decode"] / 1e6),
            "read_block_cells": width,
            "read_block_mb_per_s": round(width**3 * cube.itemsize / median["read"] / 1e6),
            "rounds": rounds,
        }


def write_store(path: Path, name: str, cube: Array, setting: Compression) -> CubeStore:
    field = StoredField(name, str(cube.dtype), FIELDS[name].units)
    writer = create_store(path, Mesh(cube.shape[0]), [0.0], [field], compression={name: setting})
    for shard in writer.shards.layout.shard_indices():
        start, shape = writer.shards.layout.shard_region(shard)
        x, y, z = (slice(first, first + cells) for first, cells in zip(start, shape, strict=True))
        writer.shards.write_block(name, 0, start, cube[x, y, z])
    writer.finalize({name: [FieldStatistics.of(cube)]})
    return CubeStore.open(path)


if __name__ == "__main__":
    main()
