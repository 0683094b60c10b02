"""Cells of the stores that a run trains on and is validated with."""

from collections.abc import Sequence

import numpy as np

from ionmodel.channels.base import LARGEST_SHARE
from ionmodel.config.training_config import TrainingConfig
from ionmodel.errors import ConfigError
from ionstore.cube.mesh import Region
from ionstore.sampling.split import Split, block_split, largest_radius, random_split
from ionstore.store.cube_store import CubeStore


def fit_to_mesh(config: TrainingConfig, stores: Sequence[CubeStore]) -> TrainingConfig:
    """Lower radius and tile, and drop scales, so that every mesh has room for them."""
    cells = min(store.mesh.cells_per_side for store in stores)
    fits = _largest_radius(config, cells)
    if fits < 0:
        raise ConfigError(
            f"a mesh of {cells} cells a side is too small for split {config.split!r}; use a "
            "larger box or -o split=random"
        )
    radius = min(config.radius, fits)
    room = block_split(cells, radius).train.shape if config.split == "blocks" else (cells,)
    tile = config.tile and min(config.tile, *room)
    largest = LARGEST_SHARE * min(
        store.mesh.cells_per_side * (store.mesh.cell_size_cmpc or 1.0) for store in stores
    )
    scales = tuple(scale for scale in config.scales or () if scale <= largest) or None
    fitted = config.model_copy(update={"radius": radius, "tile": tile, "scales": scales})
    transforms = {
        name: transform
        for name, transform in config.transforms.items()
        if name in fitted.channel_names
    }
    return fitted.model_copy(update={"transforms": transforms})


def split_cells(config: TrainingConfig, stores: Sequence[CubeStore]) -> list[Split]:
    """Return the split of every mesh; refuse one without room for it or for a tile."""
    if config.split == "store":
        splits = _split_by_store(config, stores)
    else:
        splits = [_split_of(config, store) for store in stores]
    for store, split in zip(stores, splits, strict=True):
        if config.tile is not None and isinstance(split.train, Region):
            room = min(split.train.shape)
            if config.tile > room:
                raise ConfigError(
                    f"{store.path}: tile must be at most {room}, the shortest side of what is "
                    f"trained on, got {config.tile}; choose a smaller tile or a larger box"
                )
    return splits


def _split_of(config: TrainingConfig, store: CubeStore) -> Split:
    cells = store.mesh.cells_per_side
    if config.split == "random":
        _check_radius(config, store)
    try:
        if config.split == "blocks":
            return block_split(cells, config.radius)
        return random_split(cells, config.random_cells, config.seed)
    except ValueError as error:
        message = str(error).replace("n_cells", "random_cells")
        raise ConfigError(f"{store.path}: {message}") from error


def _split_by_store(config: TrainingConfig, stores: Sequence[CubeStore]) -> list[Split]:
    """Return splits that train on all boxes but the last one, which validates."""
    if len(stores) < 2:
        raise ConfigError(
            "split 'store' trains on all stores but the last one, which validates, got one store; "
            "give --store once more, or use split 'blocks'"
        )
    if stores[-1].uuid in {store.uuid for store in stores[:-1]}:
        raise ConfigError(
            f"split 'store' validates on the last store, {stores[-1].path}, which is trained on "
            "too; give another box as the last --store"
        )
    for store in stores:
        _check_radius(config, store)
    boxes = [Region((0, 0, 0), store.mesh.shape) for store in stores]
    none = np.empty((0, 3), np.int64)
    return [
        *(Split(train=box, validation=none, test=None, leaks=False) for box in boxes[:-1]),
        Split(train=none, validation=boxes[-1], test=None, leaks=False),
    ]


def _check_radius(config: TrainingConfig, store: CubeStore) -> None:
    cells = store.mesh.cells_per_side
    fits = _largest_radius(config, cells)
    if config.radius > fits:
        raise ConfigError(
            f"{store.path}: radius {config.radius} needs {2 * config.radius + 1} cells a side, the "
            f"mesh has {cells}; the largest radius that fits is {fits}"
        )


def _largest_radius(config: TrainingConfig, cells_per_side: int) -> int:
    if config.split == "blocks":
        return largest_radius(cells_per_side)
    return (cells_per_side - 1) // 2
