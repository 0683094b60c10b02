"""Open the training and validation samples of a run: channels, normalization, loaders."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ionmodel.channels.base import boxes_of
from ionmodel.channels.cache import with_channels
from ionmodel.config.training_config import TARGET, TrainingConfig
from ionmodel.errors import ConfigError, Interrupted
from ionmodel.runs.compatibility import trained_range
from ionmodel.runs.splits import split_cells
from ionmodel.tiles import first_new_cells
from ionmodel.training.events import SILENT, TrainingReporter
from ionmodel.training.placement import FieldPlacement, free_bytes, place_fields
from ionstore.cube.mesh import Cells, Region
from ionstore.loading.fill import batch_parts
from ionstore.loading.loaders import LoaderOptions, NeighborhoodLoader, TileLoader
from ionstore.loading.ring import slot_bytes
from ionstore.reporter import Reporter
from ionstore.sampling.memory import bytes_for_fields
from ionstore.sampling.regions import Reach
from ionstore.sampling.samples import tile_starts
from ionstore.sampling.settings import SettingsOptions
from ionstore.sampling.split import Split
from ionstore.storage.paths import absolute
from ionstore.store.cube_store import CubeStore
from ionstore.store.normalization import Normalization, fit_normalization

CPU = torch.device("cpu")
Loader = NeighborhoodLoader | TileLoader


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Data that a run trains on and is validated with; closes its loaders when left."""

    stores: list[dict[str, Any]]  # from `describe_stores`
    splits: tuple[Split, ...]  # of the cells of each store
    normalization: Normalization  # of the inputs, from the training cells
    train: Loader  # shuffled batches, all of one size
    validation: Loader  # batches in a fixed order
    n_training_cells: int  # predicted in an epoch
    n_validation_cells: int  # each is counted once, though tiles may overlap
    trained: dict[str, Any]  # from `ionmodel.runs.compatibility.trained_range`
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
    """Return what a checkpoint keeps of stores, to recognize them when a run is resumed."""
    return [
        {
            "uuid": store.uuid,
            "path": str(absolute(store.path)),
            # By redshift. Uuids stay when box length or cosmology are edited, these radii do not.
            "radii_cells": {
                channel.name: [channel.radius_cells(box) for box in boxes]
                for channel in config.derived_channels
            },
        }
        for store in stores
        for boxes in [boxes_of(store, config.redshifts)]
    ]


def open_training_data(
    config: TrainingConfig,
    stores: Sequence[CubeStore],
    *,
    normalization: Normalization | None = None,
    channels_folder: Path | None = None,
    device: torch.device = CPU,
    reporter: TrainingReporter = SILENT,
) -> TrainingData:
    """Open the loaders of a run, and compute the derived channels that are missing.

    A resumed run gives the normalization that it began with; derived channels need a folder.
    """
    if config.derived_channels:
        if channels_folder is None:
            raise ValueError("channels_folder must be given where there are derived channels")
        stores = _with_channels(config, stores, channels_folder, reporter)
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
    samples = _count_samples(config, stores, splits)
    chosen: LoaderOptions = {
        "inputs": config.channel_names,
        "target": TARGET,
        "redshifts": config.redshifts,
        "seed": config.seed,
        "memory_budget": config.memory_budget,
        "num_workers": config.num_workers,
        "normalization": normalization,
        "samples_per_epoch": samples.n_per_epoch,
        "symmetries": config.symmetries,
        "core": config.core,
        "samples_per_opening": config.samples_per_opening,
    }
    placement = _place(config, stores, samples, device)
    if placement.sentence:
        reporter.note(placement.sentence)
    if placement.on_device:
        chosen["device"] = device
    if placement.pin_memory:
        chosen["pin_memory"] = True
    open_loaders = _open_cells if config.tile is None else _open_tiles
    train, validation, n_validation_cells = open_loaders(config, stores, splits, samples, chosen)
    return TrainingData(
        describe_stores(config, stores),
        tuple(splits),
        normalization,
        train,
        validation,
        train.n_samples * (config.tile or 1) ** 3,
        n_validation_cells,
        trained_range(config, [stores[place] for place in trained_on]),
    )


