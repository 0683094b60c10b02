"""Fill batches ahead of a consumer, in torch DataLoader workers.

Only slot numbers travel between the processes: a stock worker puts each batch into a new segment of
shared memory, which costs several times the copy.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator
from multiprocessing import resource_tracker
from types import ModuleType

from torch.utils.data import DataLoader, Dataset, Sampler

from ionstore.loading.fill import BatchFiller, Request
from ionstore.loading.open_regions import RegionsClosedError
from ionstore.loading.ring import BatchRing
from ionstore.sampling.settings import AHEAD


class Workers:
    """Worker processes that write batches into the slots of their requests.

    They start with the first use and live until `close`.
    """

    def __init__(self, filler: BatchFiller, n_workers: int) -> None:
        # Never fork: zarr's threads hang in forked children, and Numba's OpenMP layer kills them.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # imported once, shared by all
        self._requests = _Requests()
        self._loader: DataLoader[bool] = DataLoader(
            _Filling(filler),
            batch_size=None,  # a request is a whole batch already
            sampler=self._requests,
            num_workers=n_workers,
            prefetch_factor=AHEAD,
            multiprocessing_context=context,
            persistent_workers=True,  # importing torch takes seconds, too long for every epoch
            worker_init_fn=_start_worker,
        )

    def fill(self, ring: BatchRing, requests: Iterator[Request]) -> Generator[Request]:
        """Yield requests in their order as the workers fill their slots.

        This process advances ``requests``, which must end after `BatchRing.stop`.
        """
        asked: deque[Request] = deque()
        self._requests.source = _noted(requests, asked)
        filled = self._started()
        try:
            for is_filled in filled:
                request = asked.popleft()
                if not is_filled:
                    ring.give_back(request.slot)
                    raise RegionsClosedError
                yield request
        except GeneratorExit:
            ring.stop()
            if sys.is_finalizing():  # the workers have ended, and torch no longer answers
                raise
            try:
                for _ in filled:  # the workers still write into slots that were asked for
                    ring.give_back(asked.popleft().slot)
            except RuntimeError:  # a worker has ended, nobody waits for its batches any more
                self._abandon(ring, asked)
            raise
        except BaseException:  # torch's loader cannot go on once a worker has ended
            self._abandon(ring, asked)
            raise

    def _abandon(self, ring: BatchRing, asked: deque[Request]) -> None:
        self.close()
        while asked:
            ring.give_back(asked.popleft().slot)

    def _started(self) -> Iterator[bool]:
        # Ctrl-C reaches every process of a terminal, but only the main one knows what to do. It
        # waits while the workers start: they inherit that, until they ignore it themselves.
        resource_tracker.ensure_running()  # its start would unblock the signal
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        # All that workers do is in this package. They are shown an empty main module, so that a
        # script needs no guard, may come from standard input, and is not imported for nothing.
        main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            return iter(self._loader)
        finally:
            sys.modules["__main__"] = main
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def close(self) -> None:
        """End the workers; the next use starts new ones."""
        iterator, self._loader._iterator = self._loader._iterator, None
        if iterator is not None:
            # DataLoader has no public way to end persistent workers.
            iterator._shutdown_workers()  # type: ignore[attr-defined]


def _start_worker(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_main, name="ionstore-watch", daemon=True).start()


def _end_with_main() -> None:
    """End this worker when the main process has ended, however it did."""
    # Torch watches the fork server instead, which lives as long as its workers.
    main = multiprocessing.parent_process()
    if main is not None:
        main.join()
        os._exit(1)  # sys.exit would end this thread alone


def _noted(requests: Iterator[Request], asked: deque[Request]) -> Iterator[Request]:
    for request in requests:
        asked.append(request)
        yield request


class _Requests(Sampler[Request]):
    """Lets one DataLoader, and so one set of workers, run through many epochs."""

    def __init__(self) -> None:
        self.source: Iterator[Request] = iter(())

    def __iter__(self) -> Iterator[Request]:
        return self.source


class _Filling(Dataset[bool]):
    """Fills the slot of a request, and answers whether it could."""

    def __init__(self, filler: BatchFiller) -> None:
        self._filler = filler

    def __getitem__(self, request: Request) -> bool:
        try:
            self._filler.fill(request)
        except RegionsClosedError:
            return False  # the main process knows the reason; an exception would be wrapped
        return True
