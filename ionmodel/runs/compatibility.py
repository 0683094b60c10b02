"""Check that stores fit a configuration, and boxes a trained network."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ionmodel.channels.base import LARGEST_SHARE, boxes_of, check_channels, fits
from ionmodel.config.training_config import TARGET, TrainingConfig
from ionmodel.errors import ConfigError
from ionmodel.runs.splits import split_cells
from ionstore.cube.fields import N_IGM, N_SRC
from ionstore.cube.mesh import Mesh
from ionstore.cube.statistics import FieldStatistics
from ionstore.storage.paths import StorePath
from ionstore.store.cube_store import CubeStore
from ionstore.store.normalization import DEFAULT_TRANSFORMS

_WORKERS_A_PROCESSOR = 4
_ALONE = 0.5  # cells: a ball of such a radius holds the cell in its middle alone
_SAME_CELL = 0.01  # relative difference of two cell sizes that are taken as the same
_FAR = 1.5  # a moment is far above this times the largest seen, or below the smallest over this
_REDSHIFTS_BEYOND = 0.5

_EDIT_OPTIONS = {
    (N_SRC.name, "unit"): "--n-src-unit",
    (N_IGM.name, "unit"): "--density-frame",
    (N_IGM.name, "frame"): "--density-frame",
}
"""Option of ``ionstore edit`` that supplies what a store does not know about a field."""


def check_stores(config: TrainingConfig, stores: Sequence[CubeStore]) -> None:
    """Check that stores can be trained on together, from their metadata alone."""
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
        refuse_empty(config, store, store.chosen_redshifts(config.redshifts))
    split_cells(config, stores)  # refuses meshes without room
    boxes = [box for store in stores for box in boxes_of(store, config.redshifts)]
    check_channels(config.derived_channels, boxes)
    for name in config.inputs:
        if is_overdensity(config, name):
            continue  # dividing by the mean removes unit and frame
        _check_agreement(name, "unit", {store.path: store.units(name) for store in stores})
        if name == N_IGM.name:
            _check_agreement(name, "frame", {store.path: store.frame for store in stores})


def check_workers(n_workers: int) -> None:
    """Refuse far more worker processes than processors."""
    most = _WORKERS_A_PROCESSOR * (os.cpu_count() or 1)
    if n_workers > most:
        raise ConfigError(
            f"num_workers must be at most {most} here, {_WORKERS_A_PROCESSOR} for each processor, "
            f"got {n_workers}; -o num_workers=0 is as fast where one core cuts fast enough"
        )


def remarks(config: TrainingConfig, stores: Sequence[CubeStore]) -> Iterator[str]:
    """Yield notes on stores that can be trained on, one sentence each."""
    sizes = {store.path: _cell_size_in_words(store) for store in stores}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{size} in {path}" for path, size in sizes.items())
        yield (
            f"cells differ in size ({told}); the network sees the same number of cells in each "
            "store"
        )
    if config.scales and stores[0].mesh.cell_size_cmpc is None:
        yield (
            "scales are in cells, not in cMpc, because the box length is unknown; supply it with "
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
                f"{', '.join(alone)} only repeat their field in {store.path}: balls of a radius "
                f"up to half a cell, {half:.3g} {unit}, hold one cell; leave them out"
            )


def _cell_size_in_words(store: CubeStore) -> str:
    size = store.mesh.cell_size_cmpc
    return "unknown" if size is None else f"{size:.4g} cMpc"


def is_overdensity(config: TrainingConfig, name: str) -> bool:
    """Tell if a network sees a field relative to the mean of its box."""
    return {**DEFAULT_TRANSFORMS, **config.transforms}.get(name) == "overdensity"


def needs_mean(config: TrainingConfig, name: str) -> bool:
    """Tell if a network sees a field, or averages of it, relative to the mean of its box."""
    averages = [channel.name for channel in config.derived_channels if channel.parent == name]
    transforms = config.channel_transforms
    return is_overdensity(config, name) or any(
        transforms.get(average) == "overdensity" for average in averages
    )


def refuse_empty(config: TrainingConfig, store: CubeStore, redshifts: Sequence[float]) -> None:
    """Refuse boxes whose mean is 0, so that overdensities are undefined."""
    for name in config.inputs:
        for redshift in redshifts:
            if needs_mean(config, name) and store.statistics(name, redshift).mean == 0:
                raise ConfigError(
                    f"{store.path}: {name} must not be 0 on average, because the network sees it "
                    f"relative to its mean, got an empty box at redshift {redshift:g}; choose "
                    "other redshifts, or ingest the box again"
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


@dataclass(frozen=True, slots=True)
class SeenBox:
    """Properties of a coeval cube that are compared with those of training."""

    name: str  # in messages
    cell_size_cmpc: float | None  # None where unknown
    redshift: float | None  # None where not given
    statistics: Mapping[str, FieldStatistics]  # of every input, in its unit

    @classmethod
    def of(cls, config: TrainingConfig, store: CubeStore, redshift: float) -> Self:
        """Return the box of a store at a redshift, with the inputs of a run."""
        (at,) = store.chosen_redshifts([redshift])
        found = {name: store.statistics(name, at) for name in config.inputs}
        return cls(str(store.path), store.mesh.cell_size_cmpc, at, found)


def trained_range(config: TrainingConfig, stores: Sequence[CubeStore]) -> dict[str, Any]:
    """Return the range of the training inputs that a checkpoint keeps, as plain values."""
    boxes = [
        SeenBox.of(config, store, redshift)
        for store in stores
        for redshift in store.chosen_redshifts(config.redshifts)
    ]
    redshifts = [box.redshift for box in boxes if box.redshift is not None]
    moments = {name: [_moments_of(config, name, box) for box in boxes] for name in config.inputs}
    return {
        "cell_sizes_cmpc": sorted({box.cell_size_cmpc or 0.0 for box in boxes}),  # 0: unknown
        "redshifts": [min(redshifts), max(redshifts)],
        "fields": {
            name: {
                "units": stores[0].units(name),
                "frame": stores[0].frame if name == N_IGM.name else "",
                # Ranges over the cubes.
                **{
                    what: [min(one[what] for one in found), max(one[what] for one in found)]
                    for what in found[0]
                },
            }
            for name, found in moments.items()
        },
    }


def radii_in_cells(trained: Mapping[str, Any] | None) -> bool:
    """Tell if a network was trained on boxes of unknown length, so with scales in cells."""
    return trained is not None and 0.0 in trained["cell_sizes_cmpc"]


def check_store(
    config: TrainingConfig,
    trained: Mapping[str, Any] | None,
    store: CubeStore,
    redshifts: Sequence[float],
) -> list[str]:
    """Check that a network can predict a store; return sentences on differences from training."""
    missing = [name for name in config.inputs if name not in store.field_names]
    if missing:
        raise ConfigError(
            f"{store.path}: the network needs the fields {', '.join(config.inputs)}, the store "
            f"holds {', '.join(store.field_names)}; also ingest {', '.join(missing)}"
        )
    if trained is not None:
        _check_units(config, trained, store)
        _check_radii(config, trained, store)
    check_length(config, str(store.path), store.mesh)
    check_channels(config.derived_channels, boxes_of(store, redshifts))
    refuse_empty(config, store, redshifts)
    return unlike_training(
        config, trained, [SeenBox.of(config, store, redshift) for redshift in redshifts]
    )


def check_length(config: TrainingConfig, name: str, mesh: Mesh) -> None:
    """Refuse a box that is less than four times as long as the largest scale."""
    largest = max(config.scales or (0.0,))
    length, unit = float(mesh.cells_per_side), "cells"
    if mesh.box_length_cmpc is not None:
        length, unit = mesh.box_length_cmpc, "cMpc"
    if not fits(largest, length):
        raise ConfigError(
            f"{name}: the network sees means within {largest:g} {unit} and needs boxes of at least "
            f"{largest / LARGEST_SHARE:g} {unit}, got {length:.4g} {unit}; train a network with "
            "smaller scales for it"
        )


def unlike_training(
    config: TrainingConfig, trained: Mapping[str, Any] | None, boxes: Sequence[SeenBox]
) -> list[str]:
    """Return a sentence with numbers for every property outside the training range."""
    if trained is None:
        return ["the run does not record what its network was trained on; train again to be warned"]
    sizes = [_cell_size(trained["cell_sizes_cmpc"], box) for box in boxes]
    found = list(dict.fromkeys(line for lines in sizes for line in lines))
    for box in boxes:
        found += _redshift(trained["redshifts"], box)
    for name in config.inputs:
        for box in boxes:
            found += _moments(config, name, trained["fields"][name], box)
    return found


def _cell_size(sizes: Sequence[float], box: SeenBox) -> list[str]:
    size = box.cell_size_cmpc
    if size is not None and any(known and abs(size / known - 1) <= _SAME_CELL for known in sizes):
        return []
    here = "the size of a cell is unknown" if size is None else f"a cell is {size:.4g} cMpc"
    known = " and ".join(f"{one:.4g} cMpc" if one else "cells of unknown size" for one in sizes)
    return [f"{box.name}: {here}; the network was trained with {known}"]


def _redshift(trained: Sequence[float], box: SeenBox) -> list[str]:
    low, high = trained
    if box.redshift is None or low - _REDSHIFTS_BEYOND <= box.redshift <= high + _REDSHIFTS_BEYOND:
        return []
    known = f"that of the training, {low:g}"
    if low < high:
        known = f"those of the training, {low:g} to {high:g}"
    return [f"redshift {box.redshift:g} is far from {known}"]


def _moments(
    config: TrainingConfig, name: str, known: Mapping[str, Any], box: SeenBox
) -> list[str]:
    found = []
    at = "" if box.redshift is None else f" at redshift {box.redshift:g}"
    for what, value in _moments_of(config, name, box).items():
        low, high = known[what]
        # Bounds may be negative: each moves outwards by a part of itself.
        least = low - (1 - 1 / _FAR) * abs(low)
        most = high + (_FAR - 1) * abs(high)
        if not least <= value <= most:
            found.append(
                f"the {what.replace('_', ' ')} of {name}{at} is {value:.3g}, in training it was "
                f"{_range(low, high)}"
            )
    return found


def _moments_of(config: TrainingConfig, name: str, box: SeenBox) -> dict[str, float]:
    found = box.statistics[name]
    std = math.sqrt(found.variance)
    if is_overdensity(config, name):
        return {"relative_scatter": std / found.mean if found.mean else 0.0}
    return {"mean": found.mean, "scatter": std}


def _check_units(config: TrainingConfig, trained: Mapping[str, Any], store: CubeStore) -> None:
    for name in config.inputs:
        if is_overdensity(config, name):
            continue  # dividing by the mean removes unit and frame
        known = trained["fields"][name]
        frame = store.frame if name == N_IGM.name else ""
        for what, before, now in (
            ("unit", known["units"], store.units(name)),
            ("frame", known["frame"], frame),
        ):
            if before != now:
                way_on = f"ingest it with that {what}, or train on stores with {now!r}"
                if before == "unknown":
                    way_on = f"supply the {what} of the training stores, and train again"
                elif now == "unknown":
                    way_on = "supply it with `ionstore edit` if you know it"
                raise ConfigError(
                    f"{store.path}: {name} must have the {what} {before!r} that the network was "
                    f"trained with, got {now!r}; {way_on}"
                )


def _check_radii(config: TrainingConfig, trained: Mapping[str, Any], store: CubeStore) -> None:
    is_unknown = store.mesh.box_length_cmpc is None
    if config.derived_channels and is_unknown != radii_in_cells(trained):
        name = config.derived_channels[0].name
        if is_unknown:
            raise ConfigError(
                f"{store.path}: the network was trained with {name} in cMpc, but the length of "
                "this box is unknown; supply it with `ionstore edit STORE --box-length`"
            )
        raise ConfigError(
            f"{store.path}: the network was trained with {name} in cells, on boxes of unknown "
            "length, but the length of this one is known; train again on boxes of known length"
        )


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
