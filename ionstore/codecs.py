"""How the chunks of a store are compressed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ionstore.cube import Array

if TYPE_CHECKING:
    from numcodecs import Blosc
    from zarr.abc.codec import BytesBytesCodec


@dataclass(frozen=True, slots=True)
class Compression:
    """Settings of the lossless Blosc codec.

    Parameters
    ----------
    cname : {"lz4", "lz4hc", "blosclz", "zlib", "zstd"}
        Compressor inside of Blosc.
    clevel : int
        Compression level, 0 to 9.
    shuffle : {"noshuffle", "shuffle", "bitshuffle"}
        How bytes are reordered before they are compressed.
    """

    cname: Literal["lz4", "lz4hc", "blosclz", "zlib", "zstd"]
    clevel: int
    shuffle: Literal["noshuffle", "shuffle", "bitshuffle"]


def default_compression(dtype: np.dtype[Any]) -> Compression:
    """Return the settings for values of a dtype.

    Notes
    -----
    Chosen with ``benchmarks/codecs.py`` on densities, counts and ionized fractions. Up to level 5
    zstd shrinks floats by another 2 % but takes two to five times as long; lz4 takes two thirds
    more space for counts. Shuffling bits saves a fifth of the space of counts, and saves less than
    shuffling bytes in floats.
    """
    return Compression("zstd", 1, "shuffle" if dtype.kind == "f" else "bitshuffle")


def chunk_codecs(compression: Compression, dtype: np.dtype[Any]) -> list["BytesBytesCodec"]:
    """Return the codecs of a chunk: Blosc, then a checksum of its output.

    Notes
    -----
    Blosc alone returns wrong data silently after a flipped bit. The type size is given because
    the sharding codec hands bytes to Blosc, which would shuffle them as single bytes.
    """
    from zarr.codecs import BloscCodec, Crc32cCodec

    blosc = BloscCodec(
        typesize=dtype.itemsize,
        cname=compression.cname,
        clevel=compression.clevel,
        shuffle=compression.shuffle,
    )
    return [blosc, Crc32cCodec()]


def blosc(compression: Compression, dtype: np.dtype[Any]) -> "Blosc":
    """Return Blosc as it compresses one chunk, outside of Zarr: to estimate and to measure."""
    from numcodecs import Blosc

    shuffle = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}[compression.shuffle]
    return Blosc(compression.cname, compression.clevel, shuffle, typesize=dtype.itemsize)


def round_to_bits(values: Array, keep_bits: int) -> Array:
    """Round float32 values to a number of bits of their mantissa.

    Parameters
    ----------
    values : ndarray of float32
        Finite values.
    keep_bits : int
        Bits of the mantissa to keep, 1 to 23; the relative error is at most
        ``2**-(keep_bits + 1)``.

    Returns
    -------
    ndarray of float32
        New array of the same shape.

    Raises
    ------
    ValueError
        If `keep_bits` is out of range.
    """
    from numcodecs import BitRound

    if not 1 <= keep_bits <= 23:
        raise ValueError(f"keep_bits must be between 1 and 23, got {keep_bits}")
    rounded: Array = BitRound(keepbits=keep_bits).encode(np.ascontiguousarray(values))
    return rounded.view(np.float32).reshape(values.shape)
