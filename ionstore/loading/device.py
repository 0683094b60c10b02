"""Decode coeval cubes once into the memory of a torch device, and cut there."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ionstore.errors import MemoryBudgetError
from ionstore.loading.cubes import CubeToDecode
from ionstore.sampling.batches import Picked
from ionstore.sampling.regions import Reach
from ionstore.sampling.symmetry import PERMUTATIONS


def available_device(device: torch.device | str) -> torch.device:
    """Return a device by its name; refuse one that torch does not have here."""
    try:
        wanted = torch.device(device)
        torch.empty(0, device=wanted)  # a name alone does not tell whether there is such a device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device must be one that torch has here, got {str(device)!r} ({error}); leave it out "
            "to cut on the CPU"
        ) from error
    return wanted


class DeviceFields:
    """Input and target fields of several cubes, whole, on a device."""

    def __init__(self, cubes: Sequence[CubeToDecode], device: torch.device) -> None:
        self._device = device
        try:
            self._cubes = [_decoded(cube, device) for cube in cubes]
        except torch.OutOfMemoryError as error:
            raise MemoryBudgetError(
                f"device {device} has not enough memory for the fields ({error}); leave device "
                "out, or choose fewer redshifts"
            ) from error

    def cut(self, picked: Picked, mesh_cells: NDArray[np.int64], reach: Reach) -> list[Tensor]:
        """Return inputs and targets of samples, float32 of shape (n, channel, width, ...)."""
        n_channels = len(self._cubes[0]) - 1
        parts = ((slice(0, n_channels), reach.radius), (slice(n_channels, None), 0))
        cuts = []
        for channels, halo in parts:
            n = len(picked.row)
            n_fields = len(range(*channels.indices(n_channels + 1)))
            width = reach.tile + 2 * halo
            out = torch.empty((n, n_fields, width, width, width), device=self._device)
            # Cube by cube: one array of indices then serves all channels.
            for index in np.unique(picked.cube).tolist():
                here = np.flatnonzero(picked.cube == index)
                first = (picked.cells[here] - halo) % mesh_cells[index]
                corner, symmetry, rows = (
                    torch.from_numpy(values).to(self._device)
                    for values in (first, picked.symmetry[here], picked.row[here])
                )
                flat = _flat_indices(corner, symmetry, int(mesh_cells[index]), width)
                fields = self._cubes[index][channels].flatten(1)
                for channel, field in enumerate(fields):
                    out[rows, channel] = field[flat]
            cuts.append(out)
        return cuts


def _decoded(cube: CubeToDecode, device: torch.device) -> Tensor:
    n = cube.mesh_cells
    fields = (*cube.inputs, cube.target)
    out = torch.empty((len(fields), n, n, n), device=device)
    # One field at a time through the host, which need not hold whole cubes.
    staging = np.empty((n, n, n), dtype=np.float32)
    for kept, field in zip(out, fields, strict=True):
        field.store.read_into(
            field.name, field.redshift, (0, 0, 0), staging, conversion=field.conversion
        )
        kept.copy_(torch.from_numpy(staging))
    return out


def _flat_indices(first: Tensor, symmetry: Tensor, mesh_cells: int, width: int) -> Tensor:
    """Return the cells of each cut in the C order of the mesh, shape (n, width, width, width)."""
    device = first.device
    steps = torch.arange(width, device=device)
    along = (first[:, :, None] + steps) % mesh_cells  # (n, axis of the box, width)
    strides = torch.tensor([mesh_cells**2, mesh_cells, 1], device=device)
    # An offset for each axis, which symmetries permute and reverse, then their sums: two small
    # steps in place of one over every cell.
    offsets = along * strides[:, None]
    axes = torch.from_numpy(PERMUTATIONS).to(device)[symmetry // 8]
    offsets = offsets.gather(1, axes[:, :, None].expand(-1, -1, width))  # axes of the image
    reverse = (symmetry[:, None] & torch.tensor([4, 2, 1], device=device)) != 0
    i, j, k = torch.where(reverse[:, :, None], offsets.flip(2), offsets).unbind(1)
    return i[:, :, None, None] + j[:, None, :, None] + k[:, None, None, :]
