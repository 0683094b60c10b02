"""A store with the fields of a second one beside its own."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from ionstore.build.store_writer import StoredField, create_store
from ionstore.cube.mesh import Array, Region
from ionstore.cube.statistics import FieldStatistics
from ionstore.errors import NotInStoreError, StoreDamageError, StoreFormatError
from ionstore.loading.loaders import NeighborhoodLoader
from ionstore.store.cube_store import CubeStore
from ionstore.store.joined_store import JoinedStore
from ionstore.store.layout import Layout
from ionstore.store.normalization import fit_normalization
from tests.support.stores import cubes_at, write_store

REDSHIFTS = (9.0, 7.5)


@pytest.fixture
def joined(small_store: CubeStore, tmp_path: Path) -> JoinedStore:
    """The small store, with a field of other values and shards at the lower redshift alone."""
    field = StoredField("n_igm_top_hat_2", "float32", "g cm-3", long_name="smoothed gas density")
    layout = Layout(12, 4, 8)
    writer = create_store(
        tmp_path / "beside.zarr", small_store.mesh, REDSHIFTS[1:], [field], layout=layout
    )
    values = beside_values()
    for shard in layout.shard_indices():
        start, shape = layout.shard_region(shard)
        block = tuple(slice(first, first + n) for first, n in zip(start, shape, strict=True))
        writer.shards.write_block(field.name, 0, start, values[block])
    writer.finalize({field.name: [FieldStatistics.of(values)]})
    return JoinedStore(small_store, CubeStore.open(writer.path))


def beside_values() -> Array:
    return cubes_at(12, REDSHIFTS[1:], seed=9)["n_igm"][0]


def test_each_field_comes_from_the_store_that_holds_it(
    joined: JoinedStore, small_store: CubeStore
) -> None:
    assert joined.field_names == (*small_store.field_names, "n_igm_top_hat_2")
    assert (joined.uuid, joined.path) == (small_store.uuid, small_store.path)
    assert joined.redshifts == REDSHIFTS
    expected = beside_values()
    np.testing.assert_array_equal(joined.read_field("n_igm_top_hat_2", 7.5), expected)
    np.testing.assert_array_equal(
        joined.read_block("n_igm_top_hat_2", 7.5, (1, 2, 3), (4, 5, 6)), expected[1:5, 2:7, 3:9]
    )
    np.testing.assert_array_equal(
        joined.read_field("xhii", 7.5), small_store.read_field("xhii", 7.5)
    )
    mean = joined.statistics("n_igm_top_hat_2", 7.5).mean
    assert mean == pytest.approx(expected.mean(dtype="f8"))
    assert joined.statistics("xhii", 7.5) == small_store.statistics("xhii", 7.5)
    assert joined.units("n_igm_top_hat_2") == "g cm-3"
    assert joined.long_name("n_igm_top_hat_2") == "smoothed gas density"
    assert joined.compression("n_igm_top_hat_2") == small_store.compression("n_igm")
    assert joined.shard_path("n_igm_top_hat_2", 1, (0, 0, 0)).exists()
    assert joined.shard_path("xhii", 1, (0, 0, 0)) == small_store.shard_path("xhii", 1, (0, 0, 0))


def test_what_is_in_neither_is_refused(joined: JoinedStore) -> None:
    with pytest.raises(NotInStoreError, match=r"redshift must be one of 7\.5"):
        joined.read_field("n_igm_top_hat_2", 9.0)
    with pytest.raises(NotInStoreError, match="got temperature"):
        joined.read_field("temperature", 7.5)


def test_damage_is_told_with_the_store_that_is_to_be_removed(joined: JoinedStore) -> None:
    shard = Path(str(joined.shard_path("n_igm_top_hat_2", 1, (0, 0, 0))))
    content = bytearray(shard.read_bytes())
    content[20] ^= 1
    shard.write_bytes(content)
    with pytest.raises(
        StoreDamageError, match=r"beside\.zarr: n_igm_top_hat_2 is damaged; remove this"
    ):
        joined.read_field("n_igm_top_hat_2", 7.5)
    joined.read_field("xhii", 7.5)


def test_a_pickle_opens_both_again(joined: JoinedStore) -> None:
    other = pickle.loads(pickle.dumps(joined))
    assert isinstance(other, JoinedStore)
    np.testing.assert_array_equal(
        other.read_field("n_igm_top_hat_2", 7.5), joined.read_field("n_igm_top_hat_2", 7.5)
    )


@pytest.mark.parametrize("memory_budget", [2**30, 20_000])
def test_loaders_and_normalization_take_it_as_a_store(
    joined: JoinedStore, memory_budget: int
) -> None:
    inputs = ("n_src", "n_igm_top_hat_2")
    whole = Region((0, 0, 0), (12, 12, 12))
    normalization = fit_normalization([joined], inputs, [whole], redshifts=[7.5])
    with NeighborhoodLoader(
        joined,
        inputs=inputs,
        redshifts=[7.5],
        radius=1,
        batch_size=4,
        n_lanes=1,
        normalization=normalization,
        memory_budget=memory_budget,
        core=2 if memory_budget < 2**20 else None,
    ) as loader:
        assert loader.stats.mode == ("regions" if memory_budget < 2**20 else "resident")
        for batch in loader:
            x, y, z = batch.centers.T.numpy()
            for channel, name in enumerate(inputs):
                field = joined.read_field(name, 7.5)
                expected = normalization.apply(joined, name, 7.5, field)[x, y, z]
                np.testing.assert_allclose(batch.inputs[:, channel, 1, 1, 1], expected, atol=1e-5)


def test_stores_that_do_not_go_together_are_refused(small_store: CubeStore, tmp_path: Path) -> None:
    with pytest.raises(StoreFormatError, match=r"expected other fields .*found n_igm, n_src, xhii"):
        JoinedStore(small_store, small_store)
    larger = write_store(tmp_path / "larger.zarr", {"xhii": np.zeros((1, 13, 13, 13), "f4")}, (8,))
    with pytest.raises(StoreFormatError):
        JoinedStore(small_store, larger)
