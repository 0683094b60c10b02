"""The contract of networks, building one by name, and counting its operations."""

import copy
import importlib
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from ionmodel.networks import NETWORKS

Cells3 = tuple[int, int, int]
"""Cells along the three axes."""


class SlidingPooling(nn.Module):
    """Mean (sum over a divisor) or, without a divisor, maximum over windows at every cell."""

    def __init__(self, kernel: Cells3, dilation: Cells3, divisor: int | None) -> None:
        super().__init__()
        self.kernel, self.dilation, self.divisor = kernel, dilation, divisor

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, features, i, j, k) to the same axes, shorter by the window."""
        # Separable, axis by axis over shifted views: several times faster than AvgPool3d, MaxPool3d
        # or a depthwise convolution, at stride 1.
        combine = torch.maximum if self.divisor is None else torch.add
        for axis, kernel, dilation in zip((2, 3, 4), self.kernel, self.dilation, strict=True):
            length = x.shape[axis] - (kernel - 1) * dilation
            out = x.narrow(axis, 0, length)
            for cell in range(1, kernel):
                out = combine(out, x.narrow(axis, cell * dilation, length))
            x = out
        return x if self.divisor is None else x / self.divisor


class PatchNetwork(nn.Module, ABC):
    """A network that predicts xHII of a cell from the neighborhood around it.

    A family derives from this class, computes `_logits`, and sets `has_dense_form`.

    Parameters
    ----------
    receptive_field : int
        Input width in cells that one output value depends on, odd, at least 1.
    channels : int
        Input channels expected, at least 1.
    final_activation : bool
        Predict the sigmoid of the logits, or the logits themselves.

    Attributes
    ----------
    has_dense_form : bool
        True if the same weights, as valid convolutions, predict a whole tile exactly.

    Raises
    ------
    ValueError
        If `receptive_field` is even or not positive, or `channels` is not positive.
    """

    has_dense_form: bool = False

    def __init__(self, *, receptive_field: int, channels: int, final_activation: bool) -> None:
        super().__init__()
        if receptive_field < 1 or receptive_field % 2 == 0:
            raise ValueError(f"receptive_field must be odd and positive, got {receptive_field}")
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        self.receptive_field = receptive_field
        self.channels = channels
        self.final_activation = final_activation

    def forward(self, x: Tensor, *, activate: bool = True) -> Tensor:
        """Predict xHII of the central cells.

        Parameters
        ----------
        x : Tensor of float32, shape (batch, channels, width, width, width)
            Normalized neighborhoods; the width is `receptive_field`.
        activate : bool
            False returns the logits. A loss on logits gets them by calling the network, because
            wrappers such as DistributedDataParallel act on calls alone.

        Returns
        -------
        Tensor of float32, shape (batch,); of tiles (batch, T, T, T)
            Between 0 and 1 when `final_activation` is on; any real number otherwise.

        Raises
        ------
        ValueError
            If `x` has another shape.
        """
        z = self.logits(x)
        return torch.sigmoid(z) if activate and self.final_activation else z

    def logits(self, x: Tensor) -> Tensor:
        """Return the values before the final activation; arguments as in `forward`."""
        expected = (self.channels, *3 * (self.receptive_field,))
        if tuple(x.shape[1:]) != expected:
            raise ValueError(
                f"x must have shape (batch, {', '.join(map(str, expected))}), got {tuple(x.shape)}"
            )
        return self._logits(x)

    @abstractmethod
    def _logits(self, x: Tensor) -> Tensor:
        """Map valid neighborhoods to logits of shape (batch,)."""


class DenseNetwork(PatchNetwork, ABC):
    """A network that predicts xHII of all cells of a tile at once, from the tile and its halo.

    Every cell is predicted from its own neighborhood alone, so a tile of T cells a side gives the
    same numbers as the T³ neighborhoods around its cells, at the cost of a few of them. Parameters
    and attributes are those of `PatchNetwork`.
    """

    has_dense_form = True

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of all cells of a tile.

        Parameters
        ----------
        x : Tensor of float32, shape (batch, channels, width, width, width)
            Normalized tiles with a halo of half the receptive field around them; the width is
            ``T + receptive_field - 1``.

        Returns
        -------
        Tensor of float32, shape (batch, T, T, T)
            T is 1 for a neighborhood.

        Raises
        ------
        ValueError
            If `x` has another number of channels, or is narrower than the receptive field.
        """
        widths = tuple(x.shape[2:])
        if x.ndim != 5 or x.shape[1] != self.channels or min(widths) < self.receptive_field:
            raise ValueError(
                f"x must have shape (batch, {self.channels}, width, width, width), its width at "
                f"least {self.receptive_field}, got {tuple(x.shape)}"
            )
        return self._logits(x)


def build_network(
    name: str, *, radius: int, channels: int, seed: int, **options: Any
) -> PatchNetwork:
    """Build a network in float32 on the CPU, with weights that depend on the seed alone."""
    if name not in NETWORKS:
        raise ValueError(f"name must be one of {', '.join(sorted(NETWORKS))}, got {name!r}")
    module, _, attribute = NETWORKS[name].partition(":")
    family = getattr(importlib.import_module(module), attribute)
    # Forked, because building a network must not change the random state of the caller.
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also reseed accelerators, which are not forked.
        torch.default_generator.manual_seed(seed)
        network = family(radius, channels=channels, **options)
    assert isinstance(network, PatchNetwork)
    return network


def flops_per_sample(network: PatchNetwork, tile: int = 1) -> int:
    """Count the operations of convolutions and linear layers in a forward pass of one sample."""
    # Two for each multiply-add. On the meta device, where nothing is computed.
    from torch.utils.flop_counter import FlopCounterMode

    shadow = copy.deepcopy(network).to("meta").eval()
    width = network.receptive_field + tile - 1
    x = torch.empty((1, network.channels, width, width, width), device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow.logits(x)
    return int(counter.get_total_flops())
