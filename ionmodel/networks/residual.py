"""Convolutions without padding, with residual connections, for tiles or neighborhoods."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from ionmodel.networks.base import DenseNetwork


class Residual(DenseNetwork):
    """A chain of 3³ convolutions without padding, each added to what it started from.

    There is no normalization, so no statistics of a batch couple its tiles: tile and neighborhood
    give the same numbers in training, too. Training takes about
    ``8 * batch * width * (tile + 2 * radius)**3`` bytes for each convolution.

    References
    ----------
    He et al. 2016, Deep residual learning for image recognition, section 3.1 (the connections).
    Zhang, Dauphin, Ma 2019, Fixup initialization, section 2 (the zeros).

    Examples
    --------
    >>> import torch
    >>> network = Residual(4, width=16)
    >>> network.receptive_field
    9
    >>> network(torch.zeros(5, 2, 9, 9, 9)).shape, network(torch.zeros(5, 2, 12, 12, 12)).shape
    (torch.Size([5, 1, 1, 1]), torch.Size([5, 4, 4, 4]))
    """

    def __init__(
        self,
        radius: int,
        *,
        channels: int = 2,
        width: int = 32,  # channels between the convolutions
        dilations: Sequence[int] | None = None,  # their sum is the radius
        head_widths: Sequence[int] = (32,),  # of the layers that see single cells; may be empty
        negative_slope: float = 0.01,  # of LeakyReLU below 0
        final_activation: bool = True,  # predict the sigmoid of the logits
    ) -> None:
        if radius < 0:
            raise ValueError(f"radius must be at least 0, got {radius}")
        super().__init__(
            receptive_field=2 * radius + 1, channels=channels, final_activation=final_activation
        )
        steps = tuple(dilations) if dilations is not None else dilations_of(radius)
        if sum(steps) != radius or any(step < 1 for step in steps):
            raise ValueError(
                f"dilations must be positive and add up to radius {radius}, got {list(steps)}"
            )
        if width < 1 or any(features < 1 for features in head_widths):
            raise ValueError(
                f"width and head_widths must be positive, got {width} and {list(head_widths)}"
            )
        self.negative_slope = negative_slope
        self.dilations = steps or (0,)
        first, *others = self.dilations
        self.stem = nn.Conv3d(channels, width, 3 if first else 1, dilation=max(first, 1))
        self.layers = nn.ModuleList(nn.Conv3d(width, width, 3, dilation=step) for step in others)
        features = [width, *head_widths]
        self.head = nn.ModuleList(
            nn.Conv3d(n_in, n_out, 1)
            for n_in, n_out in zip(features, [*head_widths, 1], strict=True)
        )
        self._initialize()

    def _initialize(self) -> None:
        # Zeros in the added layers: an untrained network is as shallow as its first layer.
        for name, weights in self.named_parameters():
            if name.endswith("bias") or name.startswith("layers"):
                nn.init.zeros_(weights)
            else:
                nn.init.kaiming_normal_(weights, self.negative_slope)

    def _logits(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for step, convolution in zip(self.dilations[1:], self.layers, strict=True):
            inner = slice(step, -step)
            # The shortcut is cropped, because padding would make up cells outside the tile.
            x = x[:, :, inner, inner, inner] + convolution(self._activate(x))
        for linear in self.head:
            x = linear(self._activate(x))
        return x.squeeze(1)

    def _activate(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(x, self.negative_slope)


def dilations_of(radius: int) -> tuple[int, ...]:
    """Return the fewest dilations that add up to a radius and see every cell, sorted.

    Examples
    --------
    >>> [dilations_of(radius) for radius in (0, 1, 4, 7, 13, 24)]
    [(), (1,), (1, 3), (1, 3, 3), (1, 3, 9), (1, 3, 9, 11)]
    """
    steps: list[int] = []
    left = radius
    while left > 0:
        # At most one above twice the sum of those before; a larger step would skip cells.
        steps.append(min(left, 2 * sum(steps) + 1))
        left -= steps[-1]
    return tuple(sorted(steps))
