"""Run independent tasks on the workers of a dask.distributed cluster."""

import asyncio
import pickle
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from ionstore.errors import ClusterError

Item = TypeVar("Item")

_ANSWER_WITHIN_S = 10.0
_WORKER_WITHIN_S = 60.0  # workers may start after the scheduler, and others may replace them
_LOOK_EVERY_S = 0.05
_COUNT_WORKERS_EVERY_S = 1.0  # a question to the scheduler, so not at every look


def check_scheduler(address: str) -> None:
    """Check that a dask scheduler answers at an address, such as "tcp://10.0.0.1:8786"."""
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise ClusterError(
            'a cluster needs the package distributed; pip install "ionstore[distributed]"'
        ) from error
    # Asked without a Client: one that could not start may block the next one when it is garbage
    # collected. In a thread, because this one may run an event loop already, as in a notebook.
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: asyncio.run(_ask_type(address)))
    failure = asked.exception()
    if failure is None and asked.result() == "Scheduler":
        return
    if failure is None:
        reason = f"this is a {asked.result()}"
    else:
        reason = str(failure) or f"waited {_ANSWER_WITHIN_S:g} s"  # a timeout has no message
    raise ClusterError(
        f"{address}: expected a dask scheduler, none answers ({reason}); start one with "
        "`dask scheduler`, and workers that see the same files with `dask worker`"
    ) from failure


def run_on_cluster(
    function: Callable[[Item], object],
    items: Sequence[Item],
    address: str,
    on_done: Callable[[Item], object],
) -> None:
    """Call a function on every item, on the workers of a dask scheduler.

    The function is pickled. It may run twice for an item, as when its worker ends; what it returns
    should be small. `on_done` is called in this process with each item that is done. The first
    exception of the function is raised; by then, calls under way have returned, and no others
    begin.
    """
    if not items:
        return
    with _connected(address) as client:
        # As bytes, because the scheduler would unpickle a function, and it need not see the files.
        call = partial(_call, pickle.dumps(function))
        # Not pure: calls write files, so a result of another run with equal arguments is no
        # substitute.
        futures = client.map(call, items, pure=False, key="part")
        waiting = {future.key: future for future in futures}
        item_of = dict(zip(waiting, items, strict=True))
        try:
            for future in _as_they_end(client, address, futures):
                _check_ended_well(future, address)
                on_done(item_of[future.key])
                # The scheduler forgets tasks that nobody refers to, so that a part that is done
                # does not run again when the worker that holds its result ends.
                waiting.pop(future.key).release()
        finally:
            if waiting:  # an error or an interrupt: nothing may write when the caller goes on
                _stop(client, list(waiting.values()))


async def _ask_type(address: str) -> str:
    """Return the type of the dask node at an address, "Scheduler" or "Worker"."""
    from distributed import rpc
    from distributed.security import Security

    arguments = Security().get_connection_args("client")  # type: ignore[no-untyped-call]
    # The timeout of rpc covers connecting only; something that listens may never answer.
    async with (
        asyncio.timeout(_ANSWER_WITHIN_S),
        rpc(  # type: ignore[no-untyped-call]
            address, timeout=_ANSWER_WITHIN_S, connection_args=arguments
        ) as node,
    ):
        return str((await node.identity())["type"])


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    # First, because a Client that cannot start may block the next one.
    check_scheduler(address)
    from distributed import Client

    with Client(  # type: ignore[no-untyped-call]
        address, timeout=_ANSWER_WITHIN_S, set_as_default=False
    ) as client:
        yield client


def _as_they_end(client: Any, address: str, futures: Sequence[Any]) -> Iterator[Any]:
    """Yield futures as they end, while there are workers for them."""
    from distributed import as_completed

    ended = as_completed(futures, loop=client.loop)  # type: ignore[no-untyped-call]
    counted = seen = time.monotonic()
    while not ended.is_empty():  # type: ignore[no-untyped-call]
        # Not blocking: it would wait forever when the last worker ends.
        batch = ended.next_batch(block=False)  # type: ignore[no-untyped-call]
        yield from batch
        now = time.monotonic()
        if now - counted > _COUNT_WORKERS_EVERY_S:
            counted = now
            # A scheduler that has ended raises; its futures are canceled, and that is reported.
            with suppress(OSError):
                if client.nthreads():
                    seen = now
                elif now - seen > _WORKER_WITHIN_S:
                    raise ClusterError(
                        f"{address}: expected workers, there have been none for "
                        f"{_WORKER_WITHIN_S:g} s; start some that see the same files with "
                        f"`dask worker {address}`, and run the same command again, which resumes"
                    )
        if not batch:
            time.sleep(_LOOK_EVERY_S)


def _call(function: bytes, item: object) -> object:
    return pickle.loads(function)(item)


def _check_ended_well(future: Any, address: str) -> None:
    from distributed import KilledWorker

    if future.status == "error":
        try:
            future.result()
        except KilledWorker as error:
            raise ClusterError(
                f"{address}: workers ended again and again under one part ({error}); look at their "
                "logs, and run the same command again, which resumes"
            ) from error
    # Only where canceled, not where the result is lost with its worker: the part is written then.
    if future.cancelled():
        raise ClusterError(
            f"{address}: the scheduler ended, or its work was canceled; see that it runs, and run "
            "the same command again, which resumes"
        )


def _stop(client: Any, futures: Sequence[Any]) -> None:
    """Cancel what has not begun, and wait for what is under way."""
    if client.status != "running":
        return
    client.cancel(futures)
    keys = {future.key for future in futures}
    quiet = 0
    # Idle twice in a row, because the question may overtake the cancellation on its way to workers.
    while quiet < 2 and client.status == "running":
        time.sleep(_LOOK_EVERY_S)
        try:
            held = client.run(_holds_any, keys, on_error="ignore")
        except OSError:  # the scheduler has ended
            return
        quiet = 0 if any(held.values()) else quiet + 1


def _holds_any(keys: Collection[str], dask_worker: Any) -> bool:
    """Tell whether a worker runs any of some tasks, or is about to."""
    return any(key in dask_worker.state.tasks for key in keys)
