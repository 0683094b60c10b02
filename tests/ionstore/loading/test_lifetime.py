"""Loaders end with their loop, their script, their process or a worker, and leave nothing."""

import gc
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from ionstore.loading.loaders import Batch, NeighborhoodLoader
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Layout
from tests.support.forked_scripts import ScriptServer, script_server
from tests.support.places import ROOT
from tests.support.stores import cubes_at, write_store

# Slow: every script with workers has a fork server of its own, which imports torch for seconds.
pytestmark = pytest.mark.process

START_S = 120.0  # a process imports torch and compiles kernels
END_S = 60.0  # torch looks every 5 s for workers that have ended, and machines can be busy

RESIDENT: dict[str, Any] = {"radius": 2, "batch_size": 8}
REGIONS: dict[str, Any] = {
    **RESIDENT,
    "core": 5,
    "n_lanes": 4,
    "samples_per_opening": 40,
    "memory_budget": 200_000,  # all fields take 292 kB
}
MODES = {"resident": RESIDENT, "regions": REGIONS}

ANY_MODE = [(mode, num_workers) for mode in MODES for num_workers in (0, 2)]
# Without a network's pause, a signal often comes while a finalizer gives a batch back, where Python
# drops exceptions.
PAUSE = "time.sleep(0.02)"

# Loaders of every mode in one process: their workers come of one fork server, whose start takes
# longest.
SCRIPT = """
import itertools, os, signal, sys, time
from ionstore.loading import NeighborhoodLoader

def run():
    loaders = [NeighborhoodLoader({store!r}, **settings) for settings in {settings!r}]
    assert [loader.stats.mode for loader in loaders] == {modes!r}
    epochs = [itertools.chain.from_iterable(itertools.repeat(loader)) for loader in loaders]
    batches = zip(*epochs)
    next(batches)
    print("running", flush=True)
    for number, batch in enumerate(batches):
        {body}
    return epochs

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    left = run()
"""


@pytest.fixture(scope="module")
def box23(tmp_path_factory: pytest.TempPathFactory) -> CubeStore:
    path = tmp_path_factory.mktemp("stores") / "cubes.zarr"
    redshifts = (9.0, 7.5)
    return write_store(path, cubes_at(23, redshifts), redshifts, layout=Layout(23, 5, 10))


@pytest.fixture(scope="module")
def scripts() -> Iterator[ScriptServer]:
    with script_server() as server:
        yield server


class Script:
    """A script with a loader, in a session of its own, and all processes that come of it."""

    def __init__(self, folder: Path) -> None:
        self._mark = uuid.uuid4().hex  # inherited by workers, whoever their parent is
        self._folder = folder
        self.pid = 0

    def run_by(self, server: ScriptServer, script: Path, *, module: str = "") -> None:
        """Run it, or a module of its folder, in a process that begins at once."""
        forked = server.run(script, module=module, LOADER_LIFETIME=self._mark)
        self.pid = forked.pid
        self._has_ended = forked.has_ended
        self.wait = lambda: forked.wait(END_S)[0]

    def run_command(self, command: Sequence[str], *, stdin: Path | None = None) -> None:
        """Run it by a command of its own."""
        environment = {**os.environ, "LOADER_LIFETIME": self._mark}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        # Not pipes: whoever survives would keep them open, and the test waiting.
        with (
            open(self._folder / "stdout", "wb") as out,
            open(self._folder / "stderr", "wb") as error,
            open(stdin or os.devnull, "rb") as source,
        ):
            process = subprocess.Popen(
                command,
                stdin=source,
                stdout=out,
                stderr=error,
                cwd=self._folder,
                env=environment,
                start_new_session=True,
            )
        self.pid = process.pid
        self._has_ended = lambda: process.poll() is not None
        self.wait = lambda: process.wait(START_S)

    @property
    def stdout(self) -> str:
        return (self._folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self._folder / "stderr").read_text()

    def wait_until_running(self, said: str = "running") -> None:
        wait_until(lambda: said in self.stdout or self._has_ended(), START_S)
        assert said in self.stdout, self.stderr

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                is_ours = (
                    process.pid == self.pid
                    or process.environ().get("LOADER_LIFETIME") == self._mark
                )
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def workers(self) -> list[psutil.Process]:
        """Return its grandchildren: workers are children of the fork server."""
        return [
            worker for child in psutil.Process(self.pid).children() for worker in child.children()
        ]

    def check_nothing_survives(self) -> None:
        wait_until(lambda: not self.processes(), END_S)
        assert [process.cmdline() for process in self.processes()] == []

    def end(self) -> None:
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        self.wait()


def wait_until(is_so: Callable[[], bool], timeout: float) -> None:
    give_up = time.monotonic() + timeout
    while not is_so() and time.monotonic() < give_up:
        time.sleep(0.05)


