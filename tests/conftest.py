"""Small stores for tests, a server of objects, and where real simulation output is kept."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

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
