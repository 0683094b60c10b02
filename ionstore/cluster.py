"""Independent tasks on a dask.distributed cluster."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from ionstore.errors import ClusterError

Item = TypeVar("Item")

_ANSWER_WITHIN_S = 10


def run_on_cluster(
    function: Callable[[Item], object],
    items: Sequence[Item],
    address: str,
    on_done: Callable[[Item], object],
) -> None:
    """Call a function on every item, on the workers of a dask scheduler.

    Parameters
    ----------
    function : callable
        Sent to the workers with its item. It may run twice for an item, as when a worker ends
        under it.
    items : sequence
        What it is called with.
    address : str
        Address of the scheduler, such as "tcp://10.0.0.1:8786".
    on_done : callable
        Called in this process with each item that is done.

    Raises
    ------
    ClusterError
        If the package is missing, no scheduler answers, or workers end again and again.
    Exception
        What the function raised first; what has not begun then does not begin any more.
    """
    try:
        from distributed import Client, KilledWorker, as_completed
    except ImportError as error:
        raise ClusterError(
            'a cluster needs the package distributed; pip install "ionstore[distributed]"'
        ) from error
    try:
        client = Client(  # type: ignore[no-untyped-call]
            address, timeout=_ANSWER_WITHIN_S, set_as_default=False
        )
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"{address}: expected a dask scheduler, none answers ({error}); start one with "
            "`dask scheduler`, and workers that see the same files with `dask worker`"
        ) from error
    with client:
        futures = client.map(function, items, pure=False, key="part")
        places = {future.key: place for place, future in enumerate(futures)}
        try:
            for future in as_completed(futures, loop=client.loop):  # type: ignore[no-untyped-call]
                future.result()
                on_done(items[places[future.key]])
        except KilledWorker as error:
            raise ClusterError(
                f"{address}: workers ended again and again under one part ({error}); look at their "
                "logs, and run the same command again, which resumes"
            ) from error
        finally:
            client.cancel(futures)  # type: ignore[no-untyped-call]