class _ChannelProgress(Reporter):
    """Counts the channels of one store among those of all, and stops before one when asked."""

    def __init__(self, reporter: TrainingReporter, n_before: int, n_all: int) -> None:
        self._reporter, self._n_before, self._n_all = reporter, n_before, n_all

    def note(self, sentence: str) -> None:
        self._reporter.stage(sentence)

    def progress(self, done: int, total: int) -> None:
        done += self._n_before
        if done < self._n_all and self._reporter.should_stop():
            raise Interrupted("stopped before the first step, while channels were computed")
        self._reporter.progress(done, self._n_all)


def _with_channels(
    config: TrainingConfig, stores: Sequence[CubeStore], folder: Path, reporter: TrainingReporter
) -> list[CubeStore]:
    per_box = len(config.derived_channels)
    counts = [per_box * len(boxes_of(store, config.redshifts)) for store in stores]
    return [
        with_channels(
            store,
            config.derived_channels,
            folder,
            redshifts=config.redshifts,
            memory_bytes=config.memory_budget,
            reporter=_ChannelProgress(reporter, sum(counts[:place]), sum(counts)),
        )
        for place, store in enumerate(stores)
    ]


@dataclass(frozen=True, slots=True)
class _SampleCounts:
    """Numbers of samples, which are cells or tiles."""

    batch_size: int
    n_per_epoch: int  # of training, whole batches
    per_validated_cube: int | None  # None takes all


def _count_samples(
    config: TrainingConfig, stores: Sequence[CubeStore], splits: Sequence[Split]
) -> _SampleCounts:
    n_validated = available = 0
    for store, split in zip(stores, splits, strict=True):
        n_cubes = len(store.chosen_redshifts(config.redshifts))
        n_validated += n_cubes * bool(_count(split.validation))
        available += n_cubes * -(-_count(split.train) // (config.tile or 1) ** 3)
    wanted = config.samples_per_epoch or available
    # Tiles start at any cell, so there are more of them than fit side by side.
    if config.tile is None:
        wanted = min(wanted, available)
    batch_size = min(config.batch_size, wanted)
    if batch_size < 2:
        raise ConfigError(
            f"an epoch needs at least 2 training samples, for batch statistics, got {wanted}; "
            "raise samples_per_epoch or use a larger box"
        )
    per_cube = config.validation_samples and -(-config.validation_samples // n_validated)
    return _SampleCounts(batch_size, wanted // batch_size * batch_size, per_cube)


def _place(
    config: TrainingConfig,
    stores: Sequence[CubeStore],
    samples: _SampleCounts,
    device: torch.device,
) -> FieldPlacement:
    n_channels = len(config.channel_names)
    parts = batch_parts(n_channels, Reach(config.radius, config.tile or 1))
    per_cell = 4 * (n_channels + 1)  # the inputs and the target, in float32
    return place_fields(
        device.type,
        field_bytes=sum(
            per_cell * math.prod(store.mesh.shape) * len(store.chosen_redshifts(config.redshifts))
            for store in stores
        ),
        budget_bytes=bytes_for_fields(config.memory_budget, slot_bytes(parts, samples.batch_size)),
        free_device_bytes=free_bytes(device),
        num_workers=config.num_workers,
    )


_SIBLING: SettingsOptions = {
    "shuffle": False,
    "num_workers": 0,
    "samples_per_epoch": None,
    "symmetries": "none",
}
"""Settings in which validation differs from training."""


def _open_cells(
    config: TrainingConfig,
    stores: Sequence[CubeStore],
    splits: Sequence[Split],
    samples: _SampleCounts,
    chosen: LoaderOptions,
) -> tuple[NeighborhoodLoader, NeighborhoodLoader, int]:
    """Return loaders of neighborhoods, for training and validation, and the cells of the latter."""
    train = NeighborhoodLoader(
        stores,
        centers=[split.train for split in splits],
        radius=config.radius,
        batch_size=samples.batch_size,
        **chosen,
    )
    with _closed_on_error(train):
        cells = [
            _some(split.validation, samples.per_validated_cube, config.seed) for split in splits
        ]
        validation = train.sibling(cells, **_SIBLING)
        return train, validation, validation.n_samples


def _open_tiles(
    config: TrainingConfig,
    stores: Sequence[CubeStore],
    splits: Sequence[Split],
    samples: _SampleCounts,
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
        batch_size=samples.batch_size,
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
                here = tiles[_drawn(len(tiles), samples.per_validated_cube, config.seed)]
                new = tile - first_new_cells(here, split.validation, tile)
                n_redshifts = len(store.chosen_redshifts(config.redshifts))
                n_cells += int(new.prod(axis=1).sum()) * n_redshifts
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
