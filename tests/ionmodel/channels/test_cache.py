"""Channels of a store: computed once, resumed, told apart by what decides them."""

from pathlib import Path

import numpy as np
import pytest

from ionmodel.channels.base import DerivedChannel, boxes_of
from ionmodel.channels.cache import cache_path, smoothing_bytes, with_channels
from ionmodel.channels.mean_free_path import MeanFreePath
from ionmodel.channels.periodic_field import PeriodicField
from ionmodel.channels.top_hat import TopHat
from ionmodel.errors import ConfigError
from ionstore.errors import MemoryBudgetError
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Layout
from tests.support.stores import cubes_at, write_store

REDSHIFTS = (9.0, 7.5)
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
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    notes: list[str] = []
    for _ in range(2):
        with_channels(store, CHANNELS, tmp_path, on_note=notes.append, on_channels=tell)
    assert told == [*((done, 8) for done in range(9)), (8, 8)]
    (note,) = notes
    assert note.startswith("computing 4 derived channels at 2 redshifts: about ")
    assert f" MB below {tmp_path}, " in note
    joined = with_channels(
        store, CHANNELS[:1], tmp_path, redshifts=[7.5], on_note=notes.append, on_channels=tell
    )
    assert notes[1].startswith("computing 1 derived channel at 1 redshift: about ")
    assert told[10:] == [(0, 1), (1, 1)]
    assert joined.redshifts == REDSHIFTS
    joined.read_field("n_igm_top_hat_2", 7.5)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_interrupted_computation_goes_on(store: CubeStore, tmp_path: Path) -> None:
    whole = with_channels(store, CHANNELS, tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with_channels(store, CHANNELS, tmp_path / "part", on_channels=stop)
    (left,) = (tmp_path / "part").iterdir()
    assert left.name.endswith(".zarr.partial")
    again: list[int] = []
    joined = with_channels(
        store, CHANNELS, tmp_path / "part", on_channels=lambda done, _: again.append(done)
    )
    assert again == [5, 6, 7, 8]
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
    with pytest.raises(
        MemoryBudgetError, match=r"19 cells a side takes about 0\.137 MB, got 0\.137 MB"
    ):
        with_channels(store, CHANNELS, folder, memory_bytes=smoothing_bytes(store.mesh) - 1)
    with pytest.raises(ConfigError, match=r"at most a quarter of the box, 4\.75 cMpc, got 5 cMpc"):
        with_channels(store, [TopHat("n_src", 5.0)], folder)
    assert not folder.exists()
