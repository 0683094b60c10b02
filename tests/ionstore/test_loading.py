"""Batches: the right neighborhoods, the same in every mode, valid as long as they are held."""

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from ionstore.errors import MemoryBudgetError, NotInStoreError
from ionstore.loading import Batch, NeighborhoodLoader
from ionstore.normalize import fit_normalization
from ionstore.split import Region
from ionstore.store import CubeStore
from tests.conftest import cubes_at, write_store

MODES = pytest.mark.parametrize("num_workers", [0, 1, 2])


def field(store: CubeStore, name: str, redshift: float) -> np.ndarray:
    return store.read_field(name, redshift).astype(np.float32)


def check_against_rolled_boxes(batch: Batch, stores: list[CubeStore], radius: int) -> None:
    width = 2 * radius + 1
    for sample in range(len(batch)):
        store = stores[int(batch.store_index[sample])]
        redshift = float(batch.redshift[sample])
        center = batch.centers[sample].tolist()
        shift = [radius - index for index in center]
        for channel, name in enumerate(("n_igm", "n_src")):
            box = np.roll(field(store, name, redshift), shift, axis=(0, 1, 2))
            np.testing.assert_array_equal(
                batch.inputs[sample, channel], box[:width, :width, :width]
            )
        target = np.roll(field(store, "xhii", redshift), [-i for i in center], axis=(0, 1, 2))
        assert batch.target[sample] == target[0, 0, 0]


@MODES
def test_batches_hold_the_periodic_neighborhoods_and_targets(
    small_store: CubeStore, num_workers: int
) -> None:
    with NeighborhoodLoader(
        small_store, radius=2, batch_size=16, num_workers=num_workers
    ) as loader:
        first, second = itertools.islice(loader, 2)
    assert first.inputs.shape == (16, 2, 5, 5, 5)
    assert (first.inputs.dtype, first.target.dtype) == (torch.float32, torch.float32)
    assert (first.centers.dtype, first.store_index.dtype) == (torch.int64, torch.int64)
    for batch in (first, second):
        check_against_rolled_boxes(batch, [small_store], radius=2)


@MODES
def test_an_epoch_visits_every_cell_of_every_redshift_once(
    small_store: CubeStore, num_workers: int
) -> None:
    with NeighborhoodLoader(
        small_store, radius=1, batch_size=1000, num_workers=num_workers
    ) as loader:
        assert len(loader) == 4  # 2 * 12³ = 3456 samples
        for _ in range(2):
            seen = [
                (float(redshift), *center)
                for batch in loader
                for redshift, center in zip(batch.redshift, batch.centers.tolist(), strict=True)
            ]
            assert len(seen) == len(set(seen)) == 2 * 12**3


def fingerprint(batches: Iterator[Batch] | NeighborhoodLoader) -> list[tuple[object, ...]]:
    return [
        (batch.centers.tolist(), batch.redshift.tolist(), float(batch.inputs.sum()))
        for batch in batches
    ]


def test_the_order_depends_on_seed_and_epoch_alone(small_store: CubeStore) -> None:
    def epochs(seed: int, num_workers: int) -> list[list[tuple[object, ...]]]:
        with NeighborhoodLoader(
            small_store, radius=1, batch_size=700, seed=seed, num_workers=num_workers
        ) as loader:
            return [fingerprint(loader) for _ in range(2)]

    by_thread = epochs(1, 0)
    assert by_thread == epochs(1, 2)
    assert by_thread[0] != by_thread[1]
    assert by_thread != epochs(2, 0)


@MODES
def test_a_position_resumes_in_mid_epoch(small_store: CubeStore, num_workers: int) -> None:
    settings = {"radius": 1, "batch_size": 500, "num_workers": num_workers}
    with NeighborhoodLoader(small_store, **settings) as loader:
        whole = [fingerprint(loader), fingerprint(loader)]
    with NeighborhoodLoader(small_store, **settings) as loader:
        loader.position = len(loader) + 3
        assert fingerprint(loader) == whole[1][3:]
        assert loader.position == 2 * len(loader)


