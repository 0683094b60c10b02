"""Batches: the right neighborhoods, the same in every mode, valid as long as they are held."""

import gc
import itertools
import os
import pickle
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ionstore.cube.mesh import Region
from ionstore.errors import MemoryBudgetError, NotInStoreError, StoreDamageError
from ionstore.loading.loaders import Batch, NeighborhoodLoader, TileBatch, TileLoader
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Layout
from ionstore.store.normalization import fit_normalization
from tests.support.stores import cubes_at, write_store

PROCESS = pytest.mark.process
MODES = pytest.mark.parametrize(
    "num_workers", [0, pytest.param(1, marks=PROCESS), pytest.param(2, marks=PROCESS)]
)


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


@PROCESS
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
        [str(stores[0].path), tmp_path / "b.zarr"], radius=3, batch_size=100, redshifts=[7.0]
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
        other = loader.sibling(None)
        for several in (loader, other):
            with pytest.raises(MemoryBudgetError, match="raise memory_budget"):
                several.sibling(None)


def test_the_memory_of_siblings_that_are_gone_is_there_for_others(small_store: CubeStore) -> None:
    fields = 2 * 3 * 4 * 12**3
    batch = 64 * (4 * 2 * 27 + 4 + 8 + 24 + 8)
    with NeighborhoodLoader(
        small_store, radius=1, batch_size=64, memory_budget=fields + 12 * batch
    ) as loader:
        for _ in range(4):
            with loader.sibling(None, samples_per_epoch=128) as other:
                assert len(list(other)) == 2
            with other.sibling(None, samples_per_epoch=64) as another:
                assert len(list(another)) == 1
            del other, another


def test_a_sibling_on_a_device_needs_no_memory_for_batches(small_store: CubeStore) -> None:
    with NeighborhoodLoader(
        small_store, radius=1, batch_size=64, device="cpu", memory_budget=2 * 3 * 4 * 12**3
    ) as loader:
        other = loader.sibling(Region((2, 0, 0), (1, 12, 12)), shuffle=False)
        assert other.stats.batch_bytes == loader.stats.batch_bytes == 0
        check_against_rolled_boxes(next(iter(other)), [small_store], radius=1)


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


IN_REGIONS = {
    "radius": 2,
    "batch_size": 60,
    "core": 5,
    "n_lanes": 4,
    "samples_per_opening": 40,
    "symmetries": "all",
}
REGION_BYTES = 4 * (2 * 9**3 + 5**3)


