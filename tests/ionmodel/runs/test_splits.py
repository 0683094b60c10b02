"""Which cells train and which are held out: nothing of an input is shared, or it is said."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ionmodel.errors import ConfigError
from ionmodel.runs.compatibility import trained_range
from ionmodel.runs.folder import RunFolder
from ionmodel.runs.splits import fit_to_mesh, split_cells
from ionmodel.training.data import open_training_data
from ionmodel.training.events import Plan
from ionmodel.training.training import train_run
from ionstore.cube.mesh import Mesh
from ionstore.loading.loaders import NeighborhoodLoader
from ionstore.store.cube_store import CubeStore
from ionstore.store.normalization import fit_normalization
from tests.ionmodel.conftest import ConfigMaker
from tests.support.reporters import telling
from tests.support.stores import cubes_at, write_store
from tests.support.tiny_tiles import tiny


@pytest.mark.parametrize(
    ("mesh", "radius", "tile"),
    [(16, 1, 4), (17, 1, 5), (20, 2, 3), (16, 2, None), (17, 1, None), (9, 0, None)],
)
def test_no_validation_or_test_input_is_a_training_input(
    tmp_path: Path, mesh: int, radius: int, tile: int | None
) -> None:
    # Averages over balls see the whole box: derived channels are excepted.
    store = write_store(tmp_path / "cubes.zarr", cubes_at(mesh, (9.0,), seed=3), (9.0,))
    samples = None if tile is None else 4000
    config = fit_to_mesh(tiny(radius=radius, tile=tile, samples_per_epoch=samples), [store])
    assert (config.radius, config.tile) == (radius, tile)
    seen = {name: np.zeros((mesh,) * 3, bool) for name in ("train", "validation", "test")}

    def mark(name: str, start: tuple[int, ...], side: int) -> None:
        cells = [np.arange(first - radius, first + side + radius) % mesh for first in start]
        seen[name][np.ix_(*cells)] = True

    with open_training_data(config, [store]) as data:
        for name, loader in (("train", data.train), ("validation", data.validation)):
            for batch in loader:
                corners = batch.centers if isinstance(loader, NeighborhoodLoader) else batch.starts
                for corner in corners.tolist():
                    mark(name, corner, 1 if tile is None else batch.target.shape[-1])
        (split,) = data.splits
        assert split.test is not None
        for cell in split.test.cells(np.arange(split.test.n_cells)).tolist():
            mark("test", cell, 1)
    assert seen["train"].mean() > 0.3
    assert seen["validation"].any()
    assert seen["test"].any()
    assert not (seen["train"] & (seen["validation"] | seen["test"])).any()


def test_tiles_and_radius_are_lowered_to_what_the_mesh_holds(tmp_path: Path) -> None:
    store = write_store(tmp_path / "cubes.zarr", cubes_at(12, (9.0,), seed=3), (9.0,))
    fitted = fit_to_mesh(tiny(radius=9, tile=50), [store])
    with open_training_data(fitted, [store]) as data:
        assert fitted.radius == 1
        assert fitted.tile == min(data.splits[0].train.shape)  # type: ignore[union-attr]


@pytest.mark.parametrize("tile", [None, 4])
def test_split_store_trains_on_all_but_the_last_box(tmp_path: Path, tile: int | None) -> None:
    boxes = [
        write_store(tmp_path / f"{name}.zarr", cubes_at(mesh, (9.0,), seed=mesh), (9.0,))
        for name, mesh in (("one", 9), ("other", 8), ("held", 10))
    ]
    config = fit_to_mesh(tiny(split="store", tile=tile, validation_samples=30), boxes)
    with open_training_data(config, boxes) as data:
        trained = [set(batch.store_index.tolist()) for batch in data.train]
        validated = [set(batch.store_index.tolist()) for batch in data.validation]
        assert set.union(*trained) == {0, 1}
        assert set.union(*validated) == {2}
        assert data.n_validation_cells == (30 if tile is None else 10**3)
        alone = fit_normalization(
            boxes[:2], config.inputs, [split.train for split in data.splits[:2]]
        )
        assert data.normalization == alone
        assert data.trained == trained_range(config, boxes[:2])
        # A box that is not trained on has the overdensities of its own mean.
        batch = next(iter(data.validation))
        cell, radius = batch.starts[0] if tile else batch.centers[0], config.radius
        around = np.ix_(*((int(first) + np.arange(-radius, radius + 1)) % 10 for first in cell))
        field = boxes[2].read_field("n_igm", 9.0)
        expected = alone.fields["n_igm"].apply(field, float(field.mean(dtype=np.float64)))[around]
        width = 2 * radius + 1
        got = batch.inputs[0, 0, :width, :width, :width]
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_split_store_needs_another_box(store: CubeStore, tmp_path: Path) -> None:
    small = write_store(tmp_path / "small.zarr", cubes_at(8, (9.0,), seed=1), (9.0,))
    with pytest.raises(ConfigError, match=r"got one store; give --store once more"):
        open_training_data(tiny(split="store"), [store])
    with pytest.raises(ConfigError, match="which is trained on too; give another box"):
        open_training_data(tiny(split="store"), [store, store])
    with pytest.raises(ConfigError, match=r"small\.zarr: radius 4 needs 9 cells a side"):
        open_training_data(tiny(split="store", radius=4), [store, small])


def test_the_validation_set_is_fixed_and_guarded(
    store: CubeStore, tiny_config: ConfigMaker
) -> None:
    with open_training_data(tiny_config(), [store]) as data:
        first = [batch.centers.clone() for batch in data.validation]
        again = [batch.centers.clone() for batch in data.validation]
        x_train = torch.cat([batch.centers[:, 0].clone() for batch in data.train])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert sum(map(len, first)) == 200
    distance = torch.cat(first)[:, :1] - x_train
    assert int(torch.minimum(distance % 16, -distance % 16).min()) > 2


def test_a_preset_radius_is_lowered_and_an_explicit_one_refused(
    tiny_config: ConfigMaker, store: CubeStore
) -> None:
    assert store.mesh == Mesh(16, 20.0)
    wide = tiny_config(radius=7)
    fitted = fit_to_mesh(wide, [store])
    assert fitted.radius == 2
    with pytest.raises(ConfigError, match="largest radius that fits is 2"):
        open_training_data(wide, [store])
    assert fit_to_mesh(tiny_config(radius=9, split="random"), [store]).radius == 7
    with pytest.raises(ConfigError, match="largest radius that fits is 7"):
        open_training_data(tiny_config(radius=8, split="random", random_cells=50), [store])


def test_a_random_split_says_that_it_leaks(
    store: CubeStore, tiny_config: ConfigMaker, tmp_path: Path
) -> None:
    plans: list[Plan] = []
    config = tiny_config(split="random", random_cells=100, epochs=1, validation_samples=None)
    run = RunFolder(tmp_path / "run")
    result = train_run(config, [store], run, reporter=telling(plan=plans.append))
    (plan,) = plans
    assert result.leaks == "neighborhoods"
    (line,) = run.log.read_text().splitlines()
    assert json.loads(line)["leaks"] == "neighborhoods"
    again = train_run(config, [store], run)
    assert (again.leaks, again.was_finished) == ("neighborhoods", True)
    assert plan.n_validation_cells == 2 * 20
    assert plan.n_training_cells == 160
    assert plan.seconds > 0


@pytest.mark.parametrize(("split", "room"), [("blocks", 9), ("store", 16)])
def test_a_tile_that_is_asked_for_is_not_lowered(
    store: CubeStore, tmp_path: Path, split: str, room: int
) -> None:
    other = write_store(tmp_path / "other.zarr", cubes_at(17, (9.0,), seed=1), (9.0,))
    config = tiny(split=split, tile=room)
    split_cells(config, [store, other])
    with pytest.raises(ConfigError, match=f"tile must be at most {room}, .*, got {room + 1}; choo"):
        split_cells(config.model_copy(update={"tile": room + 1}), [store, other])
