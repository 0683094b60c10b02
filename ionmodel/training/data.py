"""The training and validation samples of a run: normalization and loaders."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ionmodel.channels.base import boxes_of
from ionmodel.channels.cache import with_channels
from ionmodel.config.training_config import TARGET, TrainingConfig
from ionmodel.errors import ConfigError
from ionmodel.runs.compatibility import trained_range
from ionmodel.runs.splits import split_cells
from ionmodel.tiles import first_new_cells
from ionstore.cube.mesh import Cells, Region
from ionstore.loading.loaders import LoaderOptions, NeighborhoodLoader, TileLoader
from ionstore.reporter import Reporter
from ionstore.sampling.samples import tile_starts
from ionstore.sampling.settings import SettingsOptions
from ionstore.sampling.split import Split
from ionstore.storage.paths import absolute
from ionstore.store.cube_store import CubeStore
from ionstore.store.normalization import Normalization, fit_normalization

Loader = NeighborhoodLoader | TileLoader


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a run trains on and is validated with; closes its loaders when left.

    Parameters
    ----------
    stores : list of dict
        The stores, as `describe_stores` does.
    splits : tuple of Split
        Use of each store's cells.
    normalization : Normalization
        Of the inputs, from the training cells.
    train, validation : NeighborhoodLoader or TileLoader
        Shuffled training batches, all of one size; validation batches in a fixed order.
    n_training_cells, n_validation_cells : int
        Cells that are predicted in an epoch of each; of validation, each is counted once.
    trained : dict
        What is trained on, as `ionmodel.runs.compatibility` describes it.
    """

    stores: list[dict[str, Any]]
    splits: tuple[Split, ...]
    normalization: Normalization
    train: Loader
    validation: Loader
    n_training_cells: int
    n_validation_cells: int
    trained: dict[str, Any]
    _closing: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self._closing.enter_context(self.train)
        self._closing.enter_context(self.validation)
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.close()

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it: stores, split, normalization, range."""
        return {
            "stores": self.stores,
            "split": [_describe(split) for split in self.splits],
            "normalization": self.normalization.to_dict(),
            "trained": self.trained,
        }


def describe_stores(config: TrainingConfig, stores: Sequence[CubeStore]) -> list[dict[str, Any]]:
    """Return what a checkpoint keeps of stores, by which they are known again.

    Parameters
    ----------
    config : TrainingConfig
        Of the run.
    stores : sequence of CubeStore
        Stores of the run.

    Returns
    -------
    list of dict
        For each store its ``uuid``, its ``path`` and ``radii_cells``: the radii in cells of each
        derived channel, by redshift. Uuids stay when box length or cosmology are edited; radii
        tell what comes of that.

    Raises
    ------
    ConfigError
        If a derived channel cannot be computed of a box.
    NotInStoreError
        If a store does not hold a redshift.
    """
    return [
        {
            "uuid": store.uuid,
            "path": str(absolute(store.path)),
            "radii_cells": {
                channel.name: [channel.radius_cells(box) for box in boxes]
                for channel in config.derived_channels
            },
        }
        for store in stores
        for boxes in [boxes_of(store, config.redshifts)]
    ]


class _OverStores(Reporter):
    """Counts the channels of one store among those of all."""

    def __init__(
        self,
        on_note: Callable[[str], None],
        on_channels: Callable[[int, int], None],
        n_before: int,
        n_all: int,
    ) -> None:
        self._on_note, self._on_channels = on_note, on_channels
        self._n_before, self._n_all = n_before, n_all

    def note(self, sentence: str) -> None:
        self._on_note(sentence)

    def progress(self, done: int, total: int) -> None:
        self._on_channels(self._n_before + done, self._n_all)


def open_training_data(
    config: TrainingConfig,
    stores: Sequence[CubeStore],
    *,
    normalization: Normalization | None = None,
    channels_folder: Path | None = None,
    on_note: Callable[[str], None] = lambda line: None,
    on_channels: Callable[[int, int], None] = lambda done, total: None,
) -> TrainingData:
    """Open the loaders of a run.

    Parameters
    ----------
    config : TrainingConfig
        Says which fields, cells and samples.
    stores : sequence of CubeStore
        Stores to train on.
    normalization : Normalization, optional
        That of an interrupted run; found from the training cells by default.
    channels_folder : Path, optional
        Where stores of derived channels lie or are made; needed if there are such channels.
    on_note : callable
        Told what the computation of derived channels takes, if there is one.
    on_channels : callable
        Told how many derived channels are done and how many there are, over all stores: before
        each one that is computed, and at the end of each store.

    Raises
    ------
    ConfigError
        If a mesh cannot be split as configured, or is left with less than two training samples,
        or a derived channel cannot be computed of a box.
    ValueError
        If there are derived channels and no folder for them.
    NotInStoreError
        If a store does not hold a field or a redshift.
    MemoryBudgetError
        If fields and batches do not fit the memory budget.
    """
    if config.derived_channels:
        if channels_folder is None:
            raise ValueError("channels_folder must be given where there are derived channels")
        per_box = len(config.derived_channels)
        counts = [per_box * len(boxes_of(store, config.redshifts)) for store in stores]

        stores = [
            with_channels(
                store,
                config.derived_channels,
                channels_folder,
                redshifts=config.redshifts,
                memory_bytes=config.memory_budget,
                reporter=_OverStores(on_note, on_channels, sum(counts[:place]), sum(counts)),
            )
            for place, store in enumerate(stores)
        ]
    splits = split_cells(config, stores)
    trained_on = [place for place, split in enumerate(splits) if _count(split.train)]
    if normalization is None:
        normalization = fit_normalization(
            [stores[place] for place in trained_on],
            config.channel_names,
            [splits[place].train for place in trained_on],
            redshifts=config.redshifts,
            transforms=config.channel_transforms,
        )
    n_validated = sum(
        len(config.redshifts or store.redshifts)
        for store, split in zip(stores, splits, strict=True)
        if _count(split.validation)
    )
    tile = config.tile or 1
    available = sum(
        -(-_count(split.train) // tile**3) * len(config.redshifts or store.redshifts)
        for store, split in zip(stores, splits, strict=True)
    )
    wanted = config.samples_per_epoch or available
    if config.tile is None:
        wanted = min(wanted, available)
    batch_size = min(config.batch_size, wanted)
    if batch_size < 2:
        raise ConfigError(
            f"an epoch needs at least 2 training samples, for batch statistics, got {wanted}; "
            "raise samples_per_epoch or use a larger box"
        )
    chosen: LoaderOptions = {
        "inputs": config.channel_names,
        "target": TARGET,
        "redshifts": config.redshifts,
        "seed": config.seed,
        "memory_budget": config.memory_budget,
        "num_workers": config.num_workers,
        "normalization": normalization,
        "samples_per_epoch": wanted // batch_size * batch_size,
        "symmetries": config.symmetries,
        "core": config.core,
        "samples_per_opening": config.samples_per_opening,
    }
    per_cube = config.validation_samples and -(-config.validation_samples // n_validated)
    open_loaders = _open_cells if config.tile is None else _open_tiles
    train, validation, n_validation_cells = open_loaders(
        config, stores, splits, batch_size=batch_size, per_cube=per_cube, chosen=chosen
    )
    return TrainingData(
        describe_stores(config, stores),
        tuple(splits),
        normalization,
        train,
        validation,
        train.n_samples * tile**3,
        n_validation_cells,
        trained_range(config, [stores[place] for place in trained_on]),
    )


_SIBLING: SettingsOptions = {
    "shuffle": False,
    "num_workers": 0,
    "samples_per_epoch": None,
    "symmetries": "none",
}
"""What validation does otherwise than training."""


def _open_cells(
    config: TrainingConfig,
    stores: Sequence[CubeStore],
    splits: Sequence[Split],
    *,
    batch_size: int,
    per_cube: int | None,
    chosen: LoaderOptions,
) -> tuple[NeighborhoodLoader, NeighborhoodLoader, int]:
    """Return loaders of neighborhoods, for training and validation, and the cells of the latter."""
    train = NeighborhoodLoader(
        stores,
        centers=[split.train for split in splits],
        radius=config.radius,
        batch_size=batch_size,
        **chosen,
    )
    with _closed_on_error(train):
        cells = [_some(split.validation, per_cube, config.seed) for split in splits]
        validation = train.sibling(cells, **_SIBLING)
        return train, validation, validation.n_samples


def _open_tiles(
    config: TrainingConfig,
    stores: Sequence[CubeStore],
    splits: Sequence[Split],
    *,
    batch_size: int,
    per_cube: int | None,
    chosen: LoaderOptions,
) -> tuple[TileLoader, TileLoader, int]:
    """Return loaders of tiles, for training and validation, and the cells of the latter."""
    assert config.tile is not None
    train = TileLoader(
        stores,
        tile=config.tile,
        starts=[split.train for split in splits],
        anywhere=True,
        halo=config.radius,
        batch_size=batch_size,
        **chosen,
    )
    with _closed_on_error(train):
        regions = [split.validation for split in splits if isinstance(split.validation, Region)]
        tile = min(config.tile, *(min(region.shape) for region in regions))
        starts, n_cells = [], 0
        for store, split in zip(stores, splits, strict=True):
            here = np.empty((0, 3), np.int64)
            if isinstance(split.validation, Region):  # else the box is trained on alone
                tiles = tile_starts(split.validation, tile)
                here = tiles[_drawn(len(tiles), per_cube, config.seed)]
                new = tile - first_new_cells(here, split.validation, tile)
                n_cells += int(new.prod(axis=1).sum()) * len(config.redshifts or store.redshifts)
            starts.append(here)
        return train, train.sibling(starts, tile=tile, **_SIBLING), n_cells


@contextmanager
def _closed_on_error(loader: Loader) -> Iterator[None]:
    """Close a loader when what follows fails."""
    try:
        yield
    except BaseException:
        loader.close()
        raise


def _count(cells: Region | Cells) -> int:
    return cells.n_cells if isinstance(cells, Region) else len(cells)


def _some(cells: Region | Cells, n: int | None, seed: int) -> Region | Cells:
    """Return ``n`` of the cells, drawn with a seed; all of them where there are no more."""
    total = _count(cells)
    if n is None or n >= total:
        return cells
    drawn = _drawn(total, n, seed)
    return cells.cells(drawn) if isinstance(cells, Region) else cells[drawn]


def _drawn(total: int, n: int | None, seed: int) -> NDArray[np.int64]:
    """Return ``n`` places of so many, drawn with a seed, in order; all where there are no more."""
    if n is None or n >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, n, replace=False))


def _describe(split: Split) -> dict[str, Any]:
    def plain(cells: Region | Cells | None) -> Any:
        if isinstance(cells, Region):
            return {"start": list(cells.start), "shape": list(cells.shape)}
        return [] if cells is None else cells.tolist()

    return {
        "train": plain(split.train),
        "validation": plain(split.validation),
        "test": plain(split.test),
        "leaks": split.leaks,
    }
