"""Lists of sources in text, gzipped or not: their number, then position and masses of each."""

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np

from ionstore.cube.mesh import Array, Cells
from ionstore.errors import SourceDataError
from ionstore.readers.base import PointList
from ionstore.readers.points.positions import cells_at, check_masses
from ionstore.storage.files import OnBytes, naming

GZIP_MAGIC = b"\x1f\x8b"
POSITION_COLUMNS = 3

# Text of one piece; the numbers made of it take about five times as much memory.
_TEXT_BYTES = 1 << 22
# A damaged file may have no line break at all, so waiting for one is bounded.
_LINE_BYTES = 1 << 16
_SHOWN_BYTES = 40
_SPACE = 32  # all characters up to the space separate numbers
_MOST_COLUMNS = 9  # codes write 4 to 7
# Fortran writes 1.5D+03 in double precision, and lists may be separated by commas.
_AS_PYTHON_WRITES = bytes.maketrans(b"dDE,", b"eee ")
_COUNT = re.compile(rb"\d+")
_REAL = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)(e?[+-]?\d+)?")
_EXPONENT_WITHOUT_LETTER = re.compile(rb"([+-]?[\d.]+)([+-]\d+)")


@dataclass(frozen=True)
class SourceList(PointList):
    """The sources of a text file, each with positions counted from 1 and one or more masses."""

    path: Path
    # Columns that add up to the mass of a source, counted from 1.
    columns: tuple[int, ...] = (POSITION_COLUMNS + 1,)
    # Columns of the line of the first source, 0 if unknown: only for hints to the user, since
    # Fortran's list-directed output may spread a source over several lines.
    n_columns: int = field(default=0, compare=False)

    def points(self, mesh_cells: int, on_bytes: OnBytes) -> Iterator[tuple[Cells, Array]]:
        """Yield cells and masses; each mass is the sum of the columns."""
        # A first pass over the file, since only the number of all numbers tells the columns.
        n_columns = self._n_columns()
        n_sources, texts = self._open(on_bytes)
        done = 0
        begun: Array = np.zeros(0)  # numbers of a source that goes on in the next piece
        for text in texts:
            self._check_line_begins(text, -len(begun) % n_columns if n_columns else 0, n_columns)
            numbers = np.concatenate([begun, self._numbers(text)])
            n_here = len(numbers) // n_columns if n_columns else 0
            rows, begun = np.split(numbers, [n_here * n_columns])
            if n_here:
                rows = rows.reshape(n_here, n_columns)
                positions = rows[:, :POSITION_COLUMNS]
                cells = cells_at(self.path, positions, mesh_cells, counted_from=1, n_before=done)
                masses = rows[:, [column - 1 for column in self.columns]]
                check_masses(self.path, masses, done)
                yield cells, masses.sum(axis=1)
                done += n_here
        # The first pass has checked the count, so another one means another file.
        if done != n_sources or begun.size:
            raise SourceDataError(f"{self.path}: the file changed while it was read; try again")

    def _n_columns(self) -> int:
        """Return how many numbers each source has, 0 if there is no source."""
        n_sources, texts = self._open(lambda piece: None)
        n_numbers = sum(len(_number_begins(text)) for text in texts)
        if n_sources == n_numbers == 0:
            return 0
        if n_sources == 0 or n_numbers % n_sources or n_numbers <= POSITION_COLUMNS * n_sources:
            raise SourceDataError(
                f"{self.path}: expected i, j, k and masses for each of {n_sources} sources, got "
                f"{n_numbers} numbers; the file is truncated or damaged, copy it again"
            )
        n_columns = n_numbers // n_sources
        # A first line that says too little would make several sources look like a wide one.
        if n_columns > _MOST_COLUMNS:
            raise SourceDataError(
                f"{self.path}: its first line says {n_sources} source{'s' * (n_sources > 1)}, "
                f"{n_numbers} numbers follow: more than {_MOST_COLUMNS} for each; fix the first "
                "line, or remove what follows the last source"
            )
        if max(self.columns) > n_columns:
            raise SourceDataError(
                f"{self.path}: there is no column {max(self.columns)}, masses are in columns "
                f"{POSITION_COLUMNS + 1} to {n_columns}; choose among these with --source-column"
            )
        return n_columns

    def _open(self, on_bytes: OnBytes) -> tuple[int, Iterator[bytes]]:
        """Return the number of sources, and pieces of whole lines that follow it."""
        texts = _whole_lines(self.path, on_bytes)
        line, _, rest = next(texts, b"").lstrip().partition(b"\n")
        words = line.split()
        if not words or not _COUNT.fullmatch(words[0]):
            raise SourceDataError(
                f"{self.path}: expected the number of sources in the first line, "
                f"got {_shown(line)}; the file is damaged, copy it again"
            )
        return int(words[0]), chain([rest], texts)

    def _numbers(self, text: bytes) -> Array:
        words = text.split()
        # NumPy reads all words at once; only a piece that it refuses is read word by word.
        try:
            return np.array(words, np.float64)
        except ValueError:
            return np.array([self._number(word) for word in words])

    def _number(self, word: bytes) -> float:
        # Fortran leaves the letter out when the exponent has three digits: 1.5-103.
        word = _EXPONENT_WITHOUT_LETTER.sub(rb"\1e\2", word)
        try:
            return float(word)
        except ValueError as error:
            raise SourceDataError(
                f"{self.path}: expected numbers, got {_shown(word)}; "
                "the file is damaged, copy it again"
            ) from error

    def _check_line_begins(self, text: bytes, first: int, n_columns: int) -> None:
        """Check that each source begins a line, the first one with the number at `first`."""
        # Lines lost in the middle can leave a count that divides evenly, but not the line breaks.
        begins = _number_begins(text)
        begins_line = np.zeros(len(begins) + 1, bool)
        begins_line[0] = True
        line_ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
        begins_line[np.searchsorted(begins, line_ends)] = True
        if n_columns and not begins_line[first : len(begins) : n_columns].all():
            raise SourceDataError(
                f"{self.path}: expected {n_columns} numbers for each source, its first at the "
                "beginning of a line, got lines of another length; the file is truncated or "
                "damaged, copy it again"
            )


