"""What a network was trained on, and how other boxes differ from it."""

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
        refuse_empty(config, store, store.chosen_redshifts(config.redshifts))
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


_SAME_CELL = 0.01  # relative
_FAR = 1.5  # times the largest, or one such part of the smallest
_REDSHIFTS_BEYOND = 0.5


@dataclass(frozen=True, slots=True)
class SeenBox:
    """A coeval cube as it is compared with those of the training.

    Parameters
    ----------
    name : str
        What messages call it.
    cell_size_cmpc : float, optional
        Comoving side of a cell in cMpc, None where it is not known.
    redshift : float, optional
        Its redshift, None where it is not told.
    statistics : mapping of str to FieldStatistics
        Of every input, in its unit.
    """

    name: str
    cell_size_cmpc: float | None
    redshift: float | None
    statistics: Mapping[str, FieldStatistics]

    @classmethod
    def of(cls, config: TrainingConfig, store: CubeStore, redshift: float) -> Self:
        """Return that of a store at a redshift, with the inputs of a run."""
        (at,) = store.chosen_redshifts([redshift])
        found = {name: store.statistics(name, at) for name in config.inputs}
        return cls(str(store.path), store.mesh.cell_size_cmpc, at, found)


def trained_range(config: TrainingConfig, stores: Sequence[CubeStore]) -> dict[str, Any]:
    """Return what a checkpoint keeps of the inputs of its training, as plain values.

    Parameters
    ----------
    config : TrainingConfig
        Of the run.
    stores : sequence of CubeStore
        Stores trained on.

    Returns
    -------
    dict
        ``cell_sizes_cmpc`` (0 where unknown), ``redshifts`` (least, largest) and ``fields``: for
        every input its ``units``, its ``frame`` and the range (least, largest) of its mean and
        standard deviation over the cubes; of one that becomes an overdensity, relative to the
        mean.
    """
    boxes = [
        SeenBox.of(config, store, redshift)
        for store in stores
        for redshift in store.chosen_redshifts(config.redshifts)
    ]
    redshifts = [box.redshift for box in boxes if box.redshift is not None]
    moments = {name: [_moments_of(config, name, box) for box in boxes] for name in config.inputs}
    return {
        "cell_sizes_cmpc": sorted({box.cell_size_cmpc or 0.0 for box in boxes}),
        "redshifts": [min(redshifts), max(redshifts)],
        "fields": {
            name: {
                "units": stores[0].units(name),
                "frame": stores[0].frame if name == N_IGM.name else "",
                **{
                    what: [min(one[what] for one in found), max(one[what] for one in found)]
                    for what in found[0]
                },
            }
            for name, found in moments.items()
        },
    }


def radii_in_cells(trained: Mapping[str, Any] | None) -> bool:
    """Whether a network was trained on boxes of unknown length, whose scales are in cells.

    Parameters
    ----------
    trained : mapping, optional
        From `trained_range`.
    """
    return trained is not None and 0.0 in trained["cell_sizes_cmpc"]


def check_store(
    config: TrainingConfig,
    trained: Mapping[str, Any] | None,
    store: CubeStore,
    redshifts: Sequence[float],
) -> list[str]:
    """Check that a network can predict a store; return what is unlike its training.

    Parameters
    ----------
    config : TrainingConfig
        Of the run.
    trained : mapping, optional
        From `trained_range`; None where the checkpoint does not say.
    store : CubeStore
        Store to predict.
    redshifts : sequence of float
        Redshifts to predict.

    Returns
    -------
    list of str
        A sentence with the numbers for each thing that is unlike.

    Raises
    ------
    ConfigError
        If an input is missing, is stored in another unit or frame where that matters, or is empty
        where overdensities are asked for; or if a derived channel cannot be computed of a box or
        would mean another thing in it.
    NotInStoreError
        If the store does not hold a redshift.
    """
    missing = [name for name in config.inputs if name not in store.field_names]
    if missing:
        raise ConfigError(
            f"{store.path}: the network needs the fields {', '.join(config.inputs)}, the store "
            f"holds {', '.join(store.field_names)}; ingest {', '.join(missing)} too"
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
    """Check that a box has room for the averages that a network sees.

    Parameters
    ----------
    config : TrainingConfig
        Of the run.
    name : str
        What messages call the box.
    mesh : Mesh
        Its mesh.

    Raises
    ------
    ConfigError
        If the largest of the scales is above a quarter of it.
    """
    largest = max(config.scales or (0.0,))
    length, unit = float(mesh.cells_per_side), "cells"
    if mesh.box_length_cmpc is not None:
        length, unit = mesh.box_length_cmpc, "cMpc"
    if not fits(largest, length):
        raise ConfigError(
            f"{name}: the network sees means within {largest:g} {unit} and needs boxes of at least "
            f"{largest / LARGEST_SHARE:g} {unit}, got {length:.4g} {unit}; train one with smaller "
            "scales for it"
        )


def unlike_training(
    config: TrainingConfig, trained: Mapping[str, Any] | None, boxes: Sequence[SeenBox]
) -> list[str]:
    """Return what is unlike the training of a network, a sentence with the numbers for each.

    Parameters
    ----------
    config, trained
        As in `check_store`.
    boxes : sequence of SeenBox
        Boxes to predict.
    """
    if trained is None:
        return ["the run does not say what its network was trained on; train it anew to be warned"]
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
            continue  # the same number in every unit and frame
        known = trained["fields"][name]
        frame = store.frame if name == N_IGM.name else ""
        for what, before, now in (
            ("unit", known["units"], store.units(name)),
            ("frame", known["frame"], frame),
        ):
            if before != now:
                way_on = f"ingest it so, or train on stores with {now!r}"
                if before == "unknown":
                    way_on = "supply it for the stores of the training, and train anew"
                elif now == "unknown":
                    way_on = "supply it with `ionstore edit` if that is what it is"
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
            "length, but the length of this one is known; train it anew on boxes of known length"
        )


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
