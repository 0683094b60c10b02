"""Predict the validation cells, and score the predictions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ionmodel.channels.redshift import with_redshift
from ionmodel.errors import Interrupted
from ionmodel.networks.base import PatchNetwork
from ionmodel.tiles import first_new_cells
from ionstore.cube.mesh import Cells, Region
from ionstore.loading.loaders import Batch, NeighborhoodLoader, TileBatch, TileLoader

Floats = NDArray[np.float32]


def r_squared(target: Floats, prediction: Floats) -> float:
    """Return the coefficient of determination; 1 is perfect, nan if all targets are equal."""
    # float64: differences of float32 sums would lose digits over millions of cells.
    wide = target.astype(np.float64)
    residual = float(np.square(wide - prediction).sum())
    total = float(np.square(wide - wide.mean()).sum())
    return 1 - residual / total if total > 0 else float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Targets and predictions of a set of cells."""

    target: Floats  # simulated xHII, shape (n,)
    prediction: Floats
    logits: Floats  # before the final activation

    @property
    def r_squared(self) -> float:
        """Coefficient of determination over all cells at once."""
        return r_squared(self.target, self.prediction)


def predict_cells(
    network: PatchNetwork,
    loader: NeighborhoodLoader | TileLoader,
    device: torch.device,
    *,
    regions: Sequence[Region | Cells] = (),
    redshift_input: bool = False,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Predictions:
    """Predict every cell of the first epoch of a loader once.

    Tiles may overlap; ``regions`` are those that they cover in each store.
    """
    if isinstance(loader, TileLoader) and not regions:
        raise ValueError("regions must be given for a loader of tiles, got none; they may overlap")
    was_training = network.training
    network.eval()
    targets, outputs = [], []
    loader.position = 0
    try:
        with torch.inference_mode():
            for batch in loader:
                inputs = inputs_of(batch, device, redshift_input=redshift_input)
                logits = network(inputs, activate=False)
                new = _new_cells(batch, regions)
                outputs.append(logits.cpu().reshape(new.shape)[new])
                targets.append(batch.target.cpu()[new])
                on_batch(len(outputs), len(loader))
                if should_stop():
                    raise Interrupted("prediction stopped")
    finally:
        network.train(was_training)
    logits = torch.cat(outputs)
    prediction = torch.sigmoid(logits) if network.final_activation else logits
    return Predictions(torch.cat(targets).numpy(), prediction.numpy(), logits.numpy())


def inputs_of(
    batch: Batch | TileBatch, device: torch.device, *, redshift_input: bool
) -> torch.Tensor:
    """Return what a network sees of a batch, on its device."""
    # Moved first: a copy from pinned memory does not wait, one of a new tensor would.
    inputs = batch.inputs.to(device, non_blocking=batch.inputs.is_pinned())
    return with_redshift(inputs, batch.redshift) if redshift_input else inputs


def _new_cells(batch: Batch | TileBatch, regions: Sequence[Region | Cells]) -> torch.Tensor:
    """Return a mask of the targets that no earlier tile covers."""
    if isinstance(batch, Batch):
        return torch.ones(batch.target.shape, dtype=torch.bool)
    tile = batch.target.shape[-1]
    new = np.empty(batch.target.shape, np.bool_)
    starts, stores = batch.starts.cpu().numpy(), batch.store_index.cpu().numpy()
    for store in np.unique(stores):
        region, here = regions[store], stores == store
        assert isinstance(region, Region)
        first = first_new_cells(starts[here], region, tile)
        x, y, z = (np.arange(tile) >= first[:, axis, None] for axis in range(3))
        new[here] = x[:, :, None, None] & y[:, None, :, None] & z[:, None, None, :]
    return torch.from_numpy(new)