@MODES
def test_batches_stay_valid_while_they_are_held(small_store: CubeStore, num_workers: int) -> None:
    with NeighborhoodLoader(
        small_store, radius=1, batch_size=300, num_workers=num_workers
    ) as loader:
        held, copies = [], []
        for batch in loader:
            held.append(batch.inputs[:, 0])  # a view of one tensor, the batch itself is let go
            copies.append(batch.inputs[:, 0].clone())
        list(loader)
    assert all(torch.equal(a, b) for a, b in zip(held, copies, strict=True))
    del loader
    assert all(torch.equal(a, b) for a, b in zip(held, copies, strict=True))


@MODES
def test_leaving_an_epoch_early_starts_the_next_iteration_there(
    small_store: CubeStore, num_workers: int
) -> None:
    settings = {"radius": 1, "batch_size": 300, "num_workers": num_workers}
    with NeighborhoodLoader(small_store, **settings) as loader:
        whole = fingerprint(loader)
    with NeighborhoodLoader(small_store, **settings) as loader:
        for _ in range(4):  # more often than there are slots
            loader.position = 0
            with closing(iter(loader)) as batches:
                next(batches)
        assert loader.position == 1
        assert fingerprint(loader) == whole[1:]


def test_several_stores_and_chosen_redshifts(tmp_path: Path) -> None:
    stores = [
        write_store(tmp_path / name, cubes_at(mesh, (8.0, 7.0), seed=mesh), (8.0, 7.0))
        for name, mesh in (("a.zarr", 7), ("b.zarr", 8))
    ]
    with NeighborhoodLoader(
        [str(stores[0].path), stores[1]], radius=3, batch_size=100, redshifts=[7.0]
    ) as loader:
        batches = [Batch(*(part.clone() for part in parts(batch))) for batch in loader]
    assert sum(map(len, batches)) == 7**3 + 8**3
    assert {float(z) for batch in batches for z in batch.redshift} == {7.0}
    check_against_rolled_boxes(batches[0], stores, radius=3)
    check_against_rolled_boxes(batches[-1], stores, radius=3)


def parts(batch: Batch) -> tuple[torch.Tensor, ...]:
    return batch.inputs, batch.target, batch.redshift, batch.centers, batch.store_index


def test_chosen_centers_without_shuffling_come_in_their_order(small_store: CubeStore) -> None:
    centers = np.array([[3, 4, 5], [0, 0, 0], [-1, 12, 25]])
    with NeighborhoodLoader(
        small_store, radius=1, batch_size=6, centers=centers, shuffle=False
    ) as loader:
        (batch,) = loader
    assert batch.centers.tolist() == 2 * centers.tolist()
    assert batch.redshift.tolist() == [9.0] * 3 + [7.5] * 3
    check_against_rolled_boxes(batch, [small_store], radius=1)


def test_samples_per_epoch_bounds_an_epoch_and_changes_with_it(small_store: CubeStore) -> None:
    with NeighborhoodLoader(small_store, radius=0, batch_size=64, samples_per_epoch=128) as loader:
        first, second = fingerprint(loader), fingerprint(loader)
    assert len(first) == len(second) == 2
    assert first != second


@MODES
def test_a_new_iteration_ends_the_one_before(small_store: CubeStore, num_workers: int) -> None:
    with NeighborhoodLoader(
        small_store, radius=1, batch_size=500, num_workers=num_workers
    ) as loader:
        first = iter(loader)
        next(first)
        assert len(list(loader)) == len(loader) - 1
        assert list(first) == []


def test_closing_ends_the_thread_of_an_iteration(small_store: CubeStore) -> None:
    loader = NeighborhoodLoader(small_store, radius=1, batch_size=10)
    batches = iter(loader)
    next(batches)
    assert any(thread.name == "ionstore-fill" for thread in threading.enumerate())
    loader.close()
    assert not any(thread.name == "ionstore-fill" for thread in threading.enumerate())


def test_a_sibling_stays_within_the_budget(small_store: CubeStore) -> None:
    fields = 2 * 3 * 4 * 12**3
    batch = 64 * (4 * 2 * 27 + 4 + 8 + 24 + 8)
    with NeighborhoodLoader(
        small_store, radius=1, batch_size=64, memory_budget=fields + 9 * batch
    ) as loader:
        loader.sibling(None)
        with pytest.raises(MemoryBudgetError, match="raise memory_budget"):
            loader.sibling(None)


def test_a_sibling_shares_the_fields(small_store: CubeStore) -> None:
    with NeighborhoodLoader(small_store, radius=1, batch_size=64) as loader:
        region = Region((2, 0, 0), (1, 12, 12))
        other = loader.sibling(region, shuffle=False)
        (*_, last) = other
        assert other.n_samples == 2 * 144
        assert other._fields is loader._fields
        check_against_rolled_boxes(last, [small_store], radius=1)


