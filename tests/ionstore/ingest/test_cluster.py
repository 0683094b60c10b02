"""Parts written by real dask clusters: a scheduler and workers, processes on this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ionstore.build.shard_writer import ShardWriter
from ionstore.cube.description import SimulationDescription
from ionstore.errors import ClusterError, SourceDataError, StoreExistsError
from ionstore.ingest import cluster
from ionstore.ingest.ingest import ingest_cubes
from ionstore.ingest.selection import FileSelection, IngestOptions
from ionstore.storage.s3 import ObjectPath
from tests.support.places import ROOT
from tests.support.three_file_sets import contents_of, files_of, write_set
from tests.support.told import Told

distributed = pytest.importorskip("distributed")

CUT: dict[str, Any] = {"options": IngestOptions(max_shard_cells=10, chunk_cells=5)}
N_PARTS = 3 * 2**3  # of a mesh of 20 cells at one redshift
N_TURNS = 3

run_command = partial(subprocess.check_call, shell=True)


class Cluster:
    """A scheduler and its workers, each in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.address = f"tcp://127.0.0.1:{port}"
        self._turns = folder / "turns"
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", port)

    def add_workers(self, number: int) -> "list[subprocess.Popen[bytes]]":
        """Start workers and wait until the scheduler knows them."""
        options = (self.address, "--nthreads", "1", "--no-nanny", "--local-directory", ".")
        options += ("--preload", str(ROOT / "tests" / "support" / "worker_turns.py"))
        workers = [self._start("worker", *options) for _ in range(number)]
        running = [process for process in self._processes if process.poll() is None]
        with self.client() as client:
            client.wait_for_workers(len(running) - 1, timeout=30)
        return workers

    @contextmanager
    def held_back(self) -> Iterator[Callable[[], None]]:
        """Let workers write ``N_TURNS`` parts, and hold all others back until they may go on."""
        self._turns.mkdir()
        for number in range(N_TURNS):
            (self._turns / str(number)).touch()
        over = self._turns.with_name(f"turns-{uuid.uuid4().hex}")

        def go_on() -> None:
            if self._turns.exists():
                self._turns.rename(over)

        try:
            yield go_on
        finally:
            go_on()

    def wait_until_idle(self) -> None:
        """Wait until nothing is asked of any worker."""
        with self.client() as client:
            wait_until(lambda: not any(client.processing().values()))

    def wait_until_nothing_runs(self) -> None:
        """Wait until no worker is at anything, be it asked for any more or not."""
        with self.client() as client:
            wait_until(lambda: not client.call_stack())

    def client(self) -> Any:
        return distributed.Client(self.address, timeout=30, set_as_default=False)

    def end(self) -> None:
        """Kill all processes, their children included."""
        for process in self._processes:
            kill(process)

    def _start(self, role: str, *options: str) -> "subprocess.Popen[bytes]":
        place = self._folder / f"{role}-{len(self._processes)}"
        place.mkdir()
        with (place / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", role, *options, "--no-dashboard"],
                cwd=place,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)
        return process


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait, though not for ever."""
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process, and what it started, if it still runs."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def new_cluster(folder: Path) -> Iterator[Cluster]:
    started = Cluster(folder)
    try:
        yield started
    finally:
        started.end()


@pytest.fixture(scope="module")
def two_workers(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose two workers stay, and know where the object store is."""
    with new_cluster(tmp_path_factory.mktemp("cluster")) as started:
        started.add_workers(2)
        yield started


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """A simulation of many parts, and its store as threads write it."""
    folder = tmp_path_factory.mktemp("large")
    write_set(folder / "sim", 20, ("9.000",))
    ingest_cubes(folder / "sim", folder / "cubes.zarr", **CUT)
    return folder / "sim", without_identity(folder / "cubes.zarr")


def without_identity(store: Path) -> dict[str, object]:
    files: dict[str, object] = dict(files_of(store))
    root = json.loads((store / "zarr.json").read_text())
    del root["attributes"]["ionstore"]["uuid"]
    return {**files, "zarr.json": root}


def n_done(target: Path) -> int:
    """Number of parts that are recorded as done."""
    return len(list((target.parent / f"{target.name}.partial" / "parts").glob("*.json")))


@contextmanager
def in_the_middle(
    started: Cluster, is_begun: Callable[[], object], act: Callable[[], object]
) -> Iterator[Callable[[int, int], None]]:
    """Yield a progress report that acts once, when parts are done and all others are held back."""
    acted: list[int] = []
    with started.held_back() as go_on:

        def on_progress(done: int, total: int) -> None:
            if not acted and is_begun():
                acted.append(done)
                act()
                go_on()

        yield on_progress


