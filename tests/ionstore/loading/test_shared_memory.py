"""Shared memory: seen by all, named by nobody, refused before it runs out."""

import multiprocessing
import os
import resource
import stat
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from ionstore.errors import MemoryBudgetError, bytes_in_words
from ionstore.loading.shared_memory import SharedBuffer

N_BYTES = 1_234_567


def open_files() -> dict[int, tuple[int, int]]:
    """Device and inode of every open regular file of this process, by descriptor."""
    found = {}
    for name in os.listdir("/dev/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:  # the listing itself
            continue
        if stat.S_ISREG(status.st_mode):
            found[int(name)] = (status.st_dev, status.st_ino)
    return found


def without_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)


@pytest.fixture(params=["as on this system", "as on macOS"])
def _system(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if request.param == "as on macOS":
        without_memfd(monkeypatch)


def answer_in_the_middle(shared: SharedBuffer, expected: int) -> None:
    values = shared.array((4,), np.int32, offset=8)
    assert values.tolist() == [0, expected, 0, 0]
    values[2] = expected + 1


@pytest.mark.usefixtures("_system")
@pytest.mark.process
def test_parent_and_child_see_what_the_other_writes(
    monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    monkeypatch.syspath_prepend(pytestconfig.rootpath)  # where the child finds this module
    shared = SharedBuffer(64)
    values = shared.array((16,), np.int32)
    values[3] = 41
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=answer_in_the_middle, args=(shared, 41), daemon=True)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert values.tolist() == [0, 0, 0, 41, 42, *[0] * 11]


@pytest.mark.usefixtures("_system")
def test_new_memory_is_zero_and_of_the_size_asked_for() -> None:
    shared = SharedBuffer(N_BYTES)
    assert shared.n_bytes == N_BYTES
    assert not shared.array((N_BYTES,), np.uint8).any()
    with pytest.raises(TypeError, match="too small"):
        shared.array((N_BYTES + 1,), np.uint8)


@pytest.mark.usefixtures("_system")
def test_the_file_has_no_name(tmp_path: Path) -> None:
    before = open_files()
    shared = SharedBuffer(N_BYTES)
    new = [os.fstat(descriptor) for descriptor in open_files().keys() - before.keys()]
    assert new
    assert {(status.st_nlink, status.st_size) for status in new} == {(0, shared.n_bytes)}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_system")
def test_descriptors_close_with_the_buffer_and_its_arrays() -> None:
    before = open_files()
    shared = SharedBuffer(N_BYTES)
    alone = open_files()
    part = shared.array((N_BYTES,), np.uint8)[5:]
    del shared
    assert len(open_files()) < len(alone)
    del part
    assert open_files() == before


@pytest.mark.usefixtures("_system")
def test_arrays_outlive_the_buffer() -> None:
    shared = SharedBuffer(N_BYTES)
    part = shared.array((N_BYTES,), np.uint8)[1::2]
    part[:] = 9
    del shared
    others = [SharedBuffer(N_BYTES) for _ in range(4)]  # would land where memory was given back
    for other in others:
        other.array((N_BYTES,), np.uint8)[:] = 1
    assert (part == 9).all()


def never(*arguments: object) -> None:
    pytest.fail(f"the system was asked for memory that it does not have: {arguments}")


@pytest.mark.usefixtures("_system")
@pytest.mark.parametrize(
    ("n_bytes", "available"), [(2**55, None), (2_000_001, 2_000_000)], ids=["huge", "a byte more"]
)
def test_more_than_the_free_memory_is_refused_unasked(
    monkeypatch: pytest.MonkeyPatch, n_bytes: int, available: int | None
) -> None:
    for name in {"posix_fallocate", "ftruncate"}.intersection(dir(os)):
        monkeypatch.setattr(os, name, never)
    if available is not None:
        free = SimpleNamespace(available=available)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    before = open_files()
    with pytest.raises(MemoryBudgetError) as caught:
        SharedBuffer(n_bytes)
    assert open_files() == before
    assert str(caught.value) == (
        f"{bytes_in_words(n_bytes)} of memory were required, the system refused "
        "(Cannot allocate memory); lower memory_budget or the batch size"
    )


@pytest.mark.usefixtures("_system")
def test_a_refusal_of_the_system_is_one_sentence() -> None:
    before = open_files()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(MemoryBudgetError, match=r"^2 MB .* refused \(File too large\); lower"):
            SharedBuffer(2_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert open_files() == before
