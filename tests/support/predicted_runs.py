"""Runs of every family, and their networks applied cell by cell."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ionmodel.channels.cache import with_channels
from ionmodel.channels.redshift import with_redshift
from ionmodel.prediction.plan import PredictionPlan
from ionmodel.prediction.predictor import Predictor
from ionmodel.prediction.reporter import CHANNELS_STAGE, PredictionReporter
from ionmodel.runs.folder import RunFolder
from ionstore.loading.loaders import NeighborhoodLoader
from ionstore.store.cube_store import CubeStore

REDSHIFTS = (9.0, 7.5)
FAMILIES: dict[str, dict[str, Any]] = {
    "residual": {"network": "residual", "width": 5, "tile": 4, "radius": 2},
    "pointwise": {"network": "pointwise", "tile": 4, "radius": 0, "head_widths": [4]},
    "valid": {
        "network": "two_branch",
        "padding": False,
        "channels": [3],
        "kernel": 3,
        "radius": 2,
        "head_widths": [4],
        "samples_per_epoch": 512,
    },
    "multiscale": {
        "network": "pointwise",
        "tile": 4,
        "radius": 0,
        "head_widths": [8],
        "scales": [2.0, 4.5],
        "mean_free_path": "constant",
        "mean_free_path_cmpc": 3.0,
        "redshift_input": True,
    },
    "wide": {
        "network": "residual",
        "width": 5,
        "tile": 4,
        "radius": 2,
        "scales": [3.0],
        "redshift_input": True,
    },
    "padded": {
        "network": "two_branch",
        "channels": [3],
        "kernel": 3,
        "radius": 2,
        "head_widths": [4],
        "samples_per_epoch": 512,
    },
}


class Told(PredictionReporter):
    """Keeps what a prediction tells; calls a function with progress, which may stop it."""

    def __init__(
        self,
        *,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        on_channels: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.notes: list[str] = []
        self.unlikes: list[str] = []
        self.plans: list[PredictionPlan] = []
        self.stages: list[str] = []
        self.done: list[tuple[int, int]] = []
        self.channels_done: list[tuple[int, int]] = []
        self._on_progress, self._on_channels = on_progress, on_channels

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def unlike(self, sentence: str) -> None:
        self.unlikes.append(sentence)

    def plan(self, plan: PredictionPlan) -> None:
        self.plans.append(plan)

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def progress(self, done: int, total: int) -> None:
        if self.stages[-1] == CHANNELS_STAGE:
            self.channels_done.append((done, total))
            self._on_channels(done, total)
        else:
            self.done.append((done, total))
            self._on_progress(done, total)


def lively(predictor: Predictor) -> Predictor:
    """The same with weights that tell cells apart."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in predictor.network.parameters():
            weights.copy_(0.3 * torch.randn(weights.shape, generator=generator))
    return predictor


def cell_by_cell(predictor: Predictor, store: CubeStore, redshift: float) -> np.ndarray:
    """The box as the loader of training cuts it, neighborhood by neighborhood."""
    n = store.mesh.cells_per_side
    out = np.empty((n, n, n), np.float32)
    config = predictor.config
    channels = RunFolder(predictor.path.parent).channels
    with (
        NeighborhoodLoader(
            with_channels(store, config.derived_channels, channels),
            inputs=config.channel_names,
            redshifts=[redshift],
            radius=predictor.radius,
            batch_size=500,
            normalization=predictor.normalization,
            shuffle=False,
        ) as loader,
        torch.inference_mode(),
    ):
        for batch in loader:
            x, y, z = batch.centers.T.numpy()
            inputs = batch.inputs
            if config.redshift_input:
                inputs = with_redshift(inputs, batch.redshift)
            out[x, y, z] = predictor.network(inputs).flatten().numpy()
    return out
