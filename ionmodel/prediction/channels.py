"""Derived channels of a store to predict: those of the run, or temporary ones."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

from ionmodel.channels.cache import FoundChannels, find_channels, with_channels
from ionmodel.prediction.predictor import Predictor
from ionmodel.prediction.reporter import CHANNELS_STAGE, PredictionReporter
from ionmodel.runs.folder import RunFolder
from ionstore.reporter import Reporter
from ionstore.store.cube_store import CubeStore


def found_channels(
    predictor: Predictor, store: CubeStore, redshifts: Sequence[float], folder: Path | None
) -> FoundChannels | None:
    """Find finished channels in the run, or those that a stopped prediction left."""
    config = predictor.config
    # The run first, which has these channels if it was trained on the same store.
    folders = {RunFolder(predictor.path.parent).channels: config.redshifts or store.redshifts}
    if folder is not None:
        folders[folder] = tuple(redshifts)
    return find_channels(store, config.derived_channels, redshifts, folders)


def with_derived_channels(
    predictor: Predictor,
    store: CubeStore,
    redshifts: Sequence[float],
    folder: Path,
    *,
    memory_bytes: int,
    reporter: PredictionReporter,
) -> CubeStore:
    """Return the store with the derived channels of the network beside its fields."""
    channels = predictor.config.derived_channels
    if not channels:
        return store
    found = found_channels(predictor, store, redshifts, folder)
    if found is not None:
        return with_channels(store, channels, found.folder, redshifts=found.redshifts)
    reporter.note(
        f"{len(channels)} derived channels, means within balls, are computed first, in {folder}; "
        f"they take up to {4e-6 * len(channels) * len(redshifts) * prod(store.mesh.shape):,.0f} MB "
        "there until the prediction is done"
    )
    reporter.stage(CHANNELS_STAGE)
    return with_channels(
        store,
        channels,
        folder,
        redshifts=redshifts,
        memory_bytes=memory_bytes,
        reporter=_ProgressOf(reporter),
    )


class _ProgressOf(Reporter):
    """Passes on progress alone, because the prediction has its own note on the channels."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def progress(self, done: int, total: int) -> None:
        """Pass on how many channels are done."""
        self._reporter.progress(done, total)
