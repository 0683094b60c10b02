"""Channels of a store: computed once, resumed, told apart by what decides them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ionmodel.channels.base import DerivedChannel, boxes_of
from ionmodel.channels.cache import (
    FoundChannels,
    cache_path,
    find_channels,
    remove_channels,
    smoothing_bytes,
    with_channels,
)
from ionmodel.channels.mean_free_path import MeanFreePath
from ionmodel.channels.periodic_field import PeriodicField
from ionmodel.channels.top_hat import TopHat
from ionmodel.errors import ConfigError
from ionstore.errors import MemoryBudgetError
from ionstore.reporter import Reporter
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Layout
from tests.support.stores import cubes_at, write_store

REDSHIFTS = (9.0, 7.5)


class Told(Reporter):
    """Keeps what it is told; calls a function with progress, which may stop the work."""

    def __init__(self, on_progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        self.notes: list[str] = []
        self.done: list[tuple[int, int]] = []
        self._on_progress = on_progress

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def progress(self, done: int, total: int) -> None:
        self.done.append((done, total))
        self._on_progress(done, total)


CHANNELS: list[DerivedChannel] = [
    TopHat("n_igm", 2.0),
    TopHat("n_src", 2.0),
    TopHat("n_src", 4.5),
    MeanFreePath("n_src", "constant", 3.0),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CubeStore:
    """19 cells and 19 cMpc a side, in shards that do not divide it."""
    path = tmp_path_factory.mktemp("store") / "cubes.zarr"
    cubes = cubes_at(19, REDSHIFTS, seed=5)
    return write_store(path, cubes, REDSHIFTS, layout=Layout(19, 4, 12), box_length_cmpc=19.0)


def test_channels_lie_beside_the_fields(store: CubeStore, tmp_path: Path) -> None:
    joined = with_channels(store, CHANNELS, tmp_path)
    assert joined.field_names[:3] == ("n_igm", "n_src", "xhii")
    assert {channel.name for channel in CHANNELS} == {*joined.field_names[3:]}
    assert joined.uuid == store.uuid
    for channel in CHANNELS:
        radius = channel.radius_cells(boxes_of(store)[0])
        for redshift in REDSHIFTS:
            expected = PeriodicField(store.read_field(channel.parent, redshift)).smoothed(radius)
            values = joined.read_field(channel.name, redshift)
            np.testing.assert_allclose(values, expected, rtol=1e-5)
            mean = joined.statistics(channel.name, redshift).mean
            assert mean == pytest.approx(values.mean(dtype="f8"), rel=1e-9)
    assert joined.units("n_igm_top_hat_2") == "g cm-3"
    assert joined.long_name("n_src_top_hat_4.5") == "n_src, mean within 4.5 cMpc"
    assert with_channels(store, [], tmp_path) is store


def test_what_is_there_is_not_computed_again(store: CubeStore, tmp_path: Path) -> None:
    told = Told()
    for _ in range(2):
        with_channels(store, CHANNELS, tmp_path, reporter=told)
    assert told.done == [*((done, 8) for done in range(9)), (8, 8)]
    (note,) = told.notes
    assert note.startswith("computing 4 derived channels at 2 redshifts: about ")
    assert f" kB below {tmp_path}, " in note
    joined = with_channels(store, CHANNELS[:1], tmp_path, redshifts=[7.5], reporter=told)
    assert told.notes[1].startswith("computing 1 derived channel at 1 redshift: about ")
    assert told.done[10:] == [(0, 1), (1, 1)]
    assert joined.redshifts == REDSHIFTS
    joined.read_field("n_igm_top_hat_2", 7.5)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_interrupted_computation_goes_on(store: CubeStore, tmp_path: Path) -> None:
    whole = with_channels(store, CHANNELS, tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with_channels(store, CHANNELS, tmp_path / "part", reporter=Told(stop))
    (left,) = (tmp_path / "part").iterdir()
    assert left.name.endswith(".zarr.partial")
    again = Told()
    joined = with_channels(store, CHANNELS, tmp_path / "part", reporter=again)
    assert again.done == [(done, 8) for done in (5, 6, 7, 8)]
    for channel in CHANNELS:
        for redshift in REDSHIFTS:
            np.testing.assert_array_equal(
                joined.read_field(channel.name, redshift), whole.read_field(channel.name, redshift)
            )
            one, other = (s.statistics(channel.name, redshift) for s in (joined, whole))
            assert one == other


def test_what_another_algorithm_computed_is_not_taken(
    store: CubeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cache_path(store, CHANNELS, boxes_of(store), tmp_path)
    monkeypatch.setattr("ionmodel.channels.cache.ALGORITHM", 0)
    assert cache_path(store, CHANNELS, boxes_of(store), tmp_path) != before


def test_a_name_tells_what_decides_the_values(store: CubeStore, tmp_path: Path) -> None:
    boxes = boxes_of(store)
    paths = {
        cache_path(store, channels, some, tmp_path)
        for channels, some in (
            (CHANNELS, boxes),
            (CHANNELS[:3], boxes),
            (CHANNELS, boxes[:1]),
            ([*CHANNELS[:3], MeanFreePath("n_src", "constant", 3.1)], boxes),
        )
    }
    assert len(paths) == 4
    assert all(path.name.startswith(store.uuid) for path in paths)


def test_what_does_not_fit_is_refused_before_anything_is_made(
    store: CubeStore, tmp_path: Path
) -> None:
    folder = tmp_path / "channels"
    with pytest.raises(MemoryBudgetError, match=r"19 cells a side takes about 137 kB, got 137 kB"):
        with_channels(store, CHANNELS, folder, memory_bytes=smoothing_bytes(store.mesh) - 1)
    with pytest.raises(ConfigError, match=r"at most a quarter of the box, 4\.75 cMpc, got 5 cMpc"):
        with_channels(store, [TopHat("n_src", 5.0)], folder)
    assert not folder.exists()


def test_a_finished_cache_is_found_by_the_redshifts_that_it_was_computed_for(
    store: CubeStore, tmp_path: Path
) -> None:
    empty, of_all, of_one = (tmp_path / name for name in ("empty", "all", "one"))
    folders = {empty: REDSHIFTS, of_all: REDSHIFTS, of_one: (7.5,)}
    assert find_channels(store, CHANNELS, (7.5,), folders) is None
    with_channels(store, CHANNELS, of_one, redshifts=[7.5])
    assert find_channels(store, CHANNELS, (7.5,), folders) == FoundChannels(of_one, (7.5,))
    assert find_channels(store, CHANNELS, REDSHIFTS, folders) is None
    with_channels(store, CHANNELS, of_all)
    assert find_channels(store, CHANNELS, (7.5,), folders) == FoundChannels(of_all, REDSHIFTS)
    assert find_channels(store, CHANNELS[:1], (7.5,), folders) is None
    # A run may have trained on redshifts that this store does not hold.
    assert find_channels(store, CHANNELS, (7.5,), {of_all: (9.0, 7.5, 6.0)}) is None


def test_caches_are_removed_and_nothing_else(store: CubeStore, tmp_path: Path) -> None:
    folder = tmp_path / "channels"
    remove_channels(folder)  # nothing there is no error
    with_channels(store, CHANNELS[:1], folder)
    (folder / "mine.zarr").mkdir()
    remove_channels(folder)
    assert [path.name for path in folder.iterdir()] == ["mine.zarr"]
    (folder / "mine.zarr").rmdir()
    with_channels(store, CHANNELS[:1], folder)
    remove_channels(folder)
    assert not folder.exists()
