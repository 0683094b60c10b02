"""What regions would cost, for any size of their cores: plans, no data."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ionstore.loading.open_regions import region_bytes
from ionstore.sampling.memory import choose_core
from ionstore.sampling.regions import (
    Boxes,
    Partition,
    Reach,
    boxes_by_chunk,
    chunks_touched,
    core_candidates,
)
from ionstore.sampling.samples import Samples
from ionstore.sampling.settings import LoaderSettings

_LEAST_SAMPLES_PER_OPENING = 256


class RegionSizes:
    """Regions of the same samples by the side of their cores.

    Parameters
    ----------
    samples : Samples
        What is to be cut.
    reach : Reach
        What belongs to a sample.
    settings : LoaderSettings
        How samples are ordered.
    n_channels : int
        Input fields.
    chunk_cells : int
        Cells along a side of a chunk.
    """

    def __init__(
        self,
        samples: Samples,
        reach: Reach,
        settings: LoaderSettings,
        *,
        n_channels: int,
        chunk_cells: int,
    ) -> None:
        self._samples, self._reach, self._settings = samples, reach, settings
        self._n_channels, self.chunk_cells = n_channels, chunk_cells
        self._latest: tuple[int | None, Partition] | None = None

    @property
    def candidates(self) -> list[int]:
        """Sides of cores to choose from, ascending: the one asked for, if one is."""
        if self._settings.core is not None:
            return [self._settings.core]
        return core_candidates(int(self._samples.mesh_cells.max()), self.chunk_cells)

    def partition(self, core: int | None) -> Partition:
        """Return the samples by region; what was asked for last is remembered."""
        if self._latest is None or self._latest[0] != core:
            by_chunk = None if core is None else self._by_chunk
            partition = Partition(
                self._samples, core, chunk_cells=self.chunk_cells, by_chunk=by_chunk
            )
            self._latest = core, partition
        return self._latest[1]

    @cached_property
    def _by_chunk(self) -> list[Boxes | None]:
        return boxes_by_chunk(self._samples, self.chunk_cells)

    def block_bytes(self, core: int) -> int:
        """Return the memory that a region takes at most."""
        return region_bytes(self.partition(core), self._reach, n_channels=self._n_channels)

    def visits(self, core: int | None) -> NDArray[np.int64]:
        """Return how often each region is visited until all of its samples have been taken."""
        settings, partition = self._settings, self.partition(core)
        if not settings.shuffle or partition.core is None:
            return np.ones_like(partition.sizes)
        if settings.samples_per_opening is not None:
            return -(-partition.sizes // settings.samples_per_opening)
        total, n_regions = self._samples.n_samples, partition.n_regions
        wanted = min(settings.samples_per_epoch or total, total)
        at_a_time = max(_LEAST_SAMPLES_PER_OPENING, wanted // n_regions)
        return np.minimum(max(1, total // (n_regions * at_a_time)), partition.sizes)

    def decoded_cells(self, core: int) -> float:
        """Return the cells of each field that an epoch decodes on all ranks, in whole chunks.

        What is to be expected: which regions an epoch visits, and where its lanes begin, is drawn.
        """
        partition, total = self.partition(core), self._samples.n_samples
        start, shape, _, _ = partition.blocks(self._reach)
        mesh = self._samples.mesh_cells[partition.cube][:, None]
        chunks = chunks_touched(start, shape, mesh, self.chunk_cells)
        wanted = min(self._settings.samples_per_epoch or total, total)
        visits = self.visits(core)
        n_visits = int(visits.sum())
        begun = -(-n_visits * wanted // total)
        # A lane that begins in the midst of a visit opens its region once more.
        edges = min(self._settings.lanes, wanted) - 1
        decoded = begun * (chunks * visits).sum() / n_visits
        decoded += edges * (chunks * (partition.sizes - visits)).sum() / total
        return float(decoded) * self.chunk_cells**3

    def core_cells(self, core: int) -> float:
        """Return the cells of the targets of all regions."""
        _, _, _, targets = self.partition(core).blocks(self._reach)
        return float(targets.prod(axis=1).sum())

    def choose(self, available: int, *, or_smaller: bool = False) -> int | None:
        """Return the core to take where a block has so many bytes, None if none fits.

        Parameters
        ----------
        available : int
            Bytes for one block.
        or_smaller : bool
            Whether a smaller core may take the place of one that is asked for and does not fit.
        """
        chosen = self._choose(available, self.candidates)
        asked = self._settings.core
        if chosen is None and asked is not None and or_smaller:
            smaller = [core for core in core_candidates(asked, self.chunk_cells) if core < asked]
            chosen = self._choose(available, smaller)
        return chosen

    def _choose(self, available: int, candidates: list[int]) -> int | None:
        return choose_core(
            available,
            candidates,
            chunk_cells=self.chunk_cells,
            block_bytes=self.block_bytes,
            decoded_cells=self.decoded_cells,
        )
