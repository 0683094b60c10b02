"""`Predictor`: a trained run as a function of fields, for whole periodic boxes.

In three lines of a notebook::

    from ionmodel.prediction import load
    predict = load("runs/first")
    xhii = predict({"n_igm": n_igm, "n_src": n_src}, redshift=8.0, box_length_cmpc=714.0)

The redshift and the length of the box may be left out where the network depends on neither; a
warning then says that the size of a cell is unknown.
"""

import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from ionmodel.channels.base import Box, check_channels
from ionmodel.channels.periodic_field import PeriodicField
from ionmodel.channels.redshift import redshift_value
from ionmodel.config.training_config import TrainingConfig, make_config
from ionmodel.dense.form import dense_form
from ionmodel.errors import ConfigError, RunFolderError, UnlikeTrainingWarning
from ionmodel.networks.base import PatchNetwork
from ionmodel.networks.memory import TILE_CELLS, patches_at_once
from ionmodel.prediction.arrays import given_cubes
from ionmodel.prediction.device import full_float32, prediction_must_fit
from ionmodel.runs.checkpoint import load_checkpoint
from ionmodel.runs.compatibility import (
    SeenBox,
    check_length,
    is_overdensity,
    needs_mean,
    radii_in_cells,
    unlike_training,
)
from ionmodel.runs.folder import RunFolder
from ionmodel.runs.network import choose_device, full_device_as_message, network_of
from ionmodel.tiles import slices_of, tiles_of, wrapped
from ionstore.cube.cosmology import Cosmology
from ionstore.cube.mesh import Array, Corner, Fields, Mesh, Region
from ionstore.cube.statistics import FieldStatistics
from ionstore.loading.gather import gather_neighborhoods
from ionstore.storage.digest import in_words, start_digest
from ionstore.store.normalization import Normalization

_FEW_PATCHES = 8  # timed first, to find out how long a full set of patches would take
_LONGEST_TIMING_S = 5.0  # a full set is timed if it takes no longer than this


