"""What a network was trained on, and how another store differs from it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ionmodel.channels.base import check_channels
from ionmodel.channels.cache import boxes_of
from ionmodel.config import TrainingConfig
from ionmodel.errors import ConfigError
from ionmodel.requirements import is_overdensity, refuse_empty
from ionstore.fields import N_IGM
from ionstore.store import CubeStore

_SAME_CELL = 0.01  # relative
_FAR = 1.5  # times the largest, or one such part of the smallest
_REDSHIFTS_BEYOND = 0.5


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
    cubes = [(store, redshift) for store in stores for redshift in _redshifts(config, store)]
    redshifts = [redshift for _, redshift in cubes]
    return {
        "cell_sizes_cmpc": sorted({store.mesh.cell_size_cmpc or 0.0 for store in stores}),
        "redshifts": [min(redshifts), max(redshifts)],
        "fields": {
            name: {
                "units": stores[0].units(name),
                "frame": stores[0].frame if name == N_IGM.name else "",
                **{
                    what: [min(values), max(values)]
                    for what, values in _moments_of(config, name, cubes).items()
                },
            }
            for name in config.inputs
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
    check_channels(config.derived_channels, boxes_of(store, redshifts))
    refuse_empty(config, store, redshifts)
    if trained is None:
        return ["the run does not say what its network was trained on; train it anew to be warned"]
    warnings = [*_cell_size(trained, store)]
    low, high = trained["redshifts"]
    cubes = [(store, store.redshifts[store.redshift_index(redshift)]) for redshift in redshifts]
    for _, redshift in cubes:
        if not low - _REDSHIFTS_BEYOND <= redshift <= high + _REDSHIFTS_BEYOND:
            warnings.append(
                f"redshift {redshift:g} lies outside of {low:g} to {high:g}, where the network was "
                "trained"
            )
    for name in config.inputs:
        known = trained["fields"][name]
        for what, values in _moments_of(config, name, cubes).items():
            low, high = known[what]
            for value, (_, redshift) in zip(values, cubes, strict=True):
                # Bounds may be negative: each moves outwards by a part of itself.
                least = low - (1 - 1 / _FAR) * abs(low)
                most = high + (_FAR - 1) * abs(high)
                if not least <= value <= most:
                    warnings.append(
                        f"the {what.replace('_', ' ')} of {name} at redshift {redshift:g} is "
                        f"{value:.3g}, in training it was {_range(low, high)}"
                    )
    return warnings


def _redshifts(config: TrainingConfig, store: CubeStore) -> Sequence[float]:
    if config.redshifts is None:
        return store.redshifts
    return [store.redshifts[store.redshift_index(redshift)] for redshift in config.redshifts]


def _moments_of(
    config: TrainingConfig, name: str, cubes: Sequence[tuple[CubeStore, float]]
) -> dict[str, list[float]]:
    found = [store.statistics(name, redshift) for store, redshift in cubes]
    stds = [math.sqrt(statistics.variance) for statistics in found]
    if is_overdensity(config, name):
        return {
            "relative_scatter": [
                std / statistics.mean if statistics.mean else 0.0
                for std, statistics in zip(stds, found, strict=True)
            ]
        }
    return {"mean": [statistics.mean for statistics in found], "scatter": stds}


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
                way_on = "supply it with `ionstore edit`, or ingest it so"
                if before == "unknown":
                    way_on = "supply it for the stores of the training, and train anew"
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


def _cell_size(trained: Mapping[str, Any], store: CubeStore) -> list[str]:
    sizes = trained["cell_sizes_cmpc"]
    size = store.mesh.cell_size_cmpc
    if size is None:
        return [f"{store.path}: the size of a cell is unknown; {_trained_with(sizes)}"]
    if any(known and abs(size / known - 1) <= _SAME_CELL for known in sizes):
        return []
    return [f"{store.path}: a cell is {size:.4g} cMpc; {_trained_with(sizes)}"]


def _trained_with(sizes: Sequence[float]) -> str:
    known = " and ".join(f"{size:.4g} cMpc" if size else "cells of unknown size" for size in sizes)
    return f"the network was trained with {known}"


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
