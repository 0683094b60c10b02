"""Run contestants: check them first, then time them in interleaved rounds.

There are two kinds. A `Cutting` contestant cuts the cells it is given when it is asked to; a
`Streaming` one hands out an epoch of batches at its own pace, ahead of the loop if it can.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from box import Box
from result import median_and_spread

from ionstore.cube.mesh import Array, Cells, Neighborhoods
from ionstore.loading.gather import gather_neighborhoods

BATCH_BYTES, MOST_SAMPLES = 32e6, 1024
N_BATCHES = 8  # of different cells, so that no contestant finds its data in the processor's cache
MOST_BATCHES = 4 * N_BATCHES  # a round, for those that are done with fewer in no time
N_DROPPED = 2  # batches of an epoch that pass before the clock starts
N_TIMED = 24
ROUND_S = 0.25  # a slow contestant cuts as many samples a round as take it about so long


class UnavailableError(Exception):
    """A contestant cannot take part on this machine."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A task for all contestants: the same cells, of the same box, into the same memory.

    Parameters
    ----------
    box : Box
        What to cut from.
    radius : int
        Neighborhood radius in cells.
    batches : ndarray of int64, shape (batch, n, 3)
        Center cells.
    out : ndarray of float32, shape (n, 2, width, width, width)
        Where a contestant puts a batch, if it can choose.
    """

    box: Box
    radius: int
    batches: Cells
    out: Neighborhoods

    @classmethod
    def of(cls, box: Box, radius: int, n_batches: int = N_BATCHES) -> "Case":
        """Draw random cells, in batches of 32 MB and at most 1024 samples."""
        width = 2 * radius + 1
        n = max(1, min(MOST_SAMPLES, int(BATCH_BYTES / (4 * 2 * width**3))))
        batches = np.random.default_rng(radius).integers(0, box.mesh, size=(n_batches, n, 3))
        return cls(box, radius, batches, np.empty((n, 2, width, width, width), np.float32))

    @property
    def width(self) -> int:
        """Cells along a side of a neighborhood."""
        return 2 * self.radius + 1

    @property
    def n(self) -> int:
        """Samples a batch."""
        return len(self.out)


@dataclass(slots=True, eq=False)
class Cutting:
    """A contestant that cuts the first ``m`` samples of batch ``b``.

    Parameters
    ----------
    case : Case
        What there is to cut.
    cut : callable
        Takes b and m, returns the samples.
    centers : ndarray of int64, shape (batch, n, 3), optional
        Center cells, if they are not those of the case.
    """

    case: Case
    cut: Callable[[int, int], Array]
    centers: Cells | None = None
    samples_a_round: int = 0

    def __post_init__(self) -> None:
        if self.centers is None:
            self.centers = self.case.batches

    def prepare(self) -> None:
        """Choose the samples of a round; check everything that the rounds will deliver."""
        case = self.case
        m, seconds = 1, self._seconds_of(1)
        while m < case.n and seconds < ROUND_S / 8:
            m = min(case.n, 4 * m)
            seconds = self._seconds_of(m)
        affordable = int(ROUND_S * m / seconds)
        if affordable < case.n:
            self.samples_a_round = max(min(8, case.n), affordable)
        else:
            self.samples_a_round = case.n * min(MOST_BATCHES, affordable // case.n)
        m = min(case.n, self.samples_a_round)
        for b in range(N_BATCHES):
            case.out.fill(np.nan)
            check(self.cut(b, m), case, self.centers[b, :m])

    def _seconds_of(self, m: int) -> float:
        self.cut(0, m)  # whatever happens the first time only
        start = time.perf_counter()
        self.cut(1, m)
        return time.perf_counter() - start

    def measure(self, turn: int) -> float:
        """Return samples/s; each round goes on with other batches."""
        m = min(self.case.n, self.samples_a_round)
        n_batches = self.samples_a_round // m
        batches = [(turn * n_batches + b) % N_BATCHES for b in range(n_batches)]
        start = time.perf_counter()
        for b in batches:
            self.cut(b, m)
        return self.samples_a_round / (time.perf_counter() - start)


@dataclass(slots=True, eq=False)
class Streaming:
    """A contestant that hands out all batches of an epoch in their order.

    Parameters
    ----------
    case : Case
        What there is to cut, ``N_DROPPED + N_TIMED`` batches.
    epoch : callable
        Starts an epoch.
    close : callable, optional
        Ends what runs in the background.
    """

    case: Case
    epoch: Callable[[], Iterator[Array]]
    close: Callable[[], None] = lambda: None

    @property
    def samples_a_round(self) -> int:
        """Samples between start and end of the clock."""
        return N_TIMED * self.case.n

    def prepare(self) -> None:
        """Check an epoch."""
        for batch, centers in zip(self.epoch(), self.case.batches, strict=True):
            check(batch, self.case, centers)

    def measure(self, turn: int) -> float:
        """Return samples/s in the middle of an epoch, the same one in every round."""
        batches = self.epoch()
        for _ in range(N_DROPPED):
            next(batches)
        start = time.perf_counter()
        for _ in range(N_TIMED):
            next(batches)
        seconds = time.perf_counter() - start
        for _ in batches:  # whatever runs in the background ends here
            pass
        return self.samples_a_round / seconds


Contestant = Cutting | Streaming


def check(batch: Array, case: Case, centers: Cells) -> None:
    """Stop unless a batch is what it should be."""
    expected = gather_neighborhoods(case.box.fields, centers, case.radius)
    if batch.dtype != np.float32 or not batch.flags.c_contiguous:
        raise AssertionError(f"expected C-contiguous float32, got {batch.dtype}, {batch.strides}")
    np.testing.assert_array_equal(batch, expected)


def rates_of(contestants: Mapping[str, Contestant], rounds: int) -> dict[str, list[float]]:
    """Return the samples/s of every contestant in every round, the rounds interleaved."""
    for contestant in contestants.values():
        contestant.prepare()
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name, contestant in contestants.items():
            rates[name].append(contestant.measure(turn))
    for contestant in contestants.values():
        if isinstance(contestant, Streaming):
            contestant.close()
    return rates


def summary(rates: Mapping[str, list[float]]) -> dict[str, dict[str, int]]:
    """Return medians and spreads, as they are reported."""
    both = {name: median_and_spread(values) for name, values in rates.items()}
    return {
        "samples_per_s": {name: round(median) for name, (median, _) in both.items()},
        "spread": {name: round(spread) for name, (_, spread) in both.items()},
    }
