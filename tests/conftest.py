"""Small stores for tests, a server of objects, and where real simulation output is kept."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Layout
from tests.support.object_server import environment, make_bucket, running_object_server
from tests.support.places import SHARED_DATA
from tests.support.stores import cubes_at, write_store

# Read when torch is imported, in processes of tests too. Its threads wait for each other without
# sleeping, which takes their time from all others where there are few processors.
os.environ.setdefault("OMP_NUM_THREADS", "1")


StoreMaker = Callable[..., CubeStore]

# Fixtures that start something, and the mark of every test that uses them.
STARTED_BY = {
    "server": "server",
    "two_workers": "server",
    "commands": "process",
    "scripts": "process",
    "torchrun": "process",
}
# Parameters that count worker processes.
N_WORKERS = ("n_workers", "num_workers")


@pytest.hookimpl(tryfirst=True)  # before tests are left out by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that start processes by their fixtures and parameters."""
    for item in items:
        if not isinstance(item, pytest.Function):  # documentation has none of them
            continue
        for name in item.fixturenames:
            if name in STARTED_BY:
                item.add_marker(STARTED_BY[name])
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if any(parameters.get(name) for name in N_WORKERS):
            item.add_marker("process")


LEFT_OUT = pytest.StashKey[Counter[str]]()
TIERS = ("process", "server", "slow")


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count tests that are left out by their marks."""
    for item in items:
        marks = [mark for mark in TIERS if item.get_closest_marker(mark)]
        item.config.stash.setdefault(LEFT_OUT, Counter()).update(marks and ["tests", *marks])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the main process what a process of pytest-xdist left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(session.config.stash.get(LEFT_OUT, {}))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what such a process left out: each of them collects all tests."""
    node.config.stash[LEFT_OUT] = Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what was left out."""
    counts = config.stash.get(LEFT_OUT, Counter())
    if counts["tests"]:
        by_mark = ", ".join(f"{counts[mark]} {mark}" for mark in TIERS)
        terminalreporter.write_line(f"left out by marks: {counts['tests']} tests ({by_mark})")


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Address of a server with the bucket ``box``; the environment leads to it."""
    with running_object_server() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(address).items():
            patch.setenv(name, value)
        make_bucket(address, "box")
        yield address


@pytest.fixture
def shared_data() -> Path:
    """Folder of real simulation output; skips where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real simulation output is missing: {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> CubeStore:
    """A 12³ store with two redshifts, in chunks that do not divide the mesh."""
    redshifts = (9.0, 7.5)
    path = tmp_path_factory.mktemp("stores") / "cubes.zarr"
    layout = Layout(12, 5, 10)
    return write_store(path, cubes_at(12, redshifts), redshifts, layout=layout)
