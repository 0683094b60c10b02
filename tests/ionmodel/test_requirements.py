"""What stores need to be trained on together."""

import shutil
from pathlib import Path

import pytest

from ionmodel.errors import ConfigError
from ionmodel.requirements import check_stores
from ionstore.edit import edit_store
from ionstore.errors import NotInStoreError
from ionstore.store import CubeStore
from tests.conftest import cubes_at, write_store
from tests.ionmodel.conftest import ConfigMaker


@pytest.fixture
def masses(tmp_path: Path) -> CubeStore:
    """A store whose sources are no counts; their unit and the density's frame are unknown."""
    cubes = cubes_at(16, (8.0,), seed=5)
    cubes["n_src"] = cubes["n_src"].astype("f4")
    store = write_store(tmp_path / "masses.zarr", cubes, (8.0,))
    root = store.path / "zarr.json"
    root.write_text(root.read_text().replace('"units": "1"', '"units": "unknown"'))
    return CubeStore.open(store.path)


def test_sources_in_different_units_are_refused(
    store: CubeStore, masses: CubeStore, tiny_config: ConfigMaker
) -> None:
    check_stores(tiny_config(), [masses])
    with pytest.raises(ConfigError) as refused:
        check_stores(tiny_config(), [store, masses])
    assert str(refused.value) == (
        f"n_src must have one unit in all stores, got 1 in {store.path} and unknown in "
        f"{masses.path}; supply it with `ionstore edit {masses.path} --n-src-unit`"
    )
    edited = edit_store(masses.path, n_src_unit="Msun")
    with pytest.raises(ConfigError, match=r"Msun in .* and 1 in .*; train on stores that agree"):
        check_stores(tiny_config(), [edited, store])
    check_stores(tiny_config(), [store, edit_store(masses.path, n_src_unit="1")])
    check_stores(tiny_config(inputs=["n_igm"]), [store, edited])


def test_densities_in_different_frames_are_refused_where_it_matters(
    store: CubeStore, tmp_path: Path, tiny_config: ConfigMaker
) -> None:
    other = write_store(tmp_path / "other.zarr", cubes_at(16, (8.0,)), (8.0,))
    other = edit_store(other.path, density_frame="comoving")
    check_stores(tiny_config(), [store, other])  # overdensities have no frame
    with pytest.raises(ConfigError, match=r"n_igm must have one frame .* --density-frame`$"):
        check_stores(tiny_config(transforms={"n_igm": "log1p"}), [store, other])


def test_a_store_given_twice_is_refused(
    store: CubeStore, tmp_path: Path, tiny_config: ConfigMaker
) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(store.path, copy)
    for twin in (store, CubeStore.open(store.path), CubeStore.open(copy)):
        with pytest.raises(ConfigError, match="are the same store; give it once"):
            check_stores(tiny_config(), [store, twin])


def test_missing_fields_and_redshifts_are_named(store: CubeStore, tiny_config: ConfigMaker) -> None:
    with pytest.raises(ConfigError, match=r"fields dust are needed, .*; change inputs"):
        check_stores(tiny_config(inputs=["n_igm", "dust"]), [store])
    with pytest.raises(NotInStoreError, match=r"one of 9, 7\.5"):
        check_stores(tiny_config(redshifts=[8.0]), [store])
