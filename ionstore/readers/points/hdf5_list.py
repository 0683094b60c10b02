"""Lists of sources in HDF5 files, as pyC2Ray converts them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ionstore.cube.mesh import Array, Cells
from ionstore.readers.base import PointList
from ionstore.readers.points.positions import cells_at, read_sources
from ionstore.storage.files import OnBytes

DATASETS = ("sources_positions", "sources_mass")


@dataclass(frozen=True)
class ConvertedSourceList(PointList):
    """The sources of an HDF5 file, weighed by their masses."""

    path: Path

    def points(self, mesh_cells: int, on_bytes: OnBytes) -> Iterator[tuple[Cells, Array]]:
        """Yield cells and masses of all sources."""

        def cells_of(positions: Array, n_before: int) -> Cells:
            # The converter counts cells from 0, unlike the text lists that it converts.
            return cells_at(self.path, positions, mesh_cells, counted_from=0, n_before=n_before)

        return read_sources(self.path, DATASETS, None, on_bytes, cells_of)