def resume_on_threads(sim: Path, target: Path) -> None:
    notes: list[str] = []
    done = n_done(target)
    ingest_cubes(sim, target, **CUT, reporter=Told(on_note=notes.append))
    assert 0 < done < N_PARTS
    assert f"resuming: {done} of {N_PARTS} parts are there already" in notes
    assert not (target.parent / f"{target.name}.partial").exists()


@pytest.mark.server
@pytest.mark.parametrize(
    ("place", "without"),
    [
        ("sim/more", ()),
        ("elsewhere", ("n_src",)),
    ],
)
def test_a_cluster_writes_the_store_that_threads_write(
    two_workers: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    without: tuple[str, ...],
) -> None:
    cubes = write_set(tmp_path / "sim", 16, ("9.000",))["9.000"]
    (tmp_path / "sim" / "rho_z9.000.npy").unlink()
    np.savez_compressed(tmp_path / "sim" / "rho_z9.000.npz", cubes["n_igm"])
    (tmp_path / place).mkdir()
    (tmp_path / "sim" / "xHII_z9.000.npy").rename(tmp_path / place / "fraction_z9.000.npy")
    monkeypatch.chdir(tmp_path)
    files = FileSelection(maps={"xhii": [Path(place, "fraction_z9.000.npy")]}, without=without)
    ingest_cubes(Path("sim"), Path("threads.zarr"), files, **CUT)
    seen: list[tuple[int, int]] = []
    with monkeypatch.context() as patch:
        patch.delattr(ShardWriter, "write_block")  # here; the workers have it
        ingest_cubes(
            Path("sim"),
            Path("cluster.zarr"),
            files,
            scheduler=two_workers.address,
            **CUT,
            reporter=Told(on_progress=lambda *done: seen.append(done)),
        )
    stores = [without_identity(tmp_path / f"{name}.zarr") for name in ("cluster", "threads")]
    assert stores[0] == stores[1]
    assert seen[-1][0] == seen[-1][1]
    assert not list(tmp_path.glob("*.partial"))


