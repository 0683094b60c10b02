"""Tasks on threads: results in order, nothing left running, sums that add up."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import dask.system
import pytest

from ionstore.threads import MAX_THREADS, ProgressCounter, run_in_threads

PATIENCE_S = 30.0


@pytest.fixture
def processors(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda number: monkeypatch.setattr(dask.system, "CPU_COUNT", number)


def test_results_are_in_the_order_of_the_items(processors: Callable[[int], None]) -> None:
    processors(2)
    last_returned = threading.Event()

    def square(item: int) -> int:
        if item == 0:
            assert last_returned.wait(PATIENCE_S)  # the first item is the last to be done
        if item == 19:
            last_returned.set()
        return item**2

    assert run_in_threads(square, iter(range(20))) == [item**2 for item in range(20)]


def test_no_items_give_no_results() -> None:
    assert run_in_threads(str, []) == []


def test_items_begin_in_their_order(processors: Callable[[int], None]) -> None:
    processors(0)
    begun: list[int] = []
    run_in_threads(begun.append, range(30))
    assert begun == list(range(30))


@pytest.mark.parametrize(
    "item", [(sum, [1, 2]), "task-000000000001", ["task-000000000001"], {"a": (max, 1, 2)}, None]
)
def test_items_arrive_as_they_are(item: Any) -> None:
    assert run_in_threads(lambda seen: seen, [item, item]) == [item, item]


@pytest.mark.parametrize(("n_processors", "n_threads"), [(1, 2), (3, 4), (100, MAX_THREADS)])
def test_one_thread_more_than_processors_and_eight_at_most(
    processors: Callable[[int], None], n_processors: int, n_threads: int
) -> None:
    processors(n_processors)
    all_there = threading.Barrier(n_threads)
    lock = threading.Lock()
    running, most = 0, 0

    def meet(_: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        all_there.wait(PATIENCE_S)
        with lock:
            running -= 1

    run_in_threads(meet, range(4 * n_threads))
    assert most == n_threads


def test_an_error_waits_for_calls_under_way_and_begins_no_other(
    processors: Callable[[int], None],
) -> None:
    processors(1)
    begun: list[int] = []
    returned: list[int] = []
    failed: list[threading.Thread] = []
    first_begun, second_begun = threading.Event(), threading.Event()

    def work(item: int) -> None:
        begun.append(item)
        if item == 0:
            failed.append(threading.current_thread())
            first_begun.set()
            assert second_begun.wait(PATIENCE_S)
            raise FileNotFoundError("the first item")
        second_begun.set()
        assert first_begun.wait(PATIENCE_S)
        failed[0].join(PATIENCE_S)  # the pool is being left: the error has been seen
        returned.append(item)

    with pytest.raises(FileNotFoundError, match="the first item"):
        run_in_threads(work, range(20))
    assert sorted(begun) == [0, 1]
    assert returned == [1]


def test_the_first_of_several_errors_is_raised(processors: Callable[[int], None]) -> None:
    processors(1)
    failed: list[threading.Thread] = []
    first_begun, second_begun = threading.Event(), threading.Event()

    def fail(item: int) -> None:
        if item == 0:
            failed.append(threading.current_thread())
            first_begun.set()
            assert second_begun.wait(PATIENCE_S)
            raise KeyError(item)
        second_begun.set()
        assert first_begun.wait(PATIENCE_S)
        failed[0].join(PATIENCE_S)  # the pool is being left: the first error has been seen
        raise ValueError(item)

    with pytest.raises(KeyError):
        run_in_threads(fail, range(2))


@pytest.mark.process
def test_threads_wait_for_no_cluster_to_be_imported() -> None:
    pytest.importorskip("distributed")
    script = (
        "import sys; from ionstore.threads import run_in_threads; "
        "assert run_in_threads(str, [1, 2]) == ['1', '2']; assert 'distributed' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_progress_adds_up_what_all_threads_did(processors: Callable[[int], None]) -> None:
    processors(MAX_THREADS)
    amounts = range(1, 201)
    seen: list[tuple[int, int]] = []
    reporting = threading.Lock()

    def report(done: int, total: int) -> None:
        assert reporting.acquire(blocking=False), "two threads report at a time"
        time.sleep(0.0001)
        seen.append((done, total))
        reporting.release()

    run_in_threads(ProgressCounter(sum(amounts), report).add, amounts)
    done = [sum_so_far for sum_so_far, _ in seen]
    steps = [after - before for before, after in zip([0, *done], done, strict=False)]
    assert sorted(steps) == list(amounts)
    assert done[-1] == sum(amounts)
    assert {total for _, total in seen} == {sum(amounts)}


def test_progress_needs_nobody_to_report_to() -> None:
    ProgressCounter(3, None).add(3)
