"""Lists of sources in text, as Fortran writes them."""

import gzip
from pathlib import Path

import numpy as np

from ionstore.cube.mesh import Array

MESH = 9


def random_sources(n_sources: int = 50, n_masses: int = 2, seed: int = 1) -> Array:
    """Positions counted from 1, and masses, shape (n_sources, 3 + n_masses)."""
    rng = np.random.default_rng(seed)
    positions = rng.integers(1, MESH + 1, (n_sources, 3))
    return np.hstack([positions, rng.lognormal(8, 1, (n_sources, n_masses))])


def list_text(
    sources: Array, *, real: str = "%.17g", lines: int = 1, count: str | None = None
) -> bytes:
    """A list as Fortran writes it, the numbers of a source on one or more lines."""
    text = f"  {len(sources) if count is None else count}\n"
    for source in sources:
        words = [f"{int(index):12d}" for index in source[:3]]
        words += [f"   {real % mass}" for mass in source[3:]]
        split = np.array_split(np.array(words, object), lines) if lines > 1 else [words]
        text += "".join(f"{''.join(part)}\n" for part in split)
    return text.encode()


def write_list(path: Path, text: bytes) -> Path:
    """Write a list, gzipped if its name says so; returns its path."""
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path
