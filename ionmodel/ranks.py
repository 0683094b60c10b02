"""`Ranks`: the processes that torchrun started, which share out work."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from ionstore.errors import UserError

Result = TypeVar("Result")

_LONGEST_WAIT = timedelta(days=30)  # for the last of the others, which may predict for hours


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which process this is among those that work together.

    Parameters
    ----------
    rank : int
        Its number, from 0.
    world : int
        How many there are.
    n_machines : int
        How many machines they run on.
    """

    rank: int = 0
    world: int = 1
    n_machines: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that does what only one may do."""
        return self.rank == 0

    def from_first(self, make: Callable[[], Result]) -> Result:
        """Return what the first process makes, in all of them.

        Raises
        ------
        UserError
            If the first process raises it, in all of them.
        """
        if self.world == 1:
            return make()
        made: list[object] = [None, None]
        if self.is_first:
            try:
                made = [make(), None]
            except UserError as error:
                made = [None, error]
        dist.broadcast_object_list(made, src=0)
        result, refused = made
        if isinstance(refused, UserError):
            raise refused
        return result  # type: ignore[return-value]

    def wait_for_all(self) -> None:
        """Return once all processes have come here."""
        if self.world > 1:
            dist.barrier()


def n_processes() -> int:
    """Return how many processes torchrun started, this one among them; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1


def is_first_process() -> bool:
    """Return whether this is the one that speaks for those that torchrun started with it."""
    return n_processes() == 1 or os.environ["RANK"] == "0"


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun started with this one; without it, there is only this one.

    Yields
    ------
    Ranks
        They talk over gloo, whatever device each computes on.
    """
    world = n_processes()
    if world == 1:
        yield Ranks()
        return
    dist.init_process_group("gloo", timeout=_LONGEST_WAIT)
    try:
        yield Ranks(dist.get_rank(), world, int(os.environ["GROUP_WORLD_SIZE"]))
    finally:
        dist.destroy_process_group()