def test_normalization_is_applied_to_the_inputs_only(small_store: CubeStore) -> None:
    everything = Region((0, 0, 0), (12, 12, 12))
    normalization = fit_normalization([small_store], ["n_igm", "n_src"], [everything])
    with NeighborhoodLoader(
        small_store, radius=0, batch_size=2 * 12**3, normalization=normalization
    ) as loader:
        (batch,) = loader
    inputs = batch.inputs.flatten(2).squeeze(2).double()
    torch.testing.assert_close(inputs.mean(0), torch.zeros(2).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        inputs.std(0, correction=0), torch.ones(2).double(), atol=1e-6, rtol=0
    )
    assert sorted(batch.target.tolist()) == sorted(
        np.concatenate([field(small_store, "xhii", z).ravel() for z in (9.0, 7.5)]).tolist()
    )


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_killed_worker_is_an_error_and_the_loader_recovers(
    small_store: CubeStore, num_workers: int
) -> None:
    with NeighborhoodLoader(small_store, radius=2, batch_size=8, num_workers=num_workers) as loader:
        batches = iter(loader)
        next(batches)
        before = set(psutil.Process().children(recursive=True))
        workers = [process for process in before if not process.children()]
        victim = max(workers, key=lambda process: process.create_time())
        os.kill(victim.pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="worker"):
            list(itertools.islice(batches, 100))
        loader.position = 0
        check_against_rolled_boxes(next(iter(loader)), [small_store], radius=2)


def test_no_descriptor_is_left_open(small_store: CubeStore) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not list open descriptors")

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    with NeighborhoodLoader(small_store, radius=1, batch_size=64) as loader:
        next(iter(loader))
    del loader
    before = descriptors()
    for _ in range(3):
        with NeighborhoodLoader(small_store, radius=1, batch_size=64) as loader:
            next(iter(loader))
        del loader
    assert descriptors() == before


def test_a_script_on_standard_input_cannot_have_workers(small_store: CubeStore) -> None:
    code = (
        "from ionstore.loading import NeighborhoodLoader\n"
        f"NeighborhoodLoader({str(small_store.path)!r}, radius=1, batch_size=9, num_workers=1)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-"], input=code, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 1
    assert "save the script to a file or use num_workers=0" in shown.stderr.splitlines()[-1]


def test_an_error_while_filling_reaches_the_consumer(
    small_store: CubeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise OSError("gone")

    with NeighborhoodLoader(small_store, radius=1, batch_size=64) as loader:
        monkeypatch.setattr(type(loader._fields), "runs", gone)
        with pytest.raises(OSError, match="gone"):
            next(iter(loader))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"memory_budget": 100_000}, MemoryBudgetError, "all fields take .*raise memory_budget"),
        ({"memory_budget": 10_000}, MemoryBudgetError, "batches .* leaves .*raise memory_budget"),
        ({"radius": 6}, ValueError, "needs a mesh of 13 cells"),
        ({"inputs": ["n_igm", "dust"]}, ValueError, "must hold dust"),
        ({"redshifts": [8.0]}, NotInStoreError, "9, 7.5"),
        ({"batch_size": 0}, ValueError, "got .*batch_size 0"),
        ({"samples_per_epoch": 0}, ValueError, "got .*samples_per_epoch 0"),
        ({"seed": -1}, ValueError, "got .*seed -1"),
        ({"inputs": []}, ValueError, "must name at least one"),
        ({"redshifts": []}, ValueError, "must name at least one"),
        ({"centers": Region((0, 0, 6), (1, 1, 7))}, ValueError, "must lie on the mesh"),
        ({"centers": np.zeros((2, 3))}, ValueError, "centers must be int64"),
        ({"centers": np.zeros((0, 3), np.int64)}, ValueError, "at least one cell"),
    ],
)
def test_what_cannot_be_loaded_is_refused(
    small_store: CubeStore, change: dict[str, object], error: type[Exception], message: str
) -> None:
    arguments: dict[str, object] = {"radius": 1, "batch_size": 64, **change}
    with pytest.raises(error, match=message):
        NeighborhoodLoader(small_store, **arguments)  # type: ignore[arg-type]
