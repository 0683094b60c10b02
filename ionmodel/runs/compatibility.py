"""What a network was trained on, and how other boxes differ from it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ionmodel.channels.base import LARGEST_SHARE, check_channels, fits
from ionmodel.channels.cache import boxes_of
from ionmodel.config.training_config import TrainingConfig
from ionmodel.errors import ConfigError
from ionmodel.runs.requirements import is_overdensity, refuse_empty
from ionstore.cube.fields import N_IGM
from ionstore.cube.mesh import Mesh
from ionstore.cube.statistics import FieldStatistics
from ionstore.store.cube_store import CubeStore

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
        at = store.redshifts[store.redshift_index(redshift)]
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
        for redshift in config.redshifts or store.redshifts
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