def begins_as_list(text: bytes, *, is_named: bool) -> bool:
    """Tell whether a text begins with a number of sources, and the position and mass of one."""
    first_line, _, rest = text.translate(_AS_PYTHON_WRITES).lstrip().partition(b"\n")
    count, words = first_line.split()[:1], rest.split()
    if not text[-1:].isspace():
        words = words[:-1]  # the end of the last one may be missing
    # A name that says "sources" makes up for what a truncated file, or an empty list, lacks.
    if is_named and len(words) <= POSITION_COLUMNS:
        return all(map(_COUNT.fullmatch, [*count, *words]))
    *position, mass = words[: POSITION_COLUMNS + 1] or [b""]
    return (
        len(position) == POSITION_COLUMNS
        and all(map(_COUNT.fullmatch, [*count, *position]))
        and _REAL.fullmatch(mass) is not None
    )


def columns_of_first_source(text: bytes) -> int:
    """Return the numbers in the line of the first source, 0 where the text does not hold it all."""
    _, _, rest = text.translate(_AS_PYTHON_WRITES).lstrip().partition(b"\n")
    line, end, _ = rest.lstrip().partition(b"\n")
    return len(line.split()) if end else 0


@contextmanager
def uncompressed(path: Path, on_bytes: OnBytes) -> Iterator[io.BufferedIOBase]:
    """Open a text, gzipped or not; `on_bytes` gets the bytes of the file as they are stored."""
    with naming(path), path.open("rb") as file:
        # The name does not tell: lists are seen gzipped under .dat, and the other way round.
        compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        watched = _Watched(file, on_bytes)
        try:
            yield gzip.GzipFile(fileobj=watched, mode="rb") if compressed else watched
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise SourceDataError(
                f"{path}: it cannot be uncompressed ({error}); "
                "it is truncated or damaged, copy it again"
            ) from error


class _Watched(io.BufferedIOBase):
    """A file that passes on its bytes as they are read."""

    def __init__(self, file: IO[bytes], on_bytes: OnBytes) -> None:
        self._file, self._on_bytes = file, on_bytes

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        piece = self._file.read(-1 if size is None else size)
        self._on_bytes(piece)
        return piece


def _whole_lines(path: Path, on_bytes: OnBytes) -> Iterator[bytes]:
    """Yield a text in pieces that end with a line, its numbers as Python writes them."""
    begun = b""
    with uncompressed(path, on_bytes) as file:
        while piece := file.read(_TEXT_BYTES):
            lines, end, rest = piece.translate(_AS_PYTHON_WRITES).rpartition(b"\n")
            if end:
                yield begun + lines + end
                begun = rest
            else:
                begun += rest
            if len(begun) > _LINE_BYTES:
                raise SourceDataError(
                    f"{path}: expected lines of numbers, got one longer than {_LINE_BYTES} "
                    "characters; the file is damaged, copy it again"
                )
    # Without its line break, the last number may have lost digits and still be a number.
    if begun.strip():
        raise SourceDataError(
            f"{path}: its last line must end with a line break, got {_shown(begun)}; the file is "
            "truncated, copy it again, or add the line break if nothing is missing"
        )


def _number_begins(text: bytes) -> Array:
    """Return where numbers begin in a text."""
    # Bytes are compared as an array: splitting would make an object of every number.
    is_space = np.frombuffer(text, np.uint8) <= _SPACE
    begins = np.flatnonzero(is_space[:-1] > is_space[1:]) + 1
    return begins if is_space[:1].all() else np.concatenate([[0], begins])


def _shown(text: bytes) -> str:
    """Return the beginning of a text, fit for a message."""
    return repr(text[:_SHOWN_BYTES].decode("ascii", "replace"))