def too_small_for_all_fields(
    num_workers: int = 0, *, n_lanes: int = 4, batch_size: int = 60
) -> int:
    """A budget for the regions and the batches of IN_REGIONS, and nothing else."""
    n_batches = 3 + 2 * num_workers if num_workers else 4
    parts = (2 * 125 * 4, 4, 8, 24, 8)
    batch = sum(-(-batch_size * part // 64) * 64 for part in parts)
    return 2 * n_lanes * REGION_BYTES + n_batches * batch


def numbers_of(batches: Iterable[Batch]) -> list[tuple[torch.Tensor, ...]]:
    return [tuple(part.clone() for part in parts(batch)) for batch in batches]


def same(
    some: Sequence[tuple[torch.Tensor, ...]], others: Sequence[tuple[torch.Tensor, ...]]
) -> bool:
    return len(some) == len(others) and all(
        torch.equal(a, b)
        for batch, other in zip(some, others, strict=True)
        for a, b in zip(batch, other, strict=True)
    )


@pytest.fixture(scope="module")
def box17(tmp_path_factory: pytest.TempPathFactory) -> CubeStore:
    """A 17³ store with two redshifts, more than a few regions of it."""
    path = tmp_path_factory.mktemp("stores") / "cubes.zarr"
    redshifts = (9.0, 7.5)
    return write_store(path, cubes_at(17, redshifts), redshifts, layout=Layout(17, 5, 10))


@pytest.fixture(scope="module")
def resident_epochs(box17: CubeStore) -> list[tuple[torch.Tensor, ...]]:
    """Two epochs in region order, from whole cubes in memory."""
    with NeighborhoodLoader(box17, **IN_REGIONS) as loader:
        assert loader.stats.mode == "resident"
        return [*numbers_of(loader), *numbers_of(loader)]


@MODES
def test_regions_give_the_same_batches_as_whole_cubes(
    box17: CubeStore, resident_epochs: list[tuple[torch.Tensor, ...]], num_workers: int
) -> None:
    budget = too_small_for_all_fields(num_workers)
    with NeighborhoodLoader(
        box17, **IN_REGIONS, memory_budget=budget, num_workers=num_workers
    ) as loader:
        assert loader.stats.mode == "regions"
        assert budget / 2 < loader.stats.decoded_bytes + loader.stats.batch_bytes <= budget
        n_batches = len(loader) + 20
        found = [*numbers_of(loader), *numbers_of(itertools.islice(loader, 20))]
        assert same(found, resident_epochs[:n_batches])


def test_a_device_gives_the_same_batches(
    box17: CubeStore, resident_epochs: list[tuple[torch.Tensor, ...]]
) -> None:
    with NeighborhoodLoader(box17, **IN_REGIONS, device="cpu") as loader:
        assert loader.stats.mode == "device"
        assert same([*numbers_of(loader), *numbers_of(loader)], resident_epochs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_batches_and_pinned_ones(
    box17: CubeStore, resident_epochs: list[tuple[torch.Tensor, ...]]
) -> None:
    with NeighborhoodLoader(box17, **IN_REGIONS, device="cuda") as loader:
        on_device = [tuple(part.cpu() for part in batch) for batch in map(parts, loader)]
    with NeighborhoodLoader(box17, **IN_REGIONS, pin_memory=True) as loader:
        batches = list(loader)
        assert all(part.is_pinned() for part in parts(batches[0]))
        pinned = [tuple(part.cpu() for part in parts(batch.to("cuda"))) for batch in batches]
    first_epoch = resident_epochs[: len(on_device)]
    assert same(on_device, first_epoch)
    assert same(pinned, first_epoch)


@MODES
def test_regions_resume_anywhere(
    box17: CubeStore, resident_epochs: list[tuple[torch.Tensor, ...]], num_workers: int
) -> None:
    budget = too_small_for_all_fields(num_workers)
    with NeighborhoodLoader(
        box17, **IN_REGIONS, memory_budget=budget, num_workers=num_workers
    ) as loader:
        for position in (len(loader) + 100, 7):
            loader.position = position
            some = numbers_of(itertools.islice(loader, 20))
            assert same(some, resident_epochs[position : position + 20])


def rows_of(batch: tuple[torch.Tensor, ...]) -> list[tuple[float, ...]]:
    """Everything of every sample."""
    return [
        tuple(row)
        for row in torch.cat(
            [
                part.flatten(1).double() if part.ndim > 1 else part[:, None].double()
                for part in batch
            ],
            dim=1,
        ).tolist()
    ]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_same_batches_at_any_position(
    box17: CubeStore, resident_epochs: list[tuple[torch.Tensor, ...]], world: int
) -> None:
    loaders = [
        NeighborhoodLoader(
            box17,
            **IN_REGIONS,
            memory_budget=too_small_for_all_fields(),
            rank=rank,
            world=world,
        )
        for rank in range(world)
    ]
    assert {loader.stats.mode for loader in loaders} == {"regions"}
    held = sum(loader.stats.decoded_bytes + loader.stats.batch_bytes for loader in loaders)
    assert held <= 1.01 * too_small_for_all_fields()  # batches are rounded up
    for loader in loaders:
        loader.position = 100
    batches = zip(*(numbers_of(itertools.islice(loader, 12)) for loader in loaders), strict=True)
    for number, of_ranks in enumerate(batches, 100):
        together = sorted(row for part in of_ranks for row in rows_of(part))
        assert together == sorted(rows_of(resident_epochs[number]))
        for rank, part in enumerate(of_ranks):  # each its share, in the order of the whole batch
            assert rows_of(part) == rows_of(resident_epochs[number])[rank::world]
    for loader in loaders:
        loader.close()


@MODES
def test_tiles_with_their_targets_in_every_mode(box17: CubeStore, num_workers: int) -> None:
    settings = {"tile": 4, "halo": 3, "batch_size": 7, "core": 8, "n_lanes": 2}
    regions = 2 * 2 * 4 * (2 * 14**3 + 8**3)
    ring = (3 + 2 * num_workers if num_workers else 4) * (7 * 4 * (2 * 10**3 + 4**3) + 512)
    with TileLoader(box17, **settings) as loader:
        resident = [tuple(part.clone() for part in tile_parts(batch)) for batch in loader]
    with TileLoader(
        box17, **settings, memory_budget=regions + ring, num_workers=num_workers
    ) as loader:
        assert loader.stats.mode == "regions"
        tiles = [tuple(part.clone() for part in tile_parts(batch)) for batch in loader]
    assert same(tiles, resident)
    with TileLoader(box17, **settings, device="cpu") as loader:
        assert same(list(map(tile_parts, loader)), resident)
    check_tiles(box17, resident, tile=4, halo=3)
    starts = [tuple(start) for batch in resident for start in batch[3].tolist()]
    assert sorted(set(starts)) == list(itertools.product([0, 4, 8, 12, 13], repeat=3))
    assert len(starts) == 2 * len(set(starts))


def tile_parts(batch: TileBatch) -> tuple[torch.Tensor, ...]:
    return batch.inputs, batch.target, batch.redshift, batch.starts, batch.store_index


def check_tiles(
    store: CubeStore, batches: Sequence[tuple[torch.Tensor, ...]], *, tile: int, halo: int
) -> None:
    for inputs, target, redshift, starts, _ in batches[:3]:
        for sample in range(len(inputs)):
            start, z = starts[sample].tolist(), float(redshift[sample])
            with_halo = [(s + np.arange(-halo, tile + halo)) % 17 for s in start]
            alone = [(s + np.arange(tile)) % 17 for s in start]
            for channel, name in enumerate(("n_igm", "n_src")):
                expected = field(store, name, z)[np.ix_(*with_halo)]
                np.testing.assert_array_equal(inputs[sample, channel], expected)
            np.testing.assert_array_equal(target[sample], field(store, "xhii", z)[np.ix_(*alone)])


def test_a_tile_and_its_target_appear_under_the_same_symmetry(box17: CubeStore) -> None:
    settings = {"tile": 3, "halo": 2, "batch_size": 500, "shuffle": False, "inputs": ["xhii"]}
    with TileLoader(box17, **settings, symmetries="all") as loader:
        turned = next(iter(loader))
    with TileLoader(box17, **settings) as loader:
        plain = next(iter(loader))
    torch.testing.assert_close(turned.inputs[:, 0, 2:5, 2:5, 2:5], turned.target, rtol=0, atol=0)
    assert torch.equal(turned.starts, plain.starts)
    images = zip(turned.target, plain.target, strict=True)
    assert 0 < sum(torch.equal(image, tile) for image, tile in images) < 60  # 432 / 48 expected


def test_a_tile_as_wide_as_the_mesh_repeats_cells_around_it(box17: CubeStore) -> None:
    with TileLoader(box17, tile=17, halo=8, batch_size=1) as loader:
        batch = next(iter(loader))
        (start,), z = batch.starts.tolist(), float(batch.redshift[0])
    around = [(s + np.arange(-8, 25)) % 17 for s in start]
    expected = field(box17, "n_igm", z)[np.ix_(*around)]
    np.testing.assert_array_equal(batch.inputs[0, 0], expected)


def test_neighborhoods_are_tiles_of_one_cell(box17: CubeStore) -> None:
    with NeighborhoodLoader(box17, radius=2, batch_size=50) as loader:
        neighborhoods = next(iter(loader))
    with TileLoader(box17, tile=1, halo=2, batch_size=50) as loader:
        tiles = next(iter(loader))
    assert tiles.target.shape == (50, 1, 1, 1)
    assert torch.equal(tiles.inputs, neighborhoods.inputs)
    assert torch.equal(tiles.target.flatten(), neighborhoods.target)


def test_stats_predict_what_is_decoded(box17: CubeStore) -> None:
    with NeighborhoodLoader(
        box17, **IN_REGIONS, memory_budget=too_small_for_all_fields()
    ) as loader:
        assert np.isnan(loader.stats.measured_amplification)
        list(loader)
        stats = loader.stats
    # Each of the four cores along an axis, 5 or 2 cells long, needs three chunks of 5 cells. Their
    # 125, 50, 20 or 8 cells are visited for 40 at a time.
    visits = 27 * 4 + 27 * 2 + 9 + 1
    again = 3 * (1 - visits / 17**3)  # three of four lanes begin in the midst of a visit, mostly
    openings = 2 * visits + again
    assert stats.predicted_amplification == pytest.approx(openings * 15**3 / (2 * 17**3))
    assert stats.measured_amplification == pytest.approx(stats.predicted_amplification, rel=0.01)
    assert stats.samples_per_opening == pytest.approx(17**3 / visits)
    assert 2 * visits <= stats.openings <= 2 * visits + 3


@pytest.mark.parametrize("n_samples", [7, 50, 500])
def test_stats_predict_what_few_visits_decode(box17: CubeStore, n_samples: int) -> None:
    settings = {**IN_REGIONS, "samples_per_opening": 120, "samples_per_epoch": n_samples}
    with NeighborhoodLoader(box17, **settings, memory_budget=too_small_for_all_fields()) as loader:
        for _ in range(20):  # which regions are visited is drawn
            list(loader)
        stats = loader.stats
    # All four lanes begin in the same one visit or two, and each opens its region itself.
    assert stats.openings >= 20 * 4
    assert stats.measured_amplification == pytest.approx(stats.predicted_amplification, rel=0.15)


def test_stores_with_other_meshes_and_chunks_share_regions(
    box17: CubeStore, tmp_path: Path
) -> None:
    other = write_store(
        tmp_path / "other.zarr", cubes_at(19, (8.0,), seed=4), (8.0,), layout=Layout(19, 4, 8)
    )
    settings = {**IN_REGIONS, "seed": 2**40}
    with NeighborhoodLoader([box17, other], **settings) as loader:
        resident = numbers_of(loader)
    with NeighborhoodLoader(
        [box17, other], **settings, memory_budget=too_small_for_all_fields()
    ) as loader:
        assert loader.stats.mode == "regions"
        assert same(numbers_of(loader), resident)
    assert {int(index) for batch in resident for index in batch[-1]} == {0, 1}
    assert sum(len(batch[0]) for batch in resident) == 2 * 17**3 + 19**3


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 3, "samples_per_epoch": 900},  # fewer samples a batch than lanes
        {"samples_per_epoch": 2},  # fewer samples than lanes
        {"samples_per_opening": 1, "samples_per_epoch": 300},
        {"batch_size": 2000},  # a batch visits each lane's regions one after the other
        {"centers": np.array([[16, 0, 5]])},
        {"radius": 8, "core": 1, "samples_per_epoch": 40, "batch_size": 8},  # as wide as the mesh
    ],
    ids=["batch", "epoch", "one at a time", "large batch", "one cell", "wide"],
)
def test_regions_at_the_edges(box17: CubeStore, change: dict[str, Any]) -> None:
    settings = {**IN_REGIONS, **change}
    with NeighborhoodLoader(box17, **settings) as loader:
        resident = [*numbers_of(loader), *numbers_of(loader)]
        ring = loader.stats.batch_bytes
    budget = ring + 117_000  # fields take 117,912 bytes
    if "radius" in change:
        budget = ring + 8 * 4 * (2 * 17**3 + 1)
        settings["n_lanes"] = 4
    with NeighborhoodLoader(box17, **settings, memory_budget=budget) as loader:
        assert loader.stats.mode == ("regions" if "radius" not in change else "resident")
        assert same([*numbers_of(loader), *numbers_of(loader)], resident)