def as_files(place: ObjectPath, folder: Path) -> Path:
    """Copy all objects below a key into a folder."""
    for path, _ in place.sizes():
        copy = folder / path.key.removeprefix(f"{place.key}/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return folder


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="no paths of a process's own")
def test_a_cluster_writes_into_an_object_store_what_is_spooled_elsewhere(
    two_workers: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim = tmp_path / "sim"
    density = write_set(sim, 16, ("9.000",))["9.000"]["n_igm"]
    np.savez_compressed(sim / "rho_z9.000.npz", np.asfortranarray(density))
    rows = [f"{i} {i % 7 + 1} 16 {i}.5" for i in range(1, 17)]
    (sim / "9.000-sources.dat").write_text("\n".join(["16", *rows, ""]))
    for replaced in ("rho", "nsrc"):
        (sim / f"{replaced}_z9.000.npy").unlink()
    options = {
        "files": FileSelection(maps={"n_src": [sim]}),
        "given": SimulationDescription(n_src_units="grid_mass"),
        **CUT,
    }
    ingest_cubes(sim, tmp_path / "threads.zarr", **options)
    # Another place for every process: no worker sees the temporary files of this one.
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", "/proc/self/cwd/temporary")
    place = ObjectPath("box", "clusters/cubes.zarr")
    ingest_cubes(sim, Path(str(place)), scheduler=two_workers.address, **options)
    written = as_files(place, tmp_path / "cluster.zarr")
    assert contents_of(written) == contents_of(tmp_path / "threads.zarr")
    assert not place.with_name("cubes.zarr.partial").exists()
    assert not list((tmp_path / "temporary").iterdir())


def test_workers_put_nothing_any_more_once_the_build_is_taken_over(
    two_workers: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim = tmp_path / "sim"
    write_set(sim, 20, ("9.000",))
    place = ObjectPath("box", "clusters/taken.zarr")
    parts = place.with_name("taken.zarr.partial") / "parts"

    def take_over() -> None:
        with monkeypatch.context() as patch:
            patch.setattr("ionstore.storage.s3_lock.STALE_S", -1.0)
            ingest_cubes(
                sim,
                Path(str(place)),
                overwrite=True,
                options=replace(CUT["options"], keep_bits={"xhii": 7}),
            )
        as_files(place, tmp_path / "taken.zarr")

    with (
        in_the_middle(two_workers, parts.exists, take_over) as on_progress,
        pytest.raises(StoreExistsError, match="another one took the store over"),
    ):
        ingest_cubes(
            sim,
            Path(str(place)),
            scheduler=two_workers.address,
            **CUT,
            reporter=Told(on_progress=on_progress),
        )
    assert files_of(as_files(place, tmp_path / "after.zarr")) == files_of(tmp_path / "taken.zarr")
    assert not place.with_name("taken.zarr.partial").exists()


@pytest.mark.server
def test_a_worker_killed_in_mid_run_is_made_up_for(
    two_workers: Cluster, large: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    sim, expected = large
    (victim,) = two_workers.add_workers(1)
    target = tmp_path / "cubes.zarr"
    with in_the_middle(two_workers, partial(n_done, target), partial(kill, victim)) as kill_it:
        ingest_cubes(
            sim, target, scheduler=two_workers.address, **CUT, reporter=Told(on_progress=kill_it)
        )
    assert victim.returncode == -signal.SIGKILL
    assert without_identity(target) == expected


@pytest.mark.server
@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ("workers", "expected workers, there have been none for 0.5 s"),
        ("scheduler", "the scheduler ended"),
    ],
)
def test_what_a_cluster_leaves_unfinished_threads_finish(
    large: tuple[Path, dict[str, object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends: str,
    said: str,
) -> None:
    monkeypatch.setattr(cluster, "_ANSWER_WITHIN_S", 2.0)
    monkeypatch.setattr(cluster, "_WORKER_WITHIN_S", 0.5)
    monkeypatch.setattr(cluster, "_COUNT_WORKERS_EVERY_S", 0.1)
    sim, expected = large
    target = tmp_path / "cubes.zarr"
    with new_cluster(tmp_path) as started:
        (worker,) = started.add_workers(1)
        victim = worker if ends == "workers" else started.scheduler
        with (
            in_the_middle(started, partial(n_done, target), partial(kill, victim)) as kill_it,
            pytest.raises(ClusterError, match=f"{said}.* same command again, which resumes"),
        ):
            ingest_cubes(
                sim, target, scheduler=started.address, **CUT, reporter=Told(on_progress=kill_it)
            )
    assert not target.exists()
    resume_on_threads(sim, target)
    assert without_identity(target) == expected


INGEST = """
import sys
from pathlib import Path
from ionstore.ingest import IngestOptions, ingest_cubes
sim, target, scheduler = sys.argv[1:]
options = IngestOptions(max_shard_cells=10, chunk_cells=5)
ingest_cubes(Path(sim), Path(target), scheduler=scheduler, options=options)
"""


@pytest.mark.server
def test_an_ingest_that_was_killed_is_resumed_on_threads(
    two_workers: Cluster, large: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    sim, expected = large
    target = tmp_path / "cubes.zarr"
    with two_workers.held_back():
        process = subprocess.Popen(
            [sys.executable, "-c", INGEST, str(sim), str(target), two_workers.address],
            start_new_session=True,
        )
        try:
            wait_until(lambda: process.poll() is not None or n_done(target) == N_TURNS)
        finally:
            kill(process)
        two_workers.wait_until_idle()
    two_workers.wait_until_nothing_runs()  # parts under way are still recorded
    resume_on_threads(sim, target)
    assert without_identity(target) == expected


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("tcp://127.0.0.1:{free}", "waited 0.3 s"),
        ("tcp://127.0.0.1", "missing port number"),
        ("tls://127.0.0.1:{free}", "ssl_context"),
        ("http://127.0.0.1:{free}", "unknown address scheme"),
    ],
)
def test_where_no_scheduler_answers_a_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, address: str, reason: str
) -> None:
    default_s = cluster._ANSWER_WITHIN_S
    monkeypatch.setattr(cluster, "_ANSWER_WITHIN_S", 0.3)
    with socket.socket() as probe:  # bound, but nobody listens
        probe.bind(("127.0.0.1", 0))
        address = address.format(free=probe.getsockname()[1])
        begun = time.monotonic()
        with pytest.raises(ClusterError, match=f"{address}: .* none answers .*{reason}") as raised:
            cluster.check_scheduler(address)
    assert time.monotonic() - begun < default_s
    assert "\n" not in str(raised.value)


def test_a_worker_is_no_scheduler(two_workers: Cluster) -> None:
    with distributed.Client(two_workers.address, set_as_default=False) as client:
        worker = next(iter(client.nthreads()))
    with pytest.raises(ClusterError, match=r"expected a dask scheduler.*this is a Worker"):
        cluster.run_on_cluster(run_command, ["true"], worker, print)


def test_a_missing_scheduler_is_noticed_before_anything_is_read_or_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_ANSWER_WITHIN_S", 0.3)
    write_set(tmp_path / "sim")
    seen: list[int] = []
    with pytest.raises(ClusterError, match="none answers"):
        ingest_cubes(
            tmp_path / "sim",
            tmp_path / "cubes.zarr",
            scheduler="tcp://127.0.0.1:9",
            reporter=Told(on_progress=lambda *done: seen.append(done[0])),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["sim"]
    assert not seen


def _vanish(source: Path) -> None:
    source.rename(source.with_suffix(".away"))


def _shrink(source: Path) -> None:
    source.with_suffix(".away").write_bytes(source.read_bytes())
    os.truncate(source, 200)


@pytest.mark.parametrize(
    ("change", "error"), [(_vanish, FileNotFoundError), (_shrink, SourceDataError)]
)
def test_an_error_of_a_part_reaches_the_user_as_it_is(
    two_workers: Cluster,
    tmp_path: Path,
    change: Callable[[Path], None],
    error: type[Exception],
) -> None:
    write_set(tmp_path / "sim", 20, ("9.000",))
    target = tmp_path / "cubes.zarr"
    source = tmp_path / "sim" / "rho_z9.000.npy"
    with (
        in_the_middle(two_workers, partial(n_done, target), partial(change, source)) as change_it,
        pytest.raises(error, match=r"rho_z9\.000\.npy"),
    ):
        ingest_cubes(
            tmp_path / "sim",
            target,
            scheduler=two_workers.address,
            **CUT,
            reporter=Told(on_progress=change_it),
        )
    done = n_done(target)
    assert 0 < done < N_PARTS
    time.sleep(0.3)
    assert n_done(target) == done
    assert not target.exists()


@pytest.mark.parametrize("end", ["error", "interrupt"])
def test_nothing_runs_any_more_when_a_run_has_ended(
    two_workers: Cluster, tmp_path: Path, end: str
) -> None:
    def interrupt(command: str) -> None:
        raise KeyboardInterrupt

    slow = f"touch {tmp_path}/begun && sleep 1.5 && touch {tmp_path}/ended"
    quick = f"while [ ! -e {tmp_path}/begun ]; do sleep 0.01; done; exit {int(end == 'error')}"
    commands = [slow, quick, *(f"sleep 0.5; touch {tmp_path}/later-{n}" for n in range(1000))]
    error = subprocess.CalledProcessError if end == "error" else KeyboardInterrupt
    with pytest.raises(error):
        cluster.run_on_cluster(run_command, commands, two_workers.address, interrupt)
    there = {path.name for path in tmp_path.iterdir()}
    assert {"begun", "ended"} <= there
    assert len(there) < len(commands)
    time.sleep(0.7)
    assert {path.name for path in tmp_path.iterdir()} == there


@pytest.mark.server
def test_workers_that_keep_ending_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    with new_cluster(tmp_path) as started:
        (worker,) = started.add_workers(1)
        with pytest.raises(ClusterError, match="ended again and again under one part"):
            cluster.run_on_cluster(run_command, ["kill -9 $PPID"], started.address, print)
        assert worker.wait(10) == -signal.SIGKILL


def test_each_item_is_done_once_and_none_asks_nobody(two_workers: Cluster, tmp_path: Path) -> None:
    done: list[str] = []
    commands = [f"echo {n} >> {tmp_path}/{n}" for n in range(30)]
    cluster.run_on_cluster(run_command, commands, two_workers.address, done.append)
    assert sorted(done) == sorted(commands)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        str(n): f"{n}\n" for n in range(30)
    }
    cluster.run_on_cluster(run_command, [], "nowhere", done.append)
    assert len(done) == 30


class Spoor:
    """Leaves a file named after the process that unpickles it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self._folder}/$PPID",)


def test_the_scheduler_need_not_see_the_files(two_workers: Cluster, tmp_path: Path) -> None:
    cluster.run_on_cluster(partial(max, Spoor(tmp_path)), [1, 2], two_workers.address, print)
    unpickled = {int(path.name) for path in tmp_path.iterdir()}
    assert unpickled
    assert unpickled.isdisjoint({two_workers.scheduler.pid, os.getpid()})
