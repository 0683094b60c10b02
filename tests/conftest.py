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
