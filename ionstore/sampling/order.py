"""Order the samples of an epoch: plans, no data.

An epoch is one sequence of samples, made of visits: a visit takes some samples of one region, and
the next visit goes to another region. The sequence is cut into a few lanes of equal length. Place
p of the epoch belongs to lane ``p % n_lanes``, so that every batch takes equally from all lanes,
and rank k of ``world`` takes the places p with ``p % world == k``: those of the lanes k, k + world
and so on. Any number of ranks and workers therefore gets the same batches, and a position is all
that resuming needs.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ionstore.sampling.permutation import shuffled

# A batch mixes so many regions; more of them need more blocks in memory at a time.
DEFAULT_LANES = 8

_REMEMBERED = 4096  # rounds: two numbers each, which bisection asks for again and again
_REGIONS, _SAMPLES = 1, 2  # tell permutations of the same seed and epoch apart


@dataclass(frozen=True, slots=True)
class Opening:
    """A stretch of a lane that lies in one visit: while it lasts, its region is open."""

    lane: int
    visit: int  # number in the epoch
    region: int
    start: int  # places in the lane
    stop: int
    before: int  # samples of the region that come before, in the region's own order


@dataclass(frozen=True, slots=True)
class Places:
    """Samples at some places of an epoch; arrays of int64, shape (m,)."""

    lane: NDArray[np.int64]
    place: NDArray[np.int64]  # in its lane
    visit: NDArray[np.int64]  # number in the epoch
    region: NDArray[np.int64]
    member: NDArray[np.int64]  # number of the sample in its region


class Order:
    """One order of samples per seed and epoch.

    Regions take turns: of ``visits``, at least 1 and at most one a sample, one with half the visits
    of another is visited every other time. Fewer places (``n_samples``) than all samples leave
    some out, others in each epoch.
    """

    def __init__(
        self,
        sizes: NDArray[np.int64] | list[int],
        *,
        seed: int,
        shuffle: bool,
        visits: NDArray[np.int64] | int = 1,
        n_samples: int | None = None,
        n_lanes: int = DEFAULT_LANES,
    ) -> None:
        self.sizes = np.asarray(sizes, np.int64)
        total = int(self.sizes.sum())
        # The first to notice that the user gave no cells.
        if total == 0:
            raise ValueError("centers must hold at least one cell, got none")
        self.visits = np.minimum(np.broadcast_to(visits, self.sizes.shape), self.sizes)
        fewest = int(np.min(visits))
        if min(fewest, n_lanes) < 1 or seed < 0 or (n_samples is not None and n_samples < 1):
            raise ValueError(
                "visits, n_lanes and n_samples must be at least 1 and seed at least 0, got "
                f"{fewest}, {n_lanes}, {n_samples} and {seed}"
            )
        self.seed, self.shuffle, self.n_lanes = seed, shuffle, n_lanes
        self.n_samples = total if n_samples is None else min(n_samples, total)
        self._n_rounds = int(self.visits.max())
        lengths = [(self.n_samples - lane + n_lanes - 1) // n_lanes for lane in range(n_lanes)]
        self._lane_start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._remember_rounds()

    def _remember_rounds(self) -> None:
        # Every lane may be in another round, and the decoder ahead of it in the next.
        self._round = lru_cache(maxsize=2 * self.n_lanes)(self._planned_round)
        self._before = lru_cache(maxsize=_REMEMBERED)(self._counted_before)
        self._latest: dict[int, tuple[int, Opening]] = {}

    # Caches cannot be pickled, and each worker fills its own.
    def __getstate__(self) -> dict[str, Any]:
        forgotten = {"_round", "_before", "_latest"}
        return {name: value for name, value in vars(self).items() if name not in forgotten}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._remember_rounds()

    def lane_length(self, lane: int) -> int:
        """Return the places of a lane."""
        return int(self._lane_start[lane + 1] - self._lane_start[lane])

    def locate(self, epoch: int, stretches: Iterable[tuple[int, int, int]]) -> Places:
        """Return the samples in stretches of lanes: lane, first place, place past the last."""
        parts = []
        for lane, start, stop in stretches:
            place = start
            while place < stop:
                opening = self._opening(epoch, lane, place)
                end = min(stop, opening.stop)
                parts.append((opening, place, end - place))
                place = end
        # One table of openings, then repeated: a loop over samples would be slow in Python.
        counts = [count for _, _, count in parts]
        within = np.arange(sum(counts), dtype=np.int64)
        ends = accumulate(counts)
        table = [
            (o.lane, first - end + count, o.visit, o.region, o.before - o.start)
            for (o, first, count), end in zip(parts, ends, strict=True)
        ]
        columns = np.repeat(np.array(table, dtype=np.int64).reshape(-1, 5), counts, axis=0)
        lane_of, offset, visit, region, shift = columns.T
        place_of = within + offset
        member = place_of + shift
        if self.shuffle:
            key = (self.seed, epoch, _SAMPLES)
            member = shuffled(member, self.sizes[region], key=key, stream=region)
        return Places(lane_of, place_of, visit, region, member)

    def openings(self, epoch: int, lane: int, place: int) -> Iterator[Opening]:
        """Yield the openings of a lane in their order, from the one that a place lies in."""
        while place < self.lane_length(lane):
            # Not from `_latest`: the decoder's threads run ahead of the batches, which use it.
            opening = self._find_opening(epoch, lane, place)
            yield opening
            place = opening.stop

    def _opening(self, epoch: int, lane: int, place: int) -> Opening:
        """Return the opening that a place lies in; mostly the one that was asked for before."""
        of_epoch, opening = self._latest.get(lane, (-1, None))
        if opening is None or of_epoch != epoch or not opening.start <= place < opening.stop:
            opening = self._find_opening(epoch, lane, place)
            self._latest[lane] = epoch, opening
        return opening

    def _find_opening(self, epoch: int, lane: int, place: int) -> Opening:
        first, end = self._lane_start[lane : lane + 2].tolist()
        position = first + place
        # Each round visits every region at most once; its counts follow from its number alone, so
        # a place deep in an epoch is found without going through what lies before it.
        rounds = range(self._n_rounds)
        j = bisect_right(rounds, position, key=lambda j: self._before(j)[0]) - 1
        samples_before, visits_before = self._before(j)
        regions, starts = self._round(epoch, j)
        rank = int(np.searchsorted(starts, position - samples_before, side="right")) - 1
        region = int(regions[rank])
        visit_start, visit_stop = (samples_before + starts[rank : rank + 2]).tolist()
        start, stop = max(visit_start, first), min(visit_stop, end)
        before = int(self._taken(j)[region]) + start - visit_start
        return Opening(lane, visits_before + rank, region, start - first, stop - first, before)

    def _taken(self, j: int) -> NDArray[np.int64]:
        """Return the samples of each region that rounds before the j-th take."""
        visited = j * self.visits // self._n_rounds
        # Rounded down each time, so that visits and samples add up exactly over all rounds.
        taken: NDArray[np.int64] = self.sizes * visited // np.maximum(self.visits, 1)
        return taken

    def _counted_before(self, j: int) -> tuple[int, int]:
        """Return the samples and the visits of all rounds before the j-th."""
        return int(self._taken(j).sum()), int((j * self.visits // self._n_rounds).sum())

    def _planned_round(self, epoch: int, j: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the regions of a round in their order, and where the visit of each starts."""
        taken = self._taken(j + 1) - self._taken(j)
        regions = np.flatnonzero(taken)
        if self.shuffle:
            key = (self.seed, epoch, _REGIONS)
            places = np.arange(len(regions), dtype=np.int64)
            regions = regions[shuffled(places, len(regions), key=key, stream=j)]
        return regions, np.concatenate([[0], np.cumsum(taken[regions])]).astype(np.int64)
