"""Derived channels of a store that is predicted: those of the run, or made for the while."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ionmodel.channels.base import boxes_of
from ionmodel.channels.cache import CACHE_NAME, cache_path, with_channels
from ionmodel.prediction.predictor import Predictor
from ionmodel.runs.folder import RunFolder
from ionstore.cube.mesh import REDSHIFT_TOLERANCE
from ionstore.store.cube_store import CubeStore


@dataclass(frozen=True, slots=True)
class FoundChannels:
    """Derived channels that need not be computed.

    Parameters
    ----------
    folder : Path
        Folder of stores of channels, as `ionmodel.channels.cache` takes it.
    redshifts : tuple of float
        Redshifts of the one that holds them.
    """

    folder: Path
    redshifts: tuple[float, ...]


def find_channels(
    predictor: Predictor, store: CubeStore, redshifts: Sequence[float], folder: Path | None
) -> FoundChannels | None:
    """Return where the derived channels that a network sees lie, None if some must be computed.

    Parameters
    ----------
    predictor : Predictor
        The network; the folder of its run may hold them.
    store : CubeStore
        Store with its inputs.
    redshifts : sequence of float
        Redshifts to predict.
    folder : Path, optional
        Where else they may lie: made by a prediction that was stopped.

    Raises
    ------
    ConfigError
        If a channel cannot be computed of a box.
    NotInStoreError
        If the store does not hold a redshift.
    """
    of_run = RunFolder(predictor.path.parent).channels
    trained_on = predictor.config.redshifts or store.redshifts
    places = [(of_run, redshifts), (of_run, trained_on)]
    if folder is not None:
        places.append((folder, redshifts))
    for place, held in places:
        if _lacks(held, redshifts) or _lacks(store.redshifts, held):
            continue
        boxes = boxes_of(store, held)
        if cache_path(store, predictor.config.derived_channels, boxes, place).exists():
            return FoundChannels(place, tuple(held))
    return None


def with_channels_of_run(
    predictor: Predictor,
    store: CubeStore,
    redshifts: Sequence[float],
    folder: Path,
    *,
    memory_bytes: int,
    on_note: Callable[[str], None],
    on_channels: Callable[[int, int], None],
) -> CubeStore:
    """Return a store with the derived channels that a network sees beside its fields.

    Parameters
    ----------
    predictor : Predictor
        The network.
    store : CubeStore
        Store with its inputs.
    redshifts : sequence of float
        Redshifts to predict.
    folder : Path
        Where channels are made that the folder of the run does not hold.
    memory_bytes : int
        Bound on the memory that this takes.
    on_note : callable
        Told what is made.
    on_channels : callable
        Told how many channels are done and how many there are, while they are made.

    Raises
    ------
    ConfigError
        If a channel cannot be computed of a box.
    MemoryBudgetError
        If a box does not fit the memory.
    StoreExistsError
        If another process makes the same channels.
    StoreDamageError
        If the store is damaged, or what was written reads back otherwise.
    DiskSpaceError
        If the disk is full.
    OSError
        If something cannot be read or written.
    """
    channels = predictor.config.derived_channels
    if not channels:
        return store
    found = find_channels(predictor, store, redshifts, folder)
    if found is not None:
        return with_channels(store, channels, found.folder, redshifts=found.redshifts)
    on_note(
        f"{len(channels)} derived channels, means within balls, are computed first, in {folder}; "
        f"they take up to {4e-6 * len(channels) * len(redshifts) * prod(store.mesh.shape):,.0f} MB "
        "there until the prediction is done"
    )
    return with_channels(
        store,
        channels,
        folder,
        redshifts=redshifts,
        memory_bytes=memory_bytes,
        on_channels=on_channels,
    )


def remove_channels(folder: Path) -> None:
    """Remove the channels that this and earlier predictions made in a folder, and nothing else.

    Parameters
    ----------
    folder : Path
        As given to `with_channels_of_run`; it need not exist.

    Raises
    ------
    OSError
        If something cannot be removed.
    """
    if not folder.exists():
        return
    for path in folder.iterdir():
        if CACHE_NAME.fullmatch(path.name):
            shutil.rmtree(path)
    with suppress(OSError):  # there is something else
        folder.rmdir()


def _lacks(there: Sequence[float], wanted: Sequence[float]) -> bool:
    """Whether some of the redshifts that are wanted are not there."""
    return any(all(abs(one - other) > REDSHIFT_TOLERANCE for other in there) for one in wanted)
