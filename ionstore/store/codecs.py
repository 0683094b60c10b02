"""Compression of chunks, and the check that a field is stored in a way that can be decoded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ionstore.cube.mesh import Array
from ionstore.errors import StoreFormatError
from ionstore.storage.paths import StorePath

if TYPE_CHECKING:
    from numcodecs import Blosc
    from zarr.abc.codec import BytesBytesCodec


_STORAGE = {
    "values": "real numbers",
    "shapes": "cubic chunks in cubic shards, one redshift each",
    "chunk keys": "default, separated by /",
    "codecs": "sharding_indexed",
    "codecs of a chunk": "bytes, blosc, crc32c",
    "codecs of an index": "bytes, crc32c",
    "place of an index": "end",
    "storage transformers": "none",
}
"""The one way in which this format stores a field: `ionstore.store.shards` decodes no other."""


@dataclass(frozen=True, slots=True)
class Compression:
    """Settings of the lossless Blosc codec."""

    cname: Literal["lz4", "lz4hc", "blosclz", "zlib", "zstd"]
    clevel: int  # 0 to 9
    shuffle: Literal["noshuffle", "shuffle", "bitshuffle"]


def default_compression(dtype: np.dtype[Any]) -> Compression:
    """Return the settings for values of a dtype."""
    # Chosen with benchmarks/codecs.py on densities, counts and ionized fractions. Up to level 5,
    # zstd shrinks floats by another 2 % but takes two to five times as long; lz4 takes two thirds
    # more space for counts. Shuffling bits saves a fifth of the space of counts, but in floats it
    # saves less than shuffling bytes.
    return Compression("zstd", 1, "shuffle" if dtype.kind == "f" else "bitshuffle")


def stored_compression(metadata: Mapping[str, Any]) -> Compression:
    """Return the settings of a field from metadata that passed `check_storage`."""
    codecs = metadata["codecs"][0]["configuration"]["codecs"]
    (settings,) = (codec["configuration"] for codec in codecs if codec["name"] == "blosc")
    return Compression(settings["cname"], settings["clevel"], settings["shuffle"])


def chunk_codecs(compression: Compression, dtype: np.dtype[Any]) -> list["BytesBytesCodec"]:
    """Return the codecs of a chunk: Blosc, then a checksum of its output."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    # The type size is given because the sharding codec hands plain bytes to Blosc, which would then
    # shuffle single bytes.
    blosc = BloscCodec(
        typesize=dtype.itemsize,
        cname=compression.cname,
        clevel=compression.clevel,
        shuffle=compression.shuffle,
    )
    # Blosc alone returns wrong data silently after a flipped bit.
    return [blosc, Crc32cCodec()]


def check_storage(path: StorePath, metadata: Mapping[str, Any]) -> None:
    """Raise StoreFormatError unless a field is stored so that its chunks can be decoded here."""
    try:
        found = _storage(metadata)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise StoreFormatError(
            f"{path}: expected the metadata of a sharded array, found others ({error!r}); "
            "ingest the simulation again"
        ) from error
    for what, required in _STORAGE.items():
        if found[what] != required:
            raise StoreFormatError(
                f"{path}: {what} must be {required}, got {found[what]}; ingest the simulation again"
            )


def _storage(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return how a field is stored, with the keys of `_STORAGE`."""
    sharding, keys = metadata["codecs"][0], metadata["chunk_key_encoding"]
    shards = sharding["configuration"]
    mesh = metadata["shape"][1:]
    shard = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    chunk = shards["chunk_shape"]
    are_cubes = all(list(shape) == [1, *[shape[-1]] * 3] for shape in ([1, *mesh], shard, chunk))
    are_whole = 1 <= chunk[-1] <= mesh[-1] and shard[-1] > 0 and shard[-1] % chunk[-1] == 0
    is_real = np.dtype(metadata["data_type"]).kind in "biuf"
    separator = keys.get("configuration", {}).get("separator", "/")
    return {
        "values": _STORAGE["values"] if is_real else metadata["data_type"],
        "shapes": (
            _STORAGE["shapes"]
            if are_cubes and are_whole
            else f"chunks {chunk} in shards {shard} on a mesh {mesh}"
        ),
        "chunk keys": f"{keys['name']}, separated by {separator}",
        "codecs": _names(metadata["codecs"]),
        "codecs of a chunk": _names(shards["codecs"]),
        "codecs of an index": _names(shards["index_codecs"]),
        "place of an index": shards.get("index_location", "end"),
        "storage transformers": _names(metadata.get("storage_transformers", ())) or "none",
    }


def _names(codecs: Sequence[Mapping[str, Any]]) -> str:
    endians = (codec.get("configuration", {}).get("endian", "little") for codec in codecs)
    return ", ".join(
        codec["name"] if endian == "little" else f"{codec['name']} ({endian}-endian)"
        for codec, endian in zip(codecs, endians, strict=True)
    )


def blosc(compression: Compression, dtype: np.dtype[Any]) -> "Blosc":
    """Return Blosc as it compresses one chunk, for use without Zarr."""
    from numcodecs import Blosc

    shuffle = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}[compression.shuffle]
    return Blosc(compression.cname, compression.clevel, shuffle, typesize=dtype.itemsize)


def round_to_bits(values: Array, keep_bits: int) -> Array:
    """Round finite float32 values, keeping 1 to 23 bits of their mantissa."""
    from numcodecs import BitRound

    # The relative error is at most 2**-(keep_bits + 1).
    if not 1 <= keep_bits <= 23:
        raise ValueError(f"keep_bits must be between 1 and 23, got {keep_bits}")
    rounded: Array = BitRound(keepbits=keep_bits).encode(np.ascontiguousarray(values))
    return rounded.view(np.float32).reshape(values.shape)
