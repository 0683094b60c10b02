"""Branches of pooled convolutions, one for each input field."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from ionmodel.networks.base import SlidingPooling
from ionmodel.networks.recompute import SLICE_BYTES, recomputed_block


class ConvolutionBlock(nn.Module):
    """Convolution, batch normalization, activation and pooling by two."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        kernel: int,
        padding: bool,
        bias: bool,
        negative_slope: float,
        recompute: bool,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(n_in, n_out, kernel, padding=kernel // 2 if padding else 0, bias=bias)
        self.norm = nn.BatchNorm3d(n_out)
        self.tail = nn.Sequential(nn.LeakyReLU(negative_slope), nn.AvgPool3d(2))
        self.recompute = recompute
        self.slice_bytes = SLICE_BYTES

    def over_tiles(self, x: Tensor, spacing: int) -> Tensor:
        """Do the same around every cell, with the cells of a patch `spacing` cells apart."""
        activation, _ = self.tail
        x = functional.conv3d(x, self.conv.weight, self.conv.bias, dilation=spacing)
        pooling = SlidingPooling((2, 2, 2), (spacing, spacing, spacing), divisor=8)
        out: Tensor = pooling(activation(self.norm(x)))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, n_in, width, width, width) to (batch, n_out, and half the width)."""
        if self.recompute:  # keeps only its input for the backward pass, for the same numbers
            return recomputed_block(
                x, self.conv, self.norm, self.tail, slice_bytes=self.slice_bytes
            )
        out: Tensor = self.tail(self.norm(self.conv(x)))
        return out


class FieldBranches(nn.ModuleList):
    """Pass each field through a branch of its own, or all through the same one."""

    def __init__(self, channels: int, branches: Iterable[nn.Module]) -> None:
        super().__init__(branches)
        self.channels = channels

    def branch_of(self, channel: int) -> nn.Module:
        """Return the branch that reads a field."""
        return self[channel % len(self)]  # all fields share it where there is only one

    def blocks_of(self, channel: int) -> Iterator[ConvolutionBlock]:
        """Yield the blocks of that branch."""
        for block in self.branch_of(channel).children():
            assert isinstance(block, ConvolutionBlock)
            yield block

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the features of all fields of (batch, channels, i, j, k)."""
        return torch.cat([self.branch_of(c)(x[:, c : c + 1]) for c in range(self.channels)], dim=1)