@MODES
def test_batches_of_regions_stay_valid_while_they_are_held(
    box17: CubeStore, num_workers: int
) -> None:
    budget = too_small_for_all_fields(num_workers)
    with NeighborhoodLoader(
        box17, **IN_REGIONS, memory_budget=budget, num_workers=num_workers
    ) as loader:
        held = list(itertools.islice(loader, 40))
        copies = [batch.inputs.clone() for batch in held]
        list(loader)
    assert all(torch.equal(a.inputs, b) for a, b in zip(held, copies, strict=True))


def test_siblings_in_regions_take_turns(box17: CubeStore) -> None:
    settings = {**IN_REGIONS, "batch_size": 8}
    budget = too_small_for_all_fields(batch_size=8) + 35_000
    with NeighborhoodLoader(box17, **settings, memory_budget=budget) as loader:
        other = loader.sibling(Region((3, 0, 0), (2, 17, 17)), shuffle=False, symmetries="none")
        assert other.stats.mode == "regions"
        ended = iter(loader)
        next(ended)
        batches = [Batch(*(part.clone() for part in parts(batch))) for batch in other]
        for _ in range(2):  # not the end of an epoch, however often it is asked
            with pytest.raises(RuntimeError, match="iterating a sibling ended this iteration"):
                next(ended)
        assert sum(map(len, batches)) == 2 * 2 * 17**2
        check_against_rolled_boxes(batches[-1], [box17], radius=2)
        going_on = iter(loader)
        next(going_on)
        other.close()
        assert len(list(going_on)) == len(loader) - 2
        loop = (next(iter(other)) for _ in loader)  # as one that validates in mid-epoch
        with pytest.raises(RuntimeError, match="finish one loop before the other"):
            list(loop)
        done = iter(other)
        list(done)
        next(iter(loader))
        assert list(done) == []


