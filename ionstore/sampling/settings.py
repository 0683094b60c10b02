"""Options of a loader that concern order, batches and processes; checked here."""

import difflib
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypedDict

from ionstore.sampling.batches import RankShare
from ionstore.sampling.order import DEFAULT_LANES
from ionstore.sampling.symmetry import CHOICE, Symmetries

AHEAD = 2  # batches asked of each worker before the first is needed

LENT = 2  # batches that a loop may hold: one, while it asks for the next


class SettingsOptions(TypedDict, total=False):
    """Keyword arguments that loaders which share decoded fields may differ in."""

    seed: int
    num_workers: int
    shuffle: bool
    samples_per_epoch: int | None
    symmetries: Symmetries
    samples_per_opening: int | None


_COUNTS = ("batch_size", "n_lanes", "world")
_OPTIONAL_COUNTS = ("samples_per_epoch", "core", "samples_per_opening", "ranks_here")
_FROM_ZERO = ("num_workers", "seed", "rank")


def check_option_names(options: Iterable[str], known: set[str]) -> None:
    """Raise TypeError for an option that a loader does not have."""
    for name in options:
        if name not in known:
            # The signatures take any keyword: both loaders share their options.
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            raise TypeError(f"{name!r} is no option of a loader; the nearest is {nearest!r}")


def whole_number(name: str, value: Any, least: int, of: str = "") -> int:
    """Return an argument as an int; refuse what is no whole number, or less than ``least``."""
    # `operator.index` takes whole numbers of NumPy and torch, but no float, not even 4.0: one that
    # was computed may be 3.999.
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        kind = " ".join(("a whole number", of)).strip()
        raise ValueError(f"{name} must be {kind}, at least {least}, got {name} {value!r}")
    return number


@dataclass(frozen=True, slots=True)
class LoaderSettings:
    """Settings of order and batches; `ionstore.loading.NeighborhoodLoader` describes them."""

    batch_size: int
    seed: int = 2021
    num_workers: int = 0
    shuffle: bool = True
    samples_per_epoch: int | None = None
    symmetries: Symmetries = "none"
    core: int | None = None
    samples_per_opening: int | None = None
    n_lanes: int = DEFAULT_LANES
    rank: int = 0
    world: int = 1
    ranks_here: int | None = None
    pin_memory: bool = False

    def __post_init__(self) -> None:
        for names, least in ((_COUNTS, 1), (_OPTIONAL_COUNTS, 1), (_FROM_ZERO, 0)):
            for name in names:
                value = getattr(self, name)
                if value is not None or names is not _OPTIONAL_COUNTS:
                    object.__setattr__(self, name, whole_number(name, value, least))
        if self.symmetries not in CHOICE:
            raise ValueError(
                f"symmetries must be one of {', '.join(CHOICE)}, got {self.symmetries!r}"
            )
        if self.rank >= self.world:
            raise ValueError(f"rank must be 0 to {self.world - 1}, got {self.rank}")
        # Unshuffled samples come in one lane, which ranks cannot share out.
        if not self.shuffle and self.world > 1:
            raise ValueError(
                f"shuffle=False is for one rank, got world {self.world}; give each rank centers of "
                "its own"
            )
        if self.n_lanes % self.world:
            fitting = [n for n in range(1, self.n_lanes + 1) if self.n_lanes % n == 0]
            raise ValueError(
                f"world must divide the {self.n_lanes} lanes of the order, so be one of "
                f"{', '.join(map(str, fitting))}, got {self.world}; or change n_lanes, which "
                "changes the order"
            )

    @property
    def lanes(self) -> int:
        """Lanes of the order: unshuffled, samples come one after the other."""
        return self.n_lanes if self.shuffle else 1

    @property
    def share(self) -> RankShare:
        """The rank's part of each batch."""
        return RankShare(self.batch_size, self.rank, self.world)

    @property
    def n_slots(self) -> int:
        """Batches in memory at a time."""
        # Beside those lent: the thread fills one while another waits. Each worker has AHEAD of its
        # own, and a new batch is asked for before the last one that came is lent.
        return LENT + (1 + AHEAD * self.num_workers if self.num_workers else 2)
