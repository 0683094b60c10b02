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

# Other processes may predict for hours after this one has finished.
_LONGEST_WAIT = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Ranks:
    """Rank of this process among those that work together."""

    rank: int = 0  # its number, from 0
    world: int = 1  # number of processes
    n_machines: int = 1  # that they run on

    @property
    def is_first(self) -> bool:
        """Tell if this process does the work that only one may do."""
        return self.rank == 0

    def from_first(self, make: Callable[[], Result]) -> Result:
        """Return the result of the first process in all processes; raise its UserError in all."""
        if self.world == 1:
            return make()
        made: list[object] = [None, None]
        if self.is_first:
            try:
                made = [make(), None]
            except UserError as error:  # sent to the others, which would otherwise wait forever
                made = [None, error]
        dist.broadcast_object_list(made, src=0)
        result, refused = made
        if isinstance(refused, UserError):
            raise refused
        return result  # type: ignore[return-value]

    def wait_for_all(self) -> None:
        """Return once all processes have reached this call."""
        if self.world > 1:
            dist.barrier()


def n_processes() -> int:
    """Return the number of processes that torchrun started; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1


def is_first_process() -> bool:
    """Tell if this process prints for all that torchrun started."""
    return n_processes() == 1 or os.environ["RANK"] == "0"


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun started, this one among them."""
    world = n_processes()
    if world == 1:
        yield Ranks()
        return
    # gloo on every device, because only small Python objects are exchanged.
    dist.init_process_group("gloo", timeout=_LONGEST_WAIT)
    try:
        yield Ranks(dist.get_rank(), world, int(os.environ["GROUP_WORLD_SIZE"]))
    finally:
        dist.destroy_process_group()
