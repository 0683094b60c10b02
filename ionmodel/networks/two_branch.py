"""The 2021 network: one convolutional branch for each input field, one head for all."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from ionmodel.networks.base import PatchNetwork
from ionmodel.networks.branches import ConvolutionBlock, FieldBranches


class HeadOptions(TypedDict, total=False):
    """Keyword arguments of `TwoBranch` that concern its head."""

    feature_dropout: float
    head_dropout_widths: Sequence[int]
    head_dropout: float
    head_widths: Sequence[int]


@dataclass(frozen=True, slots=True)
class Head:
    """Fully connected layers after the branches; the last one has width 1."""

    feature_dropout: float = 0.8  # share of features dropped before the head
    head_dropout_widths: Sequence[int] = (256, 128, 64, 32, 16)  # may be empty
    head_dropout: float = 0.5  # share dropped after each of these layers
    head_widths: Sequence[int] = (8, 4)  # of the next layers, without dropout; may be empty

    def __post_init__(self) -> None:
        _check_widths("head_dropout_widths", self.head_dropout_widths)
        _check_widths("head_widths", self.head_widths)
        _check_share("feature_dropout", self.feature_dropout)
        _check_share("head_dropout", self.head_dropout)

    def layers(self, n_features: int, negative_slope: float) -> Iterator[nn.Module]:
        """Yield the layers, from the features of a neighborhood to its logit."""
        yield nn.Dropout(self.feature_dropout)
        n_in = n_features
        for n_out in self.head_dropout_widths:
            yield nn.Linear(n_in, n_out)
            # Either order is the same: dropout scales by no negative number, and LeakyReLU is
            # positively homogeneous.
            yield nn.Dropout(self.head_dropout)
            yield nn.LeakyReLU(negative_slope)
            n_in = n_out
        for n_out in self.head_widths:
            yield nn.Linear(n_in, n_out)
            yield nn.LeakyReLU(negative_slope)
            n_in = n_out
        yield nn.Linear(n_in, 1)


class TwoBranch(PatchNetwork):
    """A branch of pooled convolutions for each field, then a fully connected head.

    The defaults with radius 24 are the course project's system of December 2021, 49 → 24 → 12 →
    6 cells and ``2 * 128 * 6**3`` features. It did not state the slope (torch's default is taken)
    or the activations between the last three linear layers (LeakyReLU here).

    Without recomputation, training keeps about ``3.5 * 4 * batch * channels * block_channels[0] *
    width**3`` bytes of activations.

    References
    ----------
    Ioffe, Szegedy 2015, Batch normalization, section 3.2 (the redundant bias).

    Examples
    --------
    >>> import torch
    >>> network = TwoBranch(4, block_channels=(16, 32), kernel=3)
    >>> network.receptive_field, network.n_features
    (9, 512)
    >>> network(torch.zeros(5, 2, 9, 9, 9)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        radius: int,
        *,
        channels: int = 2,
        block_channels: Sequence[int] = (128, 128, 128),
        kernel: int = 5,  # cells, odd
        padding: bool = True,  # with zeros, so that the width stays
        # Batch normalization subtracts this bias again, so only its running mean changes. Its
        # gradient is zero but for rounding, which Adam scales up to steps of the learning rate.
        conv_bias: bool = True,
        # The running statistics then follow all fields, each one a batch of its own.
        shared_branches: bool = False,
        negative_slope: float = 0.01,  # of LeakyReLU below 0
        final_activation: bool = True,  # predict the sigmoid of the last layer
        recompute: bool = False,  # less memory in training, for the same numbers
        **head: Unpack[HeadOptions],
    ) -> None:
        if radius < 0:
            raise ValueError(f"radius must be at least 0, got {radius}")
        width = 2 * radius + 1
        super().__init__(
            receptive_field=width, channels=channels, final_activation=final_activation
        )
        _check_widths("block_channels", block_channels, minimum=1)
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and positive, got {kernel}")
        _check_room(radius, len(block_channels), kernel, padding=padding)
        # With padding, border cells of a neighborhood see zeros that the box does not have.
        self.has_dense_form = not padding
        pooled = width
        for _ in block_channels:
            # Pooling drops the last layer of cells of an odd width.
            pooled = (pooled if padding else pooled - kernel + 1) // 2

        def block(n_in: int, n_out: int) -> ConvolutionBlock:
            return ConvolutionBlock(
                n_in,
                n_out,
                kernel=kernel,
                padding=padding,
                bias=conv_bias,
                negative_slope=negative_slope,
                recompute=recompute,
            )

        def branch() -> nn.Sequential:
            inputs = (1, *block_channels[:-1])
            return nn.Sequential(*map(block, inputs, block_channels))

        self.pooled = pooled
        self.n_beside = channels * block_channels[-1]  # features of all fields in a pooled cell
        self.n_features = self.n_beside * pooled**3  # values that enter the head
        n_branches = 1 if shared_branches else channels
        self.branches = FieldBranches(channels, (branch() for _ in range(n_branches)))
        self.head = nn.Sequential(*Head(**head).layers(self.n_features, negative_slope))

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of the central cells; without padding, also those of whole tiles."""
        widths = x.shape[2:]
        fits = x.ndim == 5 and x.shape[1] == self.channels and min(widths) >= self.receptive_field
        if self.has_dense_form and fits and max(widths) > self.receptive_field:
            return self._logits_of_tiles(x)
        return super().logits(x)

    def _logits(self, x: Tensor) -> Tensor:
        z: Tensor = self.head(self.branches(x).flatten(1))
        return z.squeeze(1)  # (batch, 1) → (batch,)

    def _logits_of_tiles(self, x: Tensor) -> Tensor:
        # `ionmodel.dense.rules` cannot serve here: they drop dropout and fix the statistics, which
        # only prediction may. In evaluation both give the same numbers, by test.
        # Each pooling keeps all cells, and what follows looks at every second one of those before.
        spacing, reach = 1, 1  # in cells of the tile; `reach` is the width that is used
        for block in self.branches.blocks_of(0):
            reach += block.conv.kernel_size[0] * spacing  # less one cell, and one of the pooling
            spacing *= 2
        reach += (self.pooled - 1) * spacing
        # Pooling drops the last cells of a patch at odd widths, so they are cut off the tile, too.
        for axis in (2, 3, 4):
            x = x.narrow(axis, 0, x.shape[axis] - (self.receptive_field - reach))
        fields = (
            self._features_of_tiles(channel, x[:, channel : channel + 1])
            for channel in range(self.channels)
        )
        dropout, first, *others = self.head
        z: Tensor = dropout(torch.cat(list(fields), dim=1))
        assert isinstance(first, nn.Linear)
        # A linear layer on all cells that are left of a patch is a convolution of that width.
        cubes = first.weight.reshape(first.out_features, -1, *3 * (self.pooled,))
        z = functional.conv3d(z, cubes, first.bias, dilation=spacing)
        for layer in others:
            if isinstance(layer, nn.Linear):
                z = functional.conv3d(z, layer.weight[..., None, None, None], layer.bias)
            else:
                z = layer(z)
        return z.squeeze(1)

    def _features_of_tiles(self, channel: int, x: Tensor) -> Tensor:
        spacing = 1
        for block in self.branches.blocks_of(channel):
            x = block.over_tiles(x, spacing)
            spacing *= 2
        return x


def _check_room(radius: int, n_blocks: int, kernel: int, *, padding: bool) -> None:
    """Refuse a neighborhood that is too narrow for so many blocks."""
    trimmed = 0 if padding else kernel - 1
    least = _least_radius(n_blocks, trimmed)
    if radius < least:
        first = "" if padding else f"take {trimmed} cells off the width and "
        remedy = "" if padding else " or a narrower kernel"
        raise ValueError(
            f"radius must be at least {least} for {n_blocks} blocks that each {first}halve "
            f"{'the width' if padding else 'it'}, got {radius}; use fewer blocks{remedy}"
        )


def _least_radius(n_blocks: int, trimmed: int) -> int:
    # Backwards from the one cell that the last block must leave.
    width = 1
    for _ in range(n_blocks):
        width = 2 * width + trimmed
    return width // 2  # rounds an even width up to the next odd one


def _check_widths(name: str, widths: Sequence[int], *, minimum: int = 0) -> None:
    if len(widths) < minimum or any(width < 1 for width in widths):
        raise ValueError(f"{name} must be at least {minimum} positive numbers, got {tuple(widths)}")


def _check_share(name: str, share: float) -> None:
    if not 0 <= share < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {share}")
