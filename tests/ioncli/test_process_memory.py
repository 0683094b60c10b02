"""Memory of a process tree: all of it, and shared pages once."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import numpy as np
import psutil
import pytest

from ioncli.process_memory import PeakMemory, tree_memory_bytes
from ionstore.loading.shared_memory import SharedBuffer

SIZE = 100_000_000
SLACK = 15_000_000  # what allocators and interpreters may take or give back meanwhile
HOLD = f"import sys; data = b'x' * {SIZE}; print('ready', flush=True); sys.stdin.read()"
HOLD_IN_A_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD!r}])"


@contextmanager
def holding_memory(code: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process  # ends with its standard input


def test_memory_that_was_touched_counts() -> None:
    before = tree_memory_bytes()
    data = np.ones(SIZE, np.uint8)
    held = tree_memory_bytes() - before
    del data
    assert abs(held - SIZE) < SLACK
    assert abs(tree_memory_bytes() - before) < SLACK


@pytest.mark.process
@pytest.mark.parametrize("code", [HOLD, HOLD_IN_A_CHILD], ids=["child", "grandchild"])
def test_memory_of_descendants_counts(code: str) -> None:
    before = tree_memory_bytes()
    with holding_memory(code) as process:
        assert SIZE <= tree_memory_bytes(process.pid) < SIZE + 2 * SLACK
        assert SIZE - SLACK < tree_memory_bytes() - before < SIZE + 2 * SLACK
    assert abs(tree_memory_bytes() - before) < SLACK


def touch_when_told(shared: SharedBuffer, connection: Connection) -> None:
    connection.send("started")
    connection.recv()
    connection.send(int(shared.array((SIZE,), np.uint8).max()))
    connection.recv()


@pytest.mark.process
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux knows the PSS")
def test_memory_shared_with_a_child_counts_once(
    monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    monkeypatch.syspath_prepend(pytestconfig.rootpath)  # where the child finds this module
    shared = SharedBuffer(SIZE)
    shared.array((SIZE,), np.uint8)[:] = 7
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=touch_when_told, args=(shared, there), daemon=True)
    child.start()
    assert here.recv() == "started"
    assert child.pid is not None
    own, all_before = psutil.Process(child.pid), tree_memory_bytes()
    resident_before = own.memory_info().rss
    here.send("touch")
    assert here.recv() == 7
    assert own.memory_info().rss - resident_before > SIZE - SLACK  # it sees every page
    assert abs(tree_memory_bytes() - all_before) < SLACK
    here.send("end")
    child.join()


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "waitid"), reason="needs a look at a child that has ended")
def test_a_process_that_has_ended_has_no_memory() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, and still in the table
    assert tree_memory_bytes(process.pid) == 0
    process.wait()
    assert tree_memory_bytes(process.pid) == 0


def test_a_peak_that_is_gone_at_the_end_is_caught() -> None:
    with PeakMemory(interval_s=0.005) as memory:
        before = memory.peak_bytes
        data = np.ones(SIZE, np.uint8)
        until = time.monotonic() + 30
        while memory.peak_bytes < before + SIZE - SLACK:
            assert time.monotonic() < until, "the peak was never seen"
            time.sleep(0.005)
        del data
    assert abs(memory.peak_bytes - before - SIZE) < SLACK
    assert tree_memory_bytes() < memory.peak_bytes - SIZE + 2 * SLACK


def test_the_start_and_the_end_of_the_block_are_looked_at() -> None:
    data = np.ones(SIZE, np.uint8)
    with PeakMemory(interval_s=1000) as memory:
        at_start = memory.peak_bytes
        more = np.ones(SIZE, np.uint8)
        assert memory.peak_bytes == at_start  # nobody has looked since
    assert at_start > SIZE
    assert abs(memory.peak_bytes - at_start - SIZE) < SLACK
    del data, more


@pytest.mark.process
def test_the_peak_of_a_process_that_has_ended_is_kept() -> None:
    with holding_memory(HOLD) as process, PeakMemory(process.pid, interval_s=0.005) as memory:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0
    assert SIZE <= memory.peak_bytes < SIZE + 2 * SLACK


def test_the_watching_thread_ends_with_the_block() -> None:
    n_threads = threading.active_count()
    with PeakMemory(interval_s=1000):
        assert threading.active_count() == n_threads + 1
    assert threading.active_count() == n_threads
    with pytest.raises(ZeroDivisionError), PeakMemory(interval_s=1000):
        raise ZeroDivisionError
    assert threading.active_count() == n_threads
