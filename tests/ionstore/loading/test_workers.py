"""Worker processes: batches in their order, one set of processes for many epochs, and their end."""

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import psutil
import pytest
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ionstore.loading.fill import Request
from ionstore.loading.ring import BatchRing
from ionstore.loading.workers import Workers
from ionstore.sampling.regions import Reach
from ionstore.sampling.settings import AHEAD
from ionstore.store.cube_store import CubeStore
from tests.ionstore.loading.test_fill import filler_of, requests_of

pytestmark = pytest.mark.process

N_WORKERS = 2
N_SLOTS = 1 + AHEAD * N_WORKERS


@pytest.fixture
def ring_and_workers(small_store: CubeStore) -> Iterator[tuple[BatchRing, Workers]]:
    filler = filler_of(small_store, Reach(1), n_slots=N_SLOTS, shared=True)
    workers = Workers(filler, N_WORKERS)
    yield BatchRing(filler.slots, 1), workers
    workers.close()


def take_all(ring: BatchRing, workers: Workers, requests: Iterator[Request]) -> list[int]:
    ring.start()
    batches = []
    for request in workers.fill(ring, requests):
        batches.append(request.batch)
        ring.give_back(request.slot)
    return batches


def worker_pids() -> set[int]:
    """Processes that run as workers; what other tests killed may not have been reaped yet."""
    pids = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if not process.children() and "forkserver" in " ".join(process.cmdline()):
                pids.add(process.pid)
    return pids


def test_batches_come_in_order_from_the_same_processes_every_epoch(
    ring_and_workers: tuple[BatchRing, Workers],
) -> None:
    ring, workers = ring_and_workers
    before = worker_pids()
    assert take_all(ring, workers, requests_of(ring, 12)) == list(range(12))
    started = worker_pids() - before
    assert len(started) >= N_WORKERS
    assert take_all(ring, workers, requests_of(ring, 3)) == list(range(3))
    assert worker_pids() - before == started
    workers.close()
    assert not worker_pids() & started


def test_they_fill_what_a_thread_fills(
    small_store: CubeStore, ring_and_workers: tuple[BatchRing, Workers]
) -> None:
    ring, workers = ring_and_workers
    alone = filler_of(small_store, Reach(1))
    ring.start()
    for request in workers.fill(ring, requests_of(ring, 6)):
        alone.fill(Request(0, 0, request.batch, 50))
        expected = alone.slots.arrays(alone.slots.memory(0), 50)
        filled = ring.slots.arrays(ring.slots.memory(request.slot), 50)
        for one, other in zip(filled, expected, strict=True):
            np.testing.assert_array_equal(one, other)
        ring.give_back(request.slot)


def test_leaving_early_frees_all_slots_and_keeps_the_processes(
    ring_and_workers: tuple[BatchRing, Workers],
) -> None:
    ring, workers = ring_and_workers
    ring.start()
    filled = workers.fill(ring, requests_of(ring, 50))
    for request in itertools.islice(filled, 2):
        ring.give_back(request.slot)
    filled.close()
    ring.start()
    assert {ring.take() for _ in range(N_SLOTS)} == set(range(N_SLOTS))


def test_a_killed_process_is_an_error_and_the_next_use_starts_others(
    ring_and_workers: tuple[BatchRing, Workers], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Torch looks for workers that have ended every 5 s; how often is of no interest here.
    look = _MultiProcessingDataLoaderIter._try_get_data
    assert look.__defaults__ == (5.0,)
    monkeypatch.setattr(look, "__defaults__", (0.2,))
    ring, workers = ring_and_workers
    before = worker_pids()
    ring.start()
    filled = workers.fill(ring, requests_of(ring, 1000))
    ring.give_back(next(filled).slot)
    youngest = max(worker_pids() - before, key=lambda pid: psutil.Process(pid).create_time())
    os.kill(youngest, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="worker"):
        list(map(ring.give_back, (request.slot for request in filled)))
    assert take_all(ring, workers, requests_of(ring, 4)) == list(range(4))
