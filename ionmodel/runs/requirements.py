"""What a run needs of its stores, checked before any field is read."""

import os
from collections.abc import Iterator, Mapping, Sequence

from ionmodel.channels.base import check_channels
from ionmodel.channels.cache import boxes_of
from ionmodel.config.training_config import TARGET, TrainingConfig
from ionmodel.errors import ConfigError
from ionmodel.runs.splits import split_cells
from ionstore.cube.fields import N_IGM, N_SRC
from ionstore.storage.paths import StorePath
from ionstore.store.cube_store import CubeStore
from ionstore.store.normalization import DEFAULT_TRANSFORMS

_WORKERS_A_PROCESSOR = 4
_ALONE = 0.5  # cells: a ball of such a radius holds the cell in its middle alone

_EDIT_OPTIONS = {
    (N_SRC.name, "unit"): "--n-src-unit",
    (N_IGM.name, "unit"): "--density-frame",
    (N_IGM.name, "frame"): "--density-frame",
}
"""Option of ``ionstore edit`` that supplies what a store does not know of a field."""


def check_stores(config: TrainingConfig, stores: Sequence[CubeStore]) -> None:
    """Check that stores can be trained on together, from their metadata alone.

    Parameters
    ----------
    config : TrainingConfig
        Says which fields, redshifts and cells.
    stores : sequence of CubeStore
        Stores to train on.

    Raises
    ------
    ConfigError
        If a store is given twice, lacks a field or room for the neighborhoods, holds an empty box
        of which overdensities are asked for, disagrees with another in the unit or frame of an
        input that is not divided by its own mean, or does not tell what a derived channel depends
        on.
    NotInStoreError
        If a store does not hold a redshift.
    """
    paths: dict[str, StorePath] = {}
    for store in stores:
        if store.uuid in paths:
            raise ConfigError(
                f"{paths[store.uuid]} and {store.path} are the same store; give it once"
            )
        paths[store.uuid] = store.path
        if TARGET not in store.field_names:
            raise ConfigError(
                f"{store.path}: {TARGET} is what networks are trained to predict, the store holds "
                f"{', '.join(store.field_names)}; ingest it with {TARGET}, a store without it can "
                "only be predicted"
            )
        missing = [name for name in config.inputs if name not in store.field_names]
        if missing:
            raise ConfigError(
                f"{store.path}: fields {', '.join(missing)} are needed, the store holds "
                f"{', '.join(store.field_names)}; change inputs"
            )
        for redshift in config.redshifts or ():
            store.redshift_index(redshift)
        refuse_empty(config, store, config.redshifts or store.redshifts)
    split_cells(config, stores)
    boxes = [box for store in stores for box in boxes_of(store, config.redshifts)]
    check_channels(config.derived_channels, boxes)
    for name in config.inputs:
        if is_overdensity(config, name):  # the same number in every unit and frame
            continue
        _check_agreement(name, "unit", {store.path: store.units(name) for store in stores})
        if name == N_IGM.name:
            _check_agreement(name, "frame", {store.path: store.frame for store in stores})


def check_workers(n_workers: int) -> None:
    """Refuse more worker processes than can be of use.

    Raises
    ------
    ConfigError
        If there are more than four for each processor.
    """
    most = _WORKERS_A_PROCESSOR * (os.cpu_count() or 1)
    if n_workers > most:
        raise ConfigError(
            f"num_workers must be at most {most} here, {_WORKERS_A_PROCESSOR} for each processor, "
            f"got {n_workers}; -o num_workers=0 is as fast where one core cuts fast enough"
        )


def remarks(config: TrainingConfig, stores: Sequence[CubeStore]) -> Iterator[str]:
    """Yield what a user should know of stores that can be trained on, a line each.

    Parameters
    ----------
    config : TrainingConfig
        What is trained.
    stores : sequence of CubeStore
        Stores that `check_stores` accepts.
    """
    sizes = {store.path: _cell_size_in_words(store) for store in stores}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{size} in {path}" for path, size in sizes.items())
        yield (
            f"cells differ in size ({told}): the network sees as many of each, whatever their size"
        )
    if config.scales and stores[0].mesh.cell_size_cmpc is None:
        yield (
            "scales are taken in cells, not in cMpc, for the box length is unknown; supply it with "
            f"`ionstore edit {stores[0].path} --box-length`"
        )
    for store in stores:
        boxes = boxes_of(store, config.redshifts)
        alone = [
            channel.name
            for channel in config.derived_channels
            if any(channel.radius_cells(box) <= _ALONE for box in boxes)
        ]
        if alone:
            half = _ALONE * (store.mesh.cell_size_cmpc or 1.0)
            unit = "cell" if store.mesh.cell_size_cmpc is None else "cMpc"
            yield (
                f"{', '.join(alone)} only repeat their field in {store.path}: balls of radius up "
                f"to half a cell, {half:.3g} {unit}, hold one cell; leave them out"
            )


def _cell_size_in_words(store: CubeStore) -> str:
    size = store.mesh.cell_size_cmpc
    return "unknown" if size is None else f"{size:.4g} cMpc"


def is_overdensity(config: TrainingConfig, name: str) -> bool:
    """Whether a network sees a field relative to the mean of its box."""
    return {**DEFAULT_TRANSFORMS, **config.transforms}.get(name) == "overdensity"


def needs_mean(config: TrainingConfig, name: str) -> bool:
    """Whether a network sees a field, or averages of it, relative to the mean of its box."""
    averages = [channel.name for channel in config.derived_channels if channel.parent == name]
    transforms = config.channel_transforms
    return is_overdensity(config, name) or any(
        transforms.get(average) == "overdensity" for average in averages
    )


def refuse_empty(config: TrainingConfig, store: CubeStore, redshifts: Sequence[float]) -> None:
    """Check that every box has the overdensities that a network sees.

    Raises
    ------
    ConfigError
        If the mean of such a field is 0.
    NotInStoreError
        If the store does not hold a redshift.
    """
    for name in config.inputs:
        for redshift in redshifts:
            if needs_mean(config, name) and store.statistics(name, redshift).mean == 0:
                raise ConfigError(
                    f"{store.path}: {name} must not be 0 on average, for the network sees it "
                    f"relative to its mean, got an empty box at redshift {redshift:g}; take other "
                    "redshifts, or ingest the box anew"
                )


def _check_agreement(field: str, what: str, told: Mapping[StorePath, str]) -> None:
    (first, one), *others = told.items()
    for path, another in others:
        if another == one:
            continue
        way_on = f"train on stores that agree, or leave {field} out of inputs"
        option = _EDIT_OPTIONS.get((field, what))
        if "unknown" in (one, another) and option is not None:
            unknown = first if one == "unknown" else path
            way_on = f"supply it with `ionstore edit {unknown} {option}`"
        raise ConfigError(
            f"{field} must have one {what} in all stores, got {one} in {first} and {another} in "
            f"{path}; {way_on}"
        )
