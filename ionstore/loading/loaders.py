"""Loaders of neighborhoods and tiles for torch, cut on demand from decoded fields.

`NeighborhoodLoader` cuts the neighborhood of single cells, `TileLoader` tiles of cells with a halo,
for networks that predict many cells at once. Both share everything else.

The memory budget decides the mode, and ``loader.stats`` shows the result:

- *resident*: all fields that are needed fit ``memory_budget``. They are decoded once (4 bytes a
  cell, field and redshift), samples come in uniformly random order.
- *regions*: they do not fit. A few regions are open at a time, each a core of cells with a halo;
  ``samples_per_opening`` samples are taken from each before the next one, decoded in the
  background, takes its place. Every batch mixes samples of ``n_lanes`` regions; an epoch still
  visits every sample once, and decodes each cell ``stats.predicted_amplification`` times. A larger
  budget or more samples an opening lower it; fewer samples an opening mix regions faster. By
  default a dense epoch takes all samples of a region at once, 262,144 from a core of 64 cells: to
  train on a part of them, give ``samples_per_epoch``, or some thousands an opening.
- *on a device*: with ``device="cuda"`` the fields live in the memory of the GPU, and are cut there.
  The choice for training on a GPU that has room for them.

By default a background thread cuts the batches. Worker processes are worth it when one core cannot
cut as fast as the network trains.

The order depends on the seed, the epoch and the arguments that choose samples and regions
(centers, ``core``, ``samples_per_opening``, ``samples_per_epoch``, ``n_lanes``, ``shuffle``), not
on workers or ranks; with ``core`` given, neither on mode and budget. A position, one count of
batches, resumes it anywhere.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self, Unpack

import torch

from ionstore.cube.mesh import Mesh, Region
from ionstore.loading.batch_loader import BatchLoader, LoaderStats
from ionstore.sampling.regions import Reach
from ionstore.sampling.samples import Centers, centers_of_boxes, tile_starts, tiles_within
from ionstore.sampling.settings import SettingsOptions, whole_number
from ionstore.store.cube_store import StoreLike
from ionstore.store.normalization import Normalization


class LoaderOptions(SettingsOptions, total=False):
    """Keyword arguments of every loader."""

    inputs: Sequence[str]
    target: str
    redshifts: Sequence[float] | None
    normalization: Normalization | None
    memory_budget: int
    device: torch.device | str | None
    core: int | None
    n_lanes: int
    rank: int
    world: int
    ranks_here: int | None
    pin_memory: bool


__all__ = ["Batch", "LoaderStats", "NeighborhoodLoader", "TileBatch", "TileLoader"]


class _TensorBatch:
    """Length and move of both kinds of batches."""

    __slots__ = ()
    target: torch.Tensor

    def __len__(self) -> int:
        return len(self.target)

    def to(self, device: torch.device | str) -> Self:
        """Return the batch on a device."""
        # Only page-locked memory may be copied from while the loop goes on, as CUDA knows that it
        # is in use: a slot of the ring could be filled anew in the midst of the copy.
        parts = (getattr(self, part.name) for part in fields(self))  # type: ignore[arg-type]
        return type(self)(*(part.to(device, non_blocking=part.is_pinned()) for part in parts))


@dataclass(frozen=True, slots=True, eq=False)
class Batch(_TensorBatch):
    """A batch of neighborhoods, valid as long as it or any of its tensors is held.

    Parameters
    ----------
    inputs : tensor of float32, shape (B, C, width, width, width)
        Neighborhoods of the input fields, in their own units unless the loader normalizes them.
    target : tensor of float32, shape (B,)
        Target field at the centers.
    redshift : tensor of float64, shape (B,)
        Redshift of each sample's cube.
    centers : tensor of int64, shape (B, 3)
        Center cells (i, j, k).
    store_index : tensor of int64, shape (B,)
        Place of each sample's store among the loader's stores.
    """

    inputs: torch.Tensor
    target: torch.Tensor
    redshift: torch.Tensor
    centers: torch.Tensor
    store_index: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class TileBatch(_TensorBatch):
    """A batch of tiles, valid as long as it or any of its tensors is held.

    Parameters
    ----------
    inputs : tensor of float32, shape (B, C, width, width, width)
        Tiles of the input fields with their halos; ``width`` is ``tile + 2 * halo``.
    target : tensor of float32, shape (B, tile, tile, tile)
        Target field in the tiles.
    redshift : tensor of float64, shape (B,)
        Redshift of each sample's cube.
    starts : tensor of int64, shape (B, 3)
        First cell (i, j, k) of each tile, without its halo.
    store_index : tensor of int64, shape (B,)
        Place of each sample's store among the loader's stores.
    """

    inputs: torch.Tensor
    target: torch.Tensor
    redshift: torch.Tensor
    starts: torch.Tensor
    store_index: torch.Tensor


class NeighborhoodLoader(BatchLoader[Batch]):
    """Iterate over batches of periodic neighborhoods and the target at their centers.

    Iterating runs through what is left of the current epoch; iterating again starts the next one.
    There is one iteration at a time, by one thread: a new one ends the one before.
    An epoch visits every sample once, in an order of its own that the seed repeats.

    Parameters
    ----------
    store : path, CubeStore or sequence of them
        Stores to cut from.
    inputs : sequence of str
        Names of the input fields, the channels in this order.
    target : str
        Name of the target field.
    redshifts : sequence of float, optional
        Redshifts to use; all of every store by default.
    centers : Region or ndarray of int64, shape (n, 3), or one of them for each store, optional
        Center cells (a box of them is an `ionstore.cube.mesh.Region`), the same at every
        redshift; every cell by default. Cells off the mesh wrap. The budget does not count a list:
        24 bytes a center in this process and in each worker, in regions 28, and twice as much in
        this one while the loader is made.
    radius : int
        Neighborhood radius in cells; the width is ``2 * radius + 1``.
    batch_size : int
        Samples a batch, over all ranks; the last batch of an epoch can be smaller.
    seed : int
        Seed of order and symmetries.
    memory_budget : int
        Bound on decoded fields and batches, bytes, over all processes of this machine.
    num_workers : int
        Worker processes; 0 cuts in a background thread. In regions, workers need a processor of
        the x86 family.
    normalization : Normalization, optional
        Applied to the inputs while they are decoded.
    shuffle : bool
        Random order; otherwise cube after cube, center after center, within each region where
        the fields are not resident.
    samples_per_epoch : int, optional
        Visit only so many samples an epoch, others in each epoch when shuffled.
    symmetries : {"none", "permutations", "all"}
        Show each neighborhood under a symmetry of the cube, drawn anew each epoch: one of the six
        orders of its axes, or of all 48, with reversed axes too.
    core : int, optional
        Most cells along a side of the regions that samples come from together, rounded down to
        whole chunks (32 cells) where it holds one. By default samples come in uniformly random
        order if all fields fit the budget; if not, in regions whose core decodes the least of
        those that the budget allows after eight batches have been set aside, or half of it where
        they take more. It is the same for any number of workers and ranks; a larger one may fit
        when it is asked for.
    samples_per_opening : int, optional
        Samples taken from a region before the next one takes its place. All of them by default;
        of an epoch with ``samples_per_epoch``, a region's share of it, but at least 256.
    n_lanes : int
        Regions that every batch mixes.
    rank, world : int
        Take part ``rank`` of each batch, of ``world``, which must divide ``n_lanes``. Parts differ
        by one sample at most; of a batch of fewer samples than ranks, some are empty. Only for
        shuffled samples.
    ranks_here : int, optional
        Ranks on this machine, which divide the budget; ``world`` by default.
    device : torch.device or str, optional
        Keep all fields there and cut there, without workers and without ``pin_memory``; batches
        come as tensors on it. The budget then bounds the fields alone.
    pin_memory : bool
        Hand out batches as copies in page-locked memory, which CUDA copies from in the background
        (`Batch.to`); they are not counted in the budget. The thread that iterates makes these
        copies. Needs a CUDA device.

    Raises
    ------
    TypeError
        If there is no such option.
    ValueError
        If an argument is of the wrong kind or out of range, or a store lacks a field or is too
        small for the radius.
    NotInStoreError
        If a store does not hold a redshift.
    StoreFormatError
        If a path is not a complete store, or a field is not stored as its format says.
    StoreDamageError
        If a field cannot be decoded: when the loader is made if all fields are decoded then,
        while it is iterated in regions.
    MemoryBudgetError
        If fields and batches do not fit the budget, or the system or the device lacks the memory.

    Notes
    -----
    Iterating raises RuntimeError if a worker process has ended, another thread iterates, or the
    iteration was ended by that of a `sibling` or by setting `position`; the loader can be iterated
    again then.

    Examples
    --------
    Training in four lines::

        with NeighborhoodLoader("cubes.zarr", radius=4, batch_size=256) as loader:
            for epoch in range(3):
                for batch in loader:
                    loss = criterion(network(batch.inputs), batch.target)
    """

    def __init__(
        self,
        store: StoreLike | Sequence[StoreLike],
        *,
        radius: int,
        batch_size: int,
        centers: Centers | Sequence[Centers] | None = None,
        **options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__(
            store,
            lambda meshes: centers_of_boxes(meshes, centers),
            Reach(whole_number("radius", radius, 0)),
            batch_size,
            **options,
        )

    def sibling(
        self,
        centers: Centers | Sequence[Centers] | None,
        **changes: Unpack[SettingsOptions],
    ) -> Self:
        """Return a loader over other centers that shares this one's decoded fields and budget.

        Where the fields are not resident, the two take turns: an iteration of one ends that of the
        other, which raises RuntimeError when it is asked for more. Its batches come out of what
        other loaders of the budget leave; they go back to it when the sibling is gone, not when it
        is closed.

        Parameters
        ----------
        centers : Region, ndarray of int64, shape (n, 3), or one of them for each store
            Its center cells.
        **changes
            Any of ``seed``, ``num_workers``, ``shuffle``, ``samples_per_epoch``, ``symmetries``,
            ``samples_per_opening``. ``core`` stays, but where regions of these centers would be
            larger than those of this loader's, theirs have smaller cores.

        Raises
        ------
        TypeError
            If there is no such option.
        ValueError
            If an argument is of the wrong kind or out of range.
        MemoryBudgetError
            If its batches do not fit what is left of the budget, or even the smallest regions of
            its centers are larger than those of this loader.
        """
        return self._sibling(lambda meshes: centers_of_boxes(meshes, centers), changes)

    def _batch(self, tensors: list[torch.Tensor]) -> Batch:
        return Batch(*tensors)


class TileLoader(BatchLoader[TileBatch]):
    """Iterate over batches of periodic tiles with a halo, and the target in the tiles.

    For networks that predict a block of cells at once. Everything else is as in
    `NeighborhoodLoader`; a neighborhood is a tile of one cell.

    Parameters
    ----------
    store : path, CubeStore or sequence of them
        Stores to cut from.
    tile : int
        Cells along a side of a tile.
    halo : int
        Cells around a tile that come with its inputs. A tile that is wider than the mesh with its
        halo repeats cells.
    batch_size : int
        Tiles a batch, over all ranks.
    starts : Region or ndarray of int64, shape (n, 3), or one of them for each store, optional
        First cells of the tiles, or a region that tiles are to cover; all of the mesh by default.
        Where tiles do not divide a region, the last ones overlap those before. They take memory
        as lists of centers do.
    anywhere : bool
        Take every tile that lies in a region, wherever it starts, instead of those that cover it
        once: with ``samples_per_epoch``, each epoch sees others. They take no memory.
    **options
        As in `NeighborhoodLoader`.

    Raises
    ------
    ValueError
        If a tile does not fit its region, or as `NeighborhoodLoader`.
    TypeError, NotInStoreError, StoreFormatError, StoreDamageError, MemoryBudgetError
        As `NeighborhoodLoader`.
    """

    _HALO_NAME = "halo"

    def __init__(
        self,
        store: StoreLike | Sequence[StoreLike],
        *,
        tile: int,
        halo: int,
        batch_size: int,
        starts: Centers | Sequence[Centers] | None = None,
        anywhere: bool = False,
        **options: Unpack[LoaderOptions],
    ) -> None:
        self._tile = whole_number("tile", tile, 1)
        super().__init__(
            store,
            lambda meshes: _tiles_of_boxes(meshes, starts, self._tile, anywhere),
            Reach(whole_number("halo", halo, 0), self._tile),
            batch_size,
            **options,
        )

    def sibling(
        self,
        starts: Centers | Sequence[Centers] | None,
        *,
        tile: int | None = None,
        anywhere: bool = False,
        **changes: Unpack[SettingsOptions],
    ) -> Self:
        """Return a loader over other tiles, as `NeighborhoodLoader.sibling`.

        Parameters
        ----------
        starts, anywhere
            Its tiles.
        tile : int, optional
            Cells along their sides, at most those of this loader's, which is the default.
        **changes
            As in `NeighborhoodLoader.sibling`.

        Raises
        ------
        TypeError, ValueError, MemoryBudgetError
            As `NeighborhoodLoader.sibling`, or if the tile is larger.
        """
        other = copy.copy(self)
        if tile is not None:
            other._tile = whole_number("tile", tile, 1)
            # The decoded blocks reach as far as this loader's tiles.
            if other._tile > self._tile:
                raise ValueError(
                    f"tile of a sibling must be at most {self._tile}, its loader's, got {tile}"
                )
            other._reach = replace(self._reach, tile=other._tile)
        return other._sibling(
            lambda meshes: _tiles_of_boxes(meshes, starts, other._tile, anywhere), changes
        )

    def _batch(self, tensors: list[torch.Tensor]) -> TileBatch:
        inputs, target, redshift, starts, store_index = tensors
        cubes = target.reshape(-1, *(self._tile,) * 3)
        return TileBatch(inputs, cubes, redshift, starts, store_index)


def _tiles_of_boxes(
    meshes: Sequence[Mesh],
    starts: Centers | Sequence[Centers] | None,
    tile: int,
    anywhere: bool,
) -> list[Centers]:
    cut = tiles_within if anywhere else tile_starts
    return [
        cut(cells, tile) if isinstance(cells, Region) else cells
        for cells in centers_of_boxes(meshes, starts, name="starts")
    ]
