"""Parts written by a real dask cluster: a scheduler and two workers, processes on this machine."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ionstore import cluster
from ionstore.errors import ClusterError
from ionstore.ingest import ingest_cubes
from tests.ionstore.test_append import without_identity
from tests.three_file_sets import write_set

pytest.importorskip("distributed")

CUT = {"max_shard_cells": 8, "chunk_cells": 4, "box_length_cmpc": 20.0}
N_WORKERS = 2


class Cluster:
    """A scheduler and its workers, each a process that stands in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        file = folder / "scheduler.json"
        self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)
        )
        wait_until(file.exists)
        from distributed import Client

        with Client(scheduler_file=str(file), set_as_default=False) as client:  # type: ignore[no-untyped-call]
            self.address = str(client.scheduler.address)
            self.workers = [
                self._start("worker", self.address, "--nthreads", "1", "--no-nanny")
                for _ in range(N_WORKERS)
            ]
            client.wait_for_workers(N_WORKERS, timeout=60)  # type: ignore[no-untyped-call]

    def _start(self, what: str, *options: str) -> "subprocess.Popen[bytes]":
        place = self._folder / f"{what}-{len(self._processes)}"
        place.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", what, *options, "--no-dashboard"],
            cwd=place,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._processes.append(process)
        return process

    def end(self) -> None:
        for process in reversed(self._processes):
            if process.poll() is None:
                process.kill()
            process.wait()


def wait_until(holds: Callable[[], object], timeout_s: float = 60) -> None:
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def dask_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    running = Cluster(tmp_path_factory.mktemp("cluster"))
    yield running
    running.end()


def test_a_cluster_writes_the_store_that_threads_write(
    dask_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "sim", 16)
    ingest_cubes(tmp_path / "sim", tmp_path / "threads.zarr", **CUT)
    monkeypatch.chdir(tmp_path)
    seen: list[tuple[int, int]] = []
    ingest_cubes(
        Path("sim"),
        Path("cluster.zarr"),
        scheduler=dask_cluster.address,
        on_progress=lambda *done: seen.append(done),
        **CUT,
    )
    assert without_identity(tmp_path / "cluster.zarr") == without_identity(
        tmp_path / "threads.zarr"
    )
    assert seen[-1][0] == seen[-1][1]


def test_a_worker_killed_in_mid_run_costs_nothing(dask_cluster: Cluster, tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 32)
    ingest_cubes(tmp_path / "sim", tmp_path / "threads.zarr", **CUT)
    parts = tmp_path / "cluster.zarr.partial" / "parts"
    n_at_kill: list[int] = []

    def kill_one() -> None:
        wait_until(lambda: parts.exists() and len(list(parts.glob("*.json"))) > 5)
        n_at_kill.append(len(list(parts.glob("*.json"))))
        os.kill(dask_cluster.workers[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    ingest_cubes(tmp_path / "sim", tmp_path / "cluster.zarr", scheduler=dask_cluster.address, **CUT)
    killer.join()
    assert n_at_kill[0] < 2 * 3 * 4**3
    dask_cluster.workers[0].wait(10)
    assert psutil.pid_exists(dask_cluster.workers[1].pid)
    assert without_identity(tmp_path / "cluster.zarr") == without_identity(
        tmp_path / "threads.zarr"
    )


def test_without_a_scheduler_there_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_ANSWER_WITHIN_S", 0.3)
    write_set(tmp_path / "sim")
    with pytest.raises(ClusterError, match="expected a dask scheduler, none answers"):
        ingest_cubes(
            tmp_path / "sim", tmp_path / "cubes.zarr", scheduler="tcp://127.0.0.1:9", **CUT
        )
    assert [path.name for path in tmp_path.iterdir()] == ["sim"]