@contextmanager
def nothing_new_in_shared_memory() -> Iterator[None]:
    def names() -> set[str]:
        return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()

    before = names()
    yield
    wait_until(lambda: names() <= before, END_S)  # those of others come and go
    assert names() <= before


def script_of(store: CubeStore, num_workers: int, body: str = "pass") -> str:
    settings = [{**MODES[mode], "num_workers": num_workers} for mode in MODES]
    return SCRIPT.format(store=str(store.path), settings=settings, modes=list(MODES), body=body)


@contextmanager
def script(scripts: ScriptServer, folder: Path, code: str) -> Iterator[Script]:
    folder.mkdir()
    path = folder / "script.py"
    path.write_text(code)
    started = Script(folder)
    started.run_by(scripts, path)
    try:
        yield started
    finally:
        started.end()


@contextmanager
def side_by_side(several: Iterable[AbstractContextManager[Script]]) -> Iterator[list[Script]]:
    """Start scripts at once, as each takes long to start, and wait until all run."""
    with nothing_new_in_shared_memory(), ExitStack() as stack:
        started = [stack.enter_context(one) for one in several]
        for one in started:
            one.wait_until_running()
        yield started


def digest(batches: Iterator[Batch], n: int) -> list[tuple[float, float, list[list[int]]]]:
    """Return what tells batches apart, of the next ``n``."""
    return [
        (float(batch.inputs.double().sum()), float(batch.target.double().sum()),
         batch.centers.tolist())
        for batch in itertools.islice(batches, n)
    ]  # fmt: skip


def loader_threads() -> list[str]:
    names = ("ionstore-fill", "ionstore-decode")
    return [thread.name for thread in threading.enumerate() if thread.name in names]


def worker_processes() -> set[int]:
    """Grandchildren of this process: workers are children of the fork server."""
    found = set()
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            found |= {worker.pid for worker in child.children()}
    return found


def test_ctrl_c_ends_the_loop_and_only_the_main_process_reports_it(
    tmp_path: Path, scripts: ScriptServer, box23: CubeStore
) -> None:
    several = (
        script(scripts, tmp_path / str(num_workers), script_of(box23, num_workers, PAUSE))
        for num_workers in (0, 2)
    )
    with side_by_side(several) as running:
        for started, num_workers in zip(running, (0, 2), strict=True):
            assert len(started.workers()) == num_workers * len(MODES)
            os.killpg(started.pid, signal.SIGINT)  # as a terminal does
        for started in running:
            assert started.wait() == -signal.SIGINT
            started.check_nothing_survives()
            assert started.stderr.splitlines()[-1] == "KeyboardInterrupt"
            assert started.stderr.count("Traceback") == 1


def test_ctrl_c_while_workers_start_ends_all_of_them(
    tmp_path: Path, scripts: ScriptServer, box23: CubeStore
) -> None:
    with (
        nothing_new_in_shared_memory(),
        script(scripts, tmp_path / "script", script_of(box23, 2)) as started,
    ):
        wait_until(lambda: len(started.processes()) > 1, START_S)
        time.sleep(0.5)
        os.killpg(started.pid, signal.SIGINT)
        assert started.wait() == -signal.SIGINT
        started.check_nothing_survives()
        assert started.stderr.splitlines().count("KeyboardInterrupt") == 1


class LoopError(Exception):
    pass


@pytest.mark.parametrize(("mode", "num_workers"), ANY_MODE)
@pytest.mark.parametrize("closes", [True, False], ids=["with", "without with"])
def test_an_error_in_the_loop_leaves_no_threads_and_no_workers(
    box23: CubeStore, mode: str, num_workers: int, closes: bool
) -> None:
    def fail_in_the_loop(loader: NeighborhoodLoader) -> None:
        for number, _ in enumerate(loader):
            if number == 3:
                assert len(loader_threads()) > 0 or num_workers
                assert len(worker_processes() - before) == num_workers
                raise LoopError

    gc.collect()  # what other tests left
    before, threads_before = worker_processes(), loader_threads()
    loader = NeighborhoodLoader(box23, **MODES[mode], num_workers=num_workers)
    assert loader.stats.mode == mode
    with suppress(LoopError):
        if closes:
            with loader:
                fail_in_the_loop(loader)
        else:
            fail_in_the_loop(loader)
    if not closes:
        del loader
        gc.collect()
    assert loader_threads() == threads_before
    assert worker_processes() <= before


