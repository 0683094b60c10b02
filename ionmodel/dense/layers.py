"""Layers of dense forms, which see the neighbors of every cell at the patch network's spacing."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ionmodel.networks.base import Cells3, DenseNetwork

BatchNorm = nn.BatchNorm1d | nn.BatchNorm3d


class DilatedConvolution(nn.Module):
    """A convolution of stride 1 with the weights of a Conv3d or Linear."""

    def __init__(
        self, layer: nn.Conv3d | nn.Linear, shape: tuple[int, ...], dilation: Cells3, groups: int
    ) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.shape, self.dilation, self.groups = shape, dilation, groups

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, features, i, j, k) to the same axes."""
        # Reshaped at each call: a copy would not follow the weights while the network trains.
        weight = self.weight.reshape(self.shape)  # of a Linear: (out, channel * width**3)
        return functional.conv3d(x, weight, self.bias, dilation=self.dilation, groups=self.groups)


class FixedBatchNorm(nn.Module):
    """Batch normalization by running statistics, in any mode."""

    mean: Tensor
    variance: Tensor

    def __init__(self, layer: BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        # The network's own tensors, so that statistics updated by training apply here, too.
        self.register_buffer("mean", layer.running_mean)
        self.register_buffer("variance", layer.running_var)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, features, i, j, k) to the same axes."""
        return functional.batch_norm(
            x, self.mean, self.variance, self.weight, self.bias, training=False, eps=self.eps
        )


class Unfold(nn.Module):
    """All features of a patch in each cell, in the order of Flatten."""

    def __init__(self, width: Cells3, spacing: Cells3) -> None:
        super().__init__()
        self.width, self.spacing = width, spacing

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, features, i, j, k) to the same axes."""
        for axis, width, spacing in zip((2, 3, 4), self.width, self.spacing, strict=True):
            x = x.unfold(axis, (width - 1) * spacing + 1, 1)[..., ::spacing]
        # Channels first, then places, in the order of the weights of a Linear after Flatten.
        x = x.permute(0, 1, 5, 6, 7, 2, 3, 4)  # (batch, channel, places in the patch, i, j, k)
        return x.flatten(1, 4)


class DenseBranches(nn.Module):
    """One branch for each channel, with concatenated outputs."""

    def __init__(self, branches: Iterable[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, features, i, j, k) to the same axes."""
        return torch.cat([branch(x[:, c : c + 1]) for c, branch in enumerate(self.branches)], dim=1)


class WithOutputAxis(nn.Module):
    """A network that accepts tiles already, with an axis for its one output."""

    def __init__(self, network: DenseNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, features, i, j, k) to the same axes."""
        return self.network.logits(x).unsqueeze(1)


def triple(cells: Any) -> Cells3:
    """Return a layer's setting for each axis; a single number counts for all."""
    return (cells, cells, cells) if isinstance(cells, int) else cells3(cells)


def cells3(values: Iterable[int]) -> Cells3:
    """Return three numbers as a tuple."""
    i, j, k = values
    return i, j, k
