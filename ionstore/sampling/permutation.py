"""Keyed random permutations and draws that need no memory: any entry is computed alone.

No permutation is stored, so an epoch over billions of cells takes no memory and can start anywhere.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_ROUNDS = 6  # of the Feistel network, two by two


def shuffled(
    positions: NDArray[np.int64],
    n: NDArray[np.int64] | int,
    *,
    key: tuple[int, ...],
    stream: NDArray[np.int64] | int = 0,
) -> NDArray[np.int64]:
    """Return the entries at the given positions of random permutations of ``range(n)``.

    Each key and each stream (both at least 0) gives another permutation. A Feistel network permutes
    the smallest ``range(2**bits)`` of at least four that holds n; members outside ``range(n)`` are
    permuted again until they fall inside (cycle walking: Black & Rogaway 2002, Ciphers with
    arbitrary finite domains, section 4).

    >>> sorted(shuffled(np.arange(5), 5, key=(1, 0)).tolist())
    [0, 1, 2, 3, 4]
    """
    lengths = np.broadcast_to(np.asarray(n, np.int64), positions.shape)
    if lengths.size and lengths.min() < 1:
        # The kernel would walk its cycle for ever.
        raise ValueError(f"n must be at least 1, got {lengths.min()}")
    streams = np.broadcast_to(np.asarray(stream, np.int64), positions.shape)
    members = np.empty(positions.shape, np.int64)
    # The hash overflows on purpose; NumPy warns of it where the kernel runs as plain Python.
    with np.errstate(over="ignore"):
        _permute(positions, lengths, streams, _keys(key), members)
    return members


def drawn(n: int, numbers: NDArray[np.int64], *, key: tuple[int, ...]) -> NDArray[np.int64]:
    """Return an independent random member of ``range(n)`` for each number, always the same one.

    >>> drawn(48, np.array([7, 8, 7]), key=(2021, 0)).tolist()
    [43, 32, 43]
    """
    members = np.empty(numbers.shape, np.int64)
    with np.errstate(over="ignore"):
        _draw(np.uint64(n), numbers, _keys(key), members)
    return members


@lru_cache(maxsize=64)
def _keys(key: tuple[int, ...]) -> NDArray[np.uint64]:
    if min(key) < 0:
        raise ValueError(f"no part of a key may be below 0, got {key}")
    # The length goes first: a seed sequence does not tell [1] from [1, 0].
    sequence = np.random.SeedSequence([len(key), *key])
    return np.array(sequence.generate_state(_ROUNDS, np.uint64), dtype=np.uint64)


@njit(cache=True)
def _mix(word: Any) -> Any:
    """Scramble a 64-bit word (the finalizer of Steele, Lea & Flood 2014, SplitMix)."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@njit(nogil=True, cache=True)
def _permute(
    positions: NDArray[np.int64],
    lengths: NDArray[np.int64],
    streams: NDArray[np.int64],
    keys: NDArray[np.uint64],
    members: NDArray[np.int64],
) -> None:
    one, two = np.uint64(1), np.uint64(2)
    for m in range(positions.size):
        n = np.uint64(lengths[m])
        # Two at least, so that both halves hold a bit; they differ by one where bits is odd.
        bits = two
        while (one << bits) < n:
            bits += one
        low_bits = bits // two
        low, high = (one << low_bits) - one, (one << (bits - low_bits)) - one
        # Plus one: the hash of 0 is 0, which would leave stream 0 unmixed.
        stream = _mix(np.uint64(streams[m]) + one)
        value = np.uint64(positions[m])
        while True:
            left, right = value >> low_bits, value & low
            for k in range(0, keys.size, 2):
                left ^= _mix(right ^ keys[k] ^ stream) & high
                right ^= _mix(left ^ keys[k + 1] ^ stream) & low
            value = (left << low_bits) | right
            # From four on, under half of the range lies outside: two steps on average at most.
            if value < n:
                break
        members[m] = np.int64(value)


@njit(nogil=True, cache=True)
def _draw(
    n: np.uint64,
    numbers: NDArray[np.int64],
    keys: NDArray[np.uint64],
    members: NDArray[np.int64],
) -> None:
    for m in range(numbers.size):
        word = _mix(_mix(np.uint64(numbers[m]) ^ keys[0]) ^ keys[1])
        members[m] = np.int64(word % n)  # its bias, n / 2**64, is far below anything measurable
