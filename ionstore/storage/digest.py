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


def start_digest() -> Digest:
    """Return the digest of no bytes, by the algorithm of new digests."""
    from xxhash import xxh3_128

    return xxh3_128()


def in_words(digest: Digest) -> str:
    """Return a digest of `start_digest` as it is recorded: algorithm and hexadecimal digits."""
    return f"{DIGEST}:{digest.hexdigest()}"


def find_digest(algorithm: str) -> Digest | None:
    """Return the digest of no bytes by a recorded algorithm; None if that is not known here.

    Parameters
    ----------
    algorithm : str
        `DIGEST`, or one that hashlib has, such as "sha256".
    """
    if algorithm == DIGEST:
        return start_digest()
    if algorithm in hashlib.algorithms_available:
        return hashlib.new(algorithm)
    return None
