"""Numbers of one array that lie one after the other in an object of an object store."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ionstore.cube.mesh import Array, Corner
from ionstore.errors import SourceDataError
from ionstore.readers.base import FieldSource
from ionstore.storage.files import OnBytes
from ionstore.storage.s3 import ObjectPath, OpenObject

# Planes of one request: a block takes twice this memory, or two planes where these are larger.
_FETCH_BYTES = 1 << 24


@dataclass(frozen=True)
class FlatObject(FieldSource):
    """An uncompressed array that is an object, such as values spooled for other machines."""

    place: ObjectPath
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool = False

    @property
    def path(self) -> Path:  # type: ignore[override]
        """Address of the object, for messages."""
        return Path(str(self.place))

    def stream(self, on_bytes: OnBytes) -> Iterator[Array]:
        """Raise an error, since values are streamed before they are put there."""
        raise NotImplementedError("stream the source that was spooled")

    def absolute(self) -> "FlatObject":
        """Return the source itself, which is the same from any working folder."""
        return self

    def read_block(self, start: Corner, shape: Corner) -> Array:
        """Return a block; its planes are read with what lies between their rows."""
        axes = (2, 1, 0) if self.fortran_order else (0, 1, 2)  # the slowest one first
        mesh, begin, cells = (
            [sizes[axis] for axis in axes] for sizes in (self.shape, start, shape)
        )
        item = self.dtype.itemsize
        pitch = mesh[2] * item
        n_bytes = (cells[1] - 1) * pitch + cells[2] * item
        firsts = [
            ((begin[0] + index) * mesh[1] + begin[1]) * pitch + begin[2] * item
            for index in range(cells[0])
        ]
        # A request takes far longer than its bytes, so planes are fetched several at a time.
        at_once = max(1, _FETCH_BYTES // n_bytes)
        values = np.empty(shape, self.dtype)
        planes = values.transpose(axes)
        with OpenObject(self.place) as file:
            for index, first in enumerate(firsts):
                if index % at_once == 0:
                    file.fetch((place, n_bytes) for place in firsts[index : index + at_once])
                plane = file.read_at(n_bytes, first)
                if len(plane) != n_bytes:
                    raise SourceDataError(
                        f"{self.place}: expected an array of shape {self.shape} and {self.dtype}, "
                        "the object is shorter; run the same command again"
                    )
                planes[index] = np.ndarray(cells[1:], self.dtype, plane, 0, (pitch, item))
        return values