ENDS = {
    "end of the script": (1, "break", 0),
    "sys.exit": (1, "sys.exit(3)", 3),
    "os._exit": (1, "os._exit(3)", 3),
    "SIGKILL": (1, "os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    "SIGKILL of threads": (0, "os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
}


def test_nothing_survives_a_process_that_does_not_close_its_loader(
    tmp_path: Path, scripts: ScriptServer, box23: CubeStore
) -> None:
    several = (
        script(
            scripts,
            tmp_path / end,
            script_of(box23, num_workers, f"if number == 20: {statement}"),
        )
        for end, (num_workers, statement, _) in ENDS.items()
    )
    with side_by_side(several) as running:
        for started, (end, (_, _, exit_code)) in zip(running, ENDS.items(), strict=True):
            assert started.wait() == exit_code
            started.check_nothing_survives()
            if end in {"end of the script", "sys.exit"}:
                assert started.stderr == ""
            else:  # Python's own tracker removes semaphores then, and says so
                assert "Traceback" not in started.stderr


TWO_LOOPS_LEFT = """
import atexit, itertools, threading
# What is registered first runs last.
atexit.register(lambda: print([thread.name for thread in threading.enumerate()], flush=True))
from ionstore.loading import NeighborhoodLoader

loaders = [NeighborhoodLoader({store!r}, **settings) for settings in {settings!r}]
left = [iter(loader) for loader in loaders]
for batches in left:
    list(itertools.islice(batches, 20))
print([loader.stats.mode for loader in loaders], threading.active_count(), sep=";")
"""


def test_threads_end_before_the_interpreter_does(tmp_path: Path, box23: CubeStore) -> None:
    path = tmp_path / "script.py"
    path.write_text(
        TWO_LOOPS_LEFT.format(store=str(box23.path), settings=[MODES[mode] for mode in MODES])
    )
    started = Script(tmp_path)
    started.run_command([sys.executable, str(path)])
    try:
        assert started.wait() == 0, started.stderr
        started.check_nothing_survives()
    finally:
        started.end()
    running, at_the_end = started.stdout.splitlines()
    modes, n_running = running.split(";")
    assert modes == str(list(MODES))
    assert int(n_running) > 3  # the main thread, one that fills for each loader, and decoders
    assert at_the_end == "['MainThread']"
    assert started.stderr == ""


ONE_AFTER_THE_OTHER = """
import time
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from ionstore.loading import NeighborhoodLoader

# Torch looks for workers that have ended every 5 s; how often is of no interest here.
assert _MultiProcessingDataLoaderIter._try_get_data.__defaults__ == (5.0,)
_MultiProcessingDataLoaderIter._try_get_data.__defaults__ = (0.5,)

def run(number, mode, settings):
    loader = NeighborhoodLoader({store!r}, num_workers=2, **settings)
    assert loader.stats.mode == mode
    for batch in loader:
        if loader.position == 1:
            print("running", number, flush=True)
        time.sleep(0.02)

for number, (mode, settings) in enumerate({cases!r}):
    try:
        run(number, mode, settings)
    except RuntimeError as error:
        print(error, flush=True)
        if number == 2:
            raise
"""


def test_a_worker_killed_in_mid_epoch_is_an_error_within_seconds(
    tmp_path: Path, scripts: ScriptServer, box23: CubeStore
) -> None:
    cases = [("resident", True), ("regions", True), ("regions", False)]
    settings = [(mode, MODES[mode]) for mode, _ in cases]
    code = ONE_AFTER_THE_OTHER.format(store=str(box23.path), cases=settings)
    with (
        nothing_new_in_shared_memory(),
        script(scripts, tmp_path / "script", code) as started,
    ):
        for number, (_, is_waited_for) in enumerate(cases):
            started.wait_until_running(f"running {number}")
            victim, other = started.workers()
            if is_waited_for:
                victim.suspend()
                other.suspend()
                time.sleep(0.5)  # the loop runs out of batches
            victim.kill()
            other.resume()
            wait_until(
                lambda number=number: len(started.stdout.splitlines()) > 2 * number + 1, END_S
            )
            last = started.stdout.splitlines()[2 * number + 1]
            assert last.startswith("DataLoader worker")
            assert str(victim.pid) in last
        assert started.wait() == 1
        started.check_nothing_survives()
        assert started.stderr.splitlines()[-1] == f"RuntimeError: {last}"


SMALL_SHM = """
import os, sys
from ionstore.loading import NeighborhoodLoader

if __name__ == "__main__":
    shm = os.statvfs("/dev/shm")
    assert shm.f_blocks * shm.f_frsize == 65536, shm
    settings = {settings!r}
    with NeighborhoodLoader({store!r}, num_workers=2, **settings) as loader:
        for batch, _ in zip(loader, range(6)):
            assert batch.inputs.nbytes > 10 * 65536
            print(float(batch.inputs.double().sum()), float(batch.target.double().sum()),
                  batch.centers.tolist(), sep=";")
"""


def with_a_small_shm() -> list[str]:
    """Return the start of a command that runs with 64 KB of /dev/shm; skip where none can."""
    mount = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    if shutil.which("unshare") is None or not os.path.isdir("/dev/shm"):
        pytest.skip("this system has no unshare command or no /dev/shm")
    tried = ""
    for options in (["--mount"], ["--user", "--map-root-user", "--mount"]):
        command = ["unshare", *options, "sh", "-c", mount, "sh"]
        tried = subprocess.run(
            [*command, "true"], capture_output=True, text=True, check=False
        ).stderr
        if not tried:
            return command
    pytest.skip(f"this system does not let unshare mount: {tried.strip()}")


def test_batches_need_no_room_in_dev_shm(tmp_path: Path, box23: CubeStore) -> None:
    command = with_a_small_shm()
    settings = {"radius": 4, "batch_size": 256}
    path = tmp_path / "script.py"
    path.write_text(SMALL_SHM.format(store=str(box23.path), settings=settings))
    started = Script(tmp_path)
    started.run_command([*command, sys.executable, str(path)])
    try:
        assert started.wait() == 0, started.stderr
        started.check_nothing_survives()
    finally:
        started.end()
    with NeighborhoodLoader(box23, **settings) as loader:
        expected = digest(iter(loader), 6)
    assert started.stdout.splitlines() == [f"{a};{b};{c}" for a, b, c in expected]


MAP_AND_EXIT = """
import mmap, os, sys
for path in sys.argv[1:]:
    descriptor = os.open(path, os.O_RDWR)
    memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    print(len(memory[:]))
"""


def memory_files() -> list[str]:
    """Open files of this process that are memory of loaders, as other processes may open them."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("/memfd:ionstore"):
                found.append(f"/proc/{os.getpid()}/fd/{name}")
    return found


@pytest.mark.parametrize("mode", MODES)
def test_another_process_that_maps_the_memory_does_not_take_it_away(
    box23: CubeStore, mode: str
) -> None:
    if not os.path.isdir("/proc/self/fd") or not hasattr(os, "memfd_create"):
        pytest.skip("this system does not let processes open each other's memory")
    with NeighborhoodLoader(box23, **{**MODES[mode], "memory_budget": 2**30}) as loader:
        expected = digest(iter(loader), 80)
    with NeighborhoodLoader(box23, **MODES[mode], num_workers=2) as loader:
        assert loader.stats.mode == mode
        batches = iter(loader)
        found = digest(batches, 5)
        files = memory_files()
        assert files
        mapped = subprocess.run(
            [sys.executable, "-c", MAP_AND_EXIT, *files],
            capture_output=True,
            text=True,
            check=True,
            timeout=START_S,
        )
        assert len(mapped.stdout.split()) == len(files)
        assert mapped.stderr == ""
        found += digest(batches, 35)
        assert set(files) <= set(memory_files())
        loader.close()  # workers that start now map the memory anew
        found += digest(iter(loader), 40)
    assert found == expected


STATEMENTS = """
from ionstore.loading import NeighborhoodLoader
print("once")
loader = NeighborhoodLoader({store!r}, radius=2, batch_size=8, num_workers=1)
for batch, _ in zip(loader, range(20)):
    pass
print(batch.centers.tolist())
loader.close()
"""


def test_scripts_need_neither_a_file_nor_a_guard_to_have_workers(
    tmp_path: Path, scripts: ScriptServer, box23: CubeStore
) -> None:
    code = STATEMENTS.format(store=str(box23.path))
    several = []
    ways: dict[str, Callable[[Script, Path], None]] = {
        "-c": lambda one, _: one.run_command([sys.executable, "-c", code]),
        "-": lambda one, file: one.run_command([sys.executable, "-"], stdin=file),
        "file": lambda one, file: one.run_by(scripts, file),
        "-m module": lambda one, file: one.run_by(scripts, file, module="module"),
        "-m package": lambda one, file: one.run_by(scripts, file, module="package"),
    }
    for way, run in ways.items():
        folder = tmp_path / way
        (folder / "package").mkdir(parents=True)
        (folder / "module.py").write_text(code)
        (folder / "package" / "__main__.py").write_text(code)
        several.append(Script(folder))
        run(several[-1], folder / "module.py")
    try:
        for started in several:
            assert started.wait() == 0, started.stderr
            started.check_nothing_survives()
    finally:
        for started in several:
            started.end()
    with NeighborhoodLoader(box23, **RESIDENT) as loader:
        *_, last = itertools.islice(loader, 20)
    for started in several:
        assert started.stdout == f"once\n{last.centers.tolist()}\n"
        assert started.stderr == ""