def test_siblings_of_whole_cubes_go_on_side_by_side(small_store: CubeStore) -> None:
    with NeighborhoodLoader(small_store, radius=1, batch_size=500) as loader:
        other = loader.sibling(Region((2, 0, 0), (1, 12, 12)))
        assert sum(len(list(other)) for _ in loader) == len(loader) * len(other)


def test_a_sibling_takes_a_smaller_core_where_that_of_its_loader_does_not_fit(
    box17: CubeStore,
) -> None:
    narrow, wide = Region((0, 0, 0), (1, 17, 17)), Region((0, 0, 0), (10, 10, 10))
    settings = {"radius": 2, "batch_size": 8, "n_lanes": 2, "core": 10, "centers": narrow}
    with NeighborhoodLoader(box17, **settings, memory_budget=120_000) as loader:
        other = loader.sibling(wide, shuffle=False)
        assert (loader.stats.core, other.stats.core) == (10, 5)
        batches = [Batch(*(part.clone() for part in parts(batch))) for batch in other]
        assert sum(map(len, batches)) == 2 * 10**3
        check_against_rolled_boxes(batches[70], [box17], radius=2)


@pytest.mark.parametrize("budget", [None, too_small_for_all_fields()])
def test_setting_the_position_ends_an_iteration(box17: CubeStore, budget: int | None) -> None:
    settings = IN_REGIONS if budget is None else {**IN_REGIONS, "memory_budget": budget}
    with NeighborhoodLoader(box17, **settings) as loader:
        batches = iter(loader)
        next(batches)
        loader.position = 10
        with pytest.raises(RuntimeError, match="setting position ended this iteration"):
            next(batches)
        assert loader.position == 10
        assert len(list(loader)) == len(loader) - 10
        loader.position = len(loader) - 1
        last = iter(loader)
        list(last)
        loader.position = 0
        assert list(last) == []