@dataclass(frozen=True, slots=True)
class Predictor:
    """A trained network that predicts boxes; `load` makes it."""

    config: TrainingConfig = field(repr=False)
    normalization: Normalization = field(repr=False)  # of the inputs
    network: PatchNetwork = field(repr=False)  # in evaluation mode, on its device
    device: torch.device
    path: Path  # of the best checkpoint
    # As it was read: a running training may have replaced the file since.
    size_bytes: int = field(repr=False)
    digest: str = field(repr=False)
    trained: Mapping[str, Any] | None = field(repr=False)  # None in checkpoints of old versions

    @property
    def radius(self) -> int:
        """Width in cells of the halo that a block is predicted from."""
        return self.config.radius

    def __call__(
        self,
        fields: Mapping[str, ArrayLike],
        *,
        redshift: float | None = None,
        box_length_cmpc: float | None = None,
        cosmology: Cosmology | None = None,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> NDArray[np.float32]:
        """Predict the ionized fraction of a periodic box.

        Parameters
        ----------
        fields : mapping of str to ndarray, shape (n, n, n)
            The inputs of the run by their names, indexed [x, y, z], in the units of training.
            Everything that numpy converts to such an array is accepted; other fields are ignored.
        redshift : float, optional
            Redshift of the box, at least 0; needed if the network sees it, or for the mean free
            path.
        box_length_cmpc : float, optional
            Side of the box in cMpc; needed if the network sees means within balls whose radius is
            in cMpc, refused if that radius is in cells.
        cosmology : Cosmology, optional
            Cosmology of the box; needed for the mean free path "choudhury2009".
        on_progress : callable
            Called with the number of cells done, and of all cells.

        Returns
        -------
        ndarray of float32, shape (n, n, n)
            Predicted xHII, 0 to 1 where the network ends in a sigmoid.

        Raises
        ------
        ConfigError
            If an input is missing, is not a cube of the common mesh, or holds values that it
            cannot have; if a redshift, box length or cosmology is missing or does not fit; if the
            box is too small for the balls; or if a predicted value is not finite.
        MemoryBudgetError
            If the device has no memory for the network and a tile.

        Warns
        -----
        UnlikeTrainingWarning
            If cell size, redshift, or mean or scatter of an input are far from those of training.

        Notes
        -----
        Densities are divided by the mean of the box. Takes the memory of the normalized inputs,
        ``4 * channels * n**3`` bytes, and of one tile; of five fields more while they are smoothed.
        """
        cubes = given_cubes(fields, self.config.inputs)
        box = self._box(cubes, redshift, box_length_cmpc, cosmology)
        statistics = {name: FieldStatistics.of(cube) for name, cube in cubes.items()}
        self._check_values(statistics)
        cell = None if box_length_cmpc is None else box_length_cmpc / box.mesh.cells_per_side
        seen = SeenBox("this box", cell, redshift, statistics)
        for line in unlike_training(self.config, self.trained, [seen]):
            # stacklevel 2 names the line of the caller, not this one.
            warnings.warn(line, UnlikeTrainingWarning, stacklevel=2)
        inputs = self._normalized(cubes, box, statistics)
        n = inputs.shape[1]
        out = np.empty((n, n, n), np.float32)
        # Tile by tile, so that the layers take the memory of one tile however large the box is.
        tile = min(TILE_CELLS, n)
        done = 0
        for start, shape in tiles_of((n, n, n), tile):
            block = wrapped(inputs, start, shape, self.radius)
            out[slices_of(start, shape)] = self.predict_block(block, tile=tile)
            done += prod(shape)
            on_progress(done, n**3)
        check_numbers(out, "in this box")
        return out

    def _box(
        self,
        cubes: Mapping[str, Array],
        redshift: float | None,
        box_length_cmpc: float | None,
        cosmology: Cosmology | None,
    ) -> Box:
        """Return the box for derived channels; refuse missing or impossible properties."""
        if redshift is not None and not (_is_number(redshift) and 0 <= redshift < np.inf):
            raise ConfigError(f"redshift must be one number from 0 on, got {redshift!r}")
        if redshift is None and self.config.redshift_input:
            raise ConfigError("the network sees the redshift, got none; give redshift=")
        if box_length_cmpc is not None and not (
            _is_number(box_length_cmpc) and 0 < box_length_cmpc < np.inf
        ):
            raise ConfigError(
                f"box_length_cmpc must be one positive number, got {box_length_cmpc!r}"
            )
        derived = self.config.derived_channels
        if derived and box_length_cmpc is None and not radii_in_cells(self.trained):
            raise ConfigError(
                f"the network sees averages over balls ({derived[0].name}), whose radius in cells "
                "depends on the length of the box, got none; give box_length_cmpc="
            )
        if derived and box_length_cmpc is not None and radii_in_cells(self.trained):
            raise ConfigError(
                f"the network was trained with {derived[0].name} in cells, on boxes of unknown "
                f"length, got box_length_cmpc={box_length_cmpc:g}; leave it out, or train on boxes "
                "of known length"
            )
        n = len(cubes[self.config.inputs[0]])
        box = Box(Mesh(n, box_length_cmpc), redshift, cosmology)
        check_length(self.config, "this box", box.mesh)
        check_channels(derived, [box])
        return box

    def _check_values(self, statistics: Mapping[str, FieldStatistics]) -> None:
        for name, found in statistics.items():
            if found.min < 0 and self.normalization.fields[name].transform != "identity":
                raise ConfigError(
                    f"{name} must not be negative, got values down to {found.min:.3g}; give it as "
                    "simulations write it, in the unit of training"
                    + (", not as overdensity" if is_overdensity(self.config, name) else "")
                )
            if found.mean == 0 and needs_mean(self.config, name):
                raise ConfigError(
                    f"{name} must not be 0 on average, because the network sees it relative to its "
                    "mean; give a box with gas"
                )

    def _normalized(
        self, cubes: Mapping[str, Array], box: Box, statistics: Mapping[str, FieldStatistics]
    ) -> Fields:
        inputs = np.empty((self.config.n_channels, *box.mesh.shape), np.float32)
        place = {name: inputs[channel] for channel, name in enumerate(self.config.channel_names)}
        for name, cube in cubes.items():
            mean = statistics[name].mean
            place[name][...] = self.normalization.fields[name].apply(cube, mean)
            # Raw values are smoothed, then normalized like their parent: its mean is theirs.
            children = [one for one in self.config.derived_channels if one.parent == name]
            whole = PeriodicField(cube) if children else None
            for channel in children:
                assert whole is not None
                normalized = self.normalization.fields[channel.name]
                place[channel.name][...] = normalized.apply(channel.compute(whole, box), mean)
        if box.redshift is not None:
            self.fill_redshift(inputs, box.redshift)
        return inputs

    def fill_redshift(self, inputs: Fields, redshift: float) -> None:
        """Fill the last channel with the redshift, if the network sees it."""
        if self.config.redshift_input:
            inputs[-1] = redshift_value(redshift)

    def predict_block(
        self,
        block: Fields,
        *,
        tile: int = TILE_CELLS,
        on_cells: Callable[[int], None] = lambda done: None,
    ) -> NDArray[np.float32]:
        """Predict a block from its normalized inputs."""
        r = self.radius
        a, b, c = (length - 2 * r for length in block.shape[1:])
        if not self.network.has_dense_form:
            return self._predict_by_patches(block, (a, b, c), on_cells)
        out = np.empty((a, b, c), np.float32)
        dense, done = dense_form(self.network), 0  # shares the weights, so it costs nothing
        for start, shape in tiles_of((a, b, c), tile):
            i, j, k = (
                slice(first, first + length + 2 * r)
                for first, length in zip(start, shape, strict=True)
            )
            out[slices_of(start, shape)] = self._run(dense, block[None, :, i, j, k])[0, 0]
            done += prod(shape)
            on_cells(done)
        return out

    def seconds_per_cell(self, tile: int) -> float:
        """Return the seconds per cell, from the faster of two predictions of zeros."""
        if self.network.has_dense_form:
            return self._timed((tile, tile, tile))
        together = patches_at_once(self.network)
        few = min(_FEW_PATCHES, together)
        per_cell = self._timed((few, 1, 1))
        if few < together and per_cell * together <= _LONGEST_TIMING_S:
            per_cell = self._timed((together, 1, 1))  # a cell takes less time in a full set
        return per_cell

    def _timed(self, shape: Corner) -> float:
        """Return the seconds per cell of a block that is predicted at once."""
        widths = (length + 2 * self.radius for length in shape)
        zeros = np.zeros((self.network.channels, *widths), np.float32)
        seconds = []
        for _ in range(2):  # the first one may compile and allocate
            began = time.perf_counter()
            self.predict_block(zeros, tile=max(shape))
            seconds.append(time.perf_counter() - began)
        return min(seconds) / prod(shape)

    def _predict_by_patches(
        self, block: Fields, shape: Corner, on_cells: Callable[[int], None]
    ) -> NDArray[np.float32]:
        cells = Region((self.radius,) * 3, shape)
        # As many at once as the memory plan counts; a whole block of neighborhoods would not fit.
        out = np.empty(cells.n_cells, np.float32)
        n = patches_at_once(self.network)
        for first in range(0, cells.n_cells, n):
            centers = cells.cells(np.arange(first, min(first + n, cells.n_cells)))
            patches = gather_neighborhoods(block, centers, self.radius)
            out[first : first + len(centers)] = self._run(self.network, patches)
            on_cells(first + len(centers))
        return out.reshape(shape)

    def _run(self, network: nn.Module, inputs: Fields) -> NDArray[np.float32]:
        full_device = full_device_as_message(prediction_must_fit(self.device))
        with torch.inference_mode(), full_float32(), full_device:
            x = torch.from_numpy(np.ascontiguousarray(inputs)).to(self.device)
            predicted: NDArray[np.float32] = network(x).float().cpu().numpy()
        return predicted


def _is_number(value: object) -> bool:
    # True is a number to Python, but a mistake here.
    return isinstance(value, Real) and not isinstance(value, bool)


def check_numbers(predicted: NDArray[np.float32], where: str) -> None:
    """Raise ConfigError if a predicted value is not finite."""
    if not np.isfinite(predicted).all():
        raise ConfigError(
            f"the network must predict finite numbers, got others {where}; the fields are far from "
            "those of its training, or the training diverged"
        )


def load(run: str | os.PathLike[str] | RunFolder, *, device: str = "auto") -> Predictor:
    """Return the best network of a run, ready to predict.

    Parameters
    ----------
    run : path or RunFolder
        Folder of the run.
    device : {"auto", "cpu", "cuda", "mps"}
        Device to compute on.

    Raises
    ------
    RunFolderError
        If there is no checkpoint, or it is damaged.
    ConfigError
        If this machine has no such device, or the checkpoint has unknown keys.
    MemoryBudgetError
        If the device has no memory for the network.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder(Path(run))
    if folder.path.is_file():
        raise RunFolderError(
            f"{folder.path}: expected the folder of a run, got a file; give the folder that "
            f"holds {folder.best.name}"
        )
    if not folder.best.exists():
        raise RunFolderError(
            f"{folder.path}: expected a run with at least one finished epoch (best.pt), found "
            "none; train it first, or give another folder"
        )
    digest, size_bytes = start_digest(), 0

    # The digest is of the bytes that are loaded: a training may replace the file at any time.
    def take(piece: bytes) -> None:
        nonlocal size_bytes
        digest.update(piece)
        size_bytes += len(piece)

    checkpoint = load_checkpoint(folder.best, on_bytes=take)
    config = make_config(checkpoint["config"])
    where = choose_device(device)
    network = network_of(config)
    try:
        network.load_state_dict(checkpoint["model"])
        normalization = Normalization.from_dict(checkpoint["normalization"])
    except (KeyError, RuntimeError, TypeError) as error:
        raise RunFolderError(
            f"{folder.best}: expected the weights and the normalization of a network as its "
            "configuration describes it, got others; train again"
        ) from error
    with full_device_as_message(prediction_must_fit(where)):
        network = network.to(where)
    return Predictor(
        config,
        normalization,
        network.eval(),
        where,
        folder.best,
        size_bytes,
        in_words(digest),
        checkpoint.get("trained"),
    )
