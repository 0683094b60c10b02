"""Digests of source files, by which they are known again."""

import hashlib
from typing import Protocol

DIGEST = "xxh3_128"
"""The algorithm of new digests: it keeps up with memory, and tells changes but not forgeries."""


class Digest(Protocol):
    """A digest that bytes are added to."""

    def update(self, content: bytes, /) -> None:
        """Add bytes."""

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far, in hexadecimal digits."""


def start_digest(algorithm: str = DIGEST) -> Digest | None:
    """Return the digest of no bytes; None if the algorithm is not known here.

    Parameters
    ----------
    algorithm : str
        `DIGEST`, or one that hashlib has, such as "sha256".
    """
    if algorithm == DIGEST:
        from xxhash import xxh3_128

        return xxh3_128()
    if algorithm in hashlib.algorithms_available:
        return hashlib.new(algorithm)
    return None