def test_a_second_thread_gets_a_sentence(
    small_store: CubeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, goes_on = threading.Event(), threading.Event()
    with NeighborhoodLoader(small_store, radius=1, batch_size=500) as loader:
        lend = loader._source._ring.lend

        def slow(slot: int, n_samples: int) -> list[np.ndarray]:
            waits.set()
            goes_on.wait()
            return lend(slot, n_samples)

        monkeypatch.setattr(loader._source._ring, "lend", slow)
        batches, first = iter(loader), []
        thread = threading.Thread(target=lambda: first.append(next(batches)))
        thread.start()
        waits.wait()
        try:
            for way in (lambda: next(batches), lambda: iter(loader), loader.close):
                with pytest.raises(RuntimeError, match="another thread is waiting for a batch"):
                    way()
        finally:
            goes_on.set()
            thread.join()
        assert len(first) == 1
        assert len(list(batches)) == len(loader) - 1


def test_workers_in_regions_need_a_processor_that_shows_its_stores_in_order(
    box17: CubeStore, resident_epochs: list[tuple[torch.Tensor, ...]], monkeypatch: Any
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(ValueError, match=r"num_workers must be 0 .* got aarch64"):
        NeighborhoodLoader(
            box17, **IN_REGIONS, memory_budget=too_small_for_all_fields(1), num_workers=1
        )
    with NeighborhoodLoader(
        box17, **IN_REGIONS, memory_budget=too_small_for_all_fields()
    ) as loader:
        assert same(numbers_of(itertools.islice(loader, 5)), resident_epochs[:5])
    with NeighborhoodLoader(box17, **IN_REGIONS, num_workers=1) as loader:
        assert loader.stats.mode == "resident"


@PROCESS
def test_a_list_of_centers_reaches_workers_once_and_in_order(box17: CubeStore) -> None:
    centers = np.random.default_rng(0).integers(-17, 34, (20_000, 3))
    settings = {**IN_REGIONS, "centers": centers, "memory_budget": too_small_for_all_fields(1)}
    with NeighborhoodLoader(box17, **settings) as loader:
        regions = loader._plan.regions
        assert len(pickle.dumps(regions)) < 20_000 * (24 + 2) + 100_000  # for both redshifts
        expected = numbers_of(itertools.islice(loader, 10))
    with NeighborhoodLoader(box17, **settings, num_workers=1) as loader:
        assert same(numbers_of(itertools.islice(loader, 10)), expected)


@MODES
def test_damage_in_a_region_is_an_error_and_no_hang(tmp_path: Path, num_workers: int) -> None:
    cubes = cubes_at(17, (9.0, 7.5))
    store = write_store(tmp_path / "cubes.zarr", cubes, (9.0, 7.5), layout=Layout(17, 5, 10))
    budget = too_small_for_all_fields(num_workers)
    with NeighborhoodLoader(
        store, **IN_REGIONS, memory_budget=budget, num_workers=num_workers
    ) as loader:
        next(iter(loader))
        for shard in (tmp_path / "cubes.zarr" / "n_igm" / "c").rglob("*"):
            if shard.is_file():
                shard.write_bytes(shard.read_bytes()[:-1] + b"?")
        with pytest.raises(StoreDamageError, match="n_igm"):
            list(loader)


@PROCESS
@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("in_regions", [False, True])
def test_a_killed_worker_is_an_error_and_the_loader_recovers(
    box17: CubeStore, monkeypatch: pytest.MonkeyPatch, num_workers: int, in_regions: bool
) -> None:
    # Torch looks for workers that have ended every 5 s; how often is of no interest here.
    look = _MultiProcessingDataLoaderIter._try_get_data
    assert look.__defaults__ == (5.0,)
    monkeypatch.setattr(look, "__defaults__", (0.2,))
    settings: dict[str, Any] = {"radius": 2, "batch_size": 8}
    if in_regions:
        budget = too_small_for_all_fields(num_workers, batch_size=8)
        settings = {**IN_REGIONS, "batch_size": 8, "symmetries": "none", "memory_budget": budget}
    with NeighborhoodLoader(box17, **settings, num_workers=num_workers) as loader:
        assert (loader.stats.mode == "regions") == in_regions
        batches = iter(loader)
        next(batches)
        before = set(psutil.Process().children(recursive=True))
        workers = [process for process in before if not process.children()]
        victim = max(workers, key=lambda process: process.create_time())
        os.kill(victim.pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="worker"):
            list(itertools.islice(batches, 100))
        loader.position = 0
        check_against_rolled_boxes(next(iter(loader)), [box17], radius=2)


def test_no_descriptor_is_left_open(small_store: CubeStore) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not list open descriptors")

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    with NeighborhoodLoader(small_store, radius=1, batch_size=64) as loader:
        next(iter(loader))
    del loader
    gc.collect()  # what other tests left: exceptions hold frames, and frames hold loaders
    before = descriptors()
    for _ in range(3):
        with NeighborhoodLoader(small_store, radius=1, batch_size=64) as loader:
            next(iter(loader))
        del loader
    assert descriptors() == before


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
        ({"inputs": ["n_igm", "dust"]}, ValueError, "must hold the inputs dust"),
        ({"target": "dust"}, ValueError, "must hold the target dust"),
        ({"redshifts": [8.0]}, NotInStoreError, "9, 7.5"),
        ({"radius": -1}, ValueError, "radius must be a whole number, at least 0, got radius -1"),
        ({"radius": 1.5}, ValueError, "got radius 1.5"),
        ({"batch_size": 0}, ValueError, "got .*batch_size 0"),
        ({"batch_size": 4.0}, ValueError, "batch_size must be a whole number, .* batch_size 4.0"),
        ({"batch_size": None}, ValueError, "got batch_size None"),
        ({"num_workers": 1.0}, ValueError, "got num_workers 1.0"),
        ({"seed": None}, ValueError, "got seed None"),
        ({"seed": 1.5}, ValueError, "got seed 1.5"),
        ({"rank": -1}, ValueError, "got rank -1"),
        ({"core": 2.0}, ValueError, "got core 2.0"),
        ({"memory_budget": -5}, ValueError, "got memory_budget -5"),
        ({"redshifts": 8.0}, ValueError, r"a list of numbers, got 8.0; give \[8.0\]"),
        ({"target": None}, ValueError, "target must be the name of a field, got None"),
        ({"redshifts": [9.0, 7.5, 9.0]}, ValueError, "all be different, got 9, 7.5, 9"),
        ({"centers": [(1, 2, 3)]}, ValueError, r"centers must be a Region or .* \[\(1, 2, 3\)\]"),
        ({"centers": [[1, 2, 3]] * 9999}, ValueError, "centers must be a Region or an array"),
        ({"centers": 5}, ValueError, "centers must be a Region or an array"),
        ({"centers": []}, ValueError, "centers must be a Region or an array"),
        ({"centers": torch.zeros(2, 3)}, ValueError, "centers must be a Region or an array"),
        ({"centers": 2 * [Region((0, 0, 0), (1, 1, 1))]}, ValueError, "each of 1, got a list of 2"),
        ({"samples_per_epoch": 0}, ValueError, "got .*samples_per_epoch 0"),
        ({"seed": -1}, ValueError, "got .*seed -1"),
        ({"world": 3}, ValueError, "one of 1, 2, 4, 8, got 3"),
        ({"rank": 1}, ValueError, "rank must be 0 to 0"),
        ({"world": 2, "shuffle": False}, ValueError, "shuffle=False is for one rank"),
        ({"core": 0}, ValueError, "got core 0"),
        ({"inputs": "n_igm"}, ValueError, r"give \['n_igm'\]"),
        ({"batchsize": 3, "worker": 2}, TypeError, "no option of a loader; the nearest is"),
        ({"memory_budget": "60MB"}, ValueError, "whole number of bytes, .* '60MB'"),
        ({"device": "banana"}, ValueError, "device must be one that torch has here"),
        ({"device": "cpu", "num_workers": 1}, ValueError, "num_workers must be 0"),
        ({"device": "cpu", "memory_budget": 10_000}, MemoryBudgetError, "to keep them on cpu"),
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


def test_a_store_without_the_target_is_told_from_one_without_inputs(tmp_path: Path) -> None:
    cubes = cubes_at(8, [9.0])
    del cubes["xhii"]
    store = write_store(tmp_path / "cubes.zarr", cubes, [9.0])
    with pytest.raises(ValueError, match=r"the target xhii, it holds n_igm, n_src; give a target"):
        NeighborhoodLoader(store, radius=1, batch_size=64)
    with NeighborhoodLoader(store, target="n_igm", radius=1, batch_size=64) as loader:
        batch = next(iter(loader))
    np.testing.assert_array_equal(batch.inputs[:, 0, 1, 1, 1], batch.target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tile": 0}, "tile must be a whole number, at least 1, got tile 0"),
        ({"halo": -1}, "halo must be a whole number, at least 0, got halo -1"),
        ({"halo": 1.0}, "got halo 1.0"),
        ({"halo": 6}, "halo 6 needs a mesh of 13 cells a side"),
        ({"tile": 13}, "tile must be 1 to 12"),
        ({"starts": np.zeros((2, 3), np.int32)}, "starts must be int64 .* got int32"),
        ({"starts": [(1, 2, 3)]}, "starts must be a Region or an array"),
        ({"starts": Region((0, 0, 6), (4, 4, 7))}, "starts must lie on the mesh"),
    ],
)
def test_what_tiles_cannot_be_loaded_is_refused_by_the_names_of_tiles(
    small_store: CubeStore, change: dict[str, object], message: str
) -> None:
    arguments: dict[str, object] = {"tile": 4, "halo": 1, "batch_size": 8, **change}
    with pytest.raises(ValueError, match=message):
        TileLoader(small_store, **arguments)  # type: ignore[arg-type]


def test_whole_numbers_of_any_type_are_taken(small_store: CubeStore) -> None:
    settings = {"radius": 1, "batch_size": 500, "seed": 3, "memory_budget": 10**9}
    with NeighborhoodLoader(small_store, **settings) as loader:
        expected = fingerprint(itertools.islice(loader, 2))
    of_numpy = {name: np.int64(value) for name, value in settings.items()}
    with NeighborhoodLoader(small_store, **of_numpy) as loader:
        loader.position = np.int32(0)
        assert fingerprint(itertools.islice(loader, 2)) == expected
        for wrong in (2.0, None, -1):
            with pytest.raises(ValueError, match=f"got position {wrong}"):
                loader.position = wrong  # type: ignore[assignment]
