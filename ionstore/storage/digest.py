"""Digests of source files, by which changed files are found."""

import hashlib
from typing import Protocol

# As fast as memory, so that digests cost no time beside reading. It finds changes, not forgeries.
DIGEST = "xxh3_128"


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
    """Start a digest by a recorded algorithm, such as "sha256"; None if it is not known here."""
    if algorithm == DIGEST:
        return start_digest()
    if algorithm in hashlib.algorithms_available:
        return hashlib.new(algorithm)
    return None
