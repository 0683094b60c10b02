"""The 2021 network: one convolutional branch for each input field, one head for all."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ionmodel.networks.base import PatchNetwork
from ionmodel.networks.recompute import SLICE_BYTES, recomputed_block


class TwoBranch(PatchNetwork):
    """A branch of pooled convolutions for each field, then a fully connected head.

    Parameters
    ----------
    radius : int
        Neighborhood radius in cells, at least 0; wide enough for one halving per block.
    channels : int
        Input fields, at least 1, each with a branch.
    block_channels : sequence of int
        Channels of the blocks of a branch, at least one block.
    kernel : int
        Kernel width of all convolutions in cells, odd.
    conv_bias : bool
        Whether convolutions add a bias. Batch normalization follows directly and subtracts it
        again, so it changes the running mean and nothing else. Its gradient is zero but for
        rounding, which Adam scales up to steps of the learning rate.
    shared_branches : bool
        Whether all fields pass through the same weights. The running statistics then follow
        all fields, each one a batch of its own.
    feature_dropout : float
        Share of features dropped before the head, 0 to below 1.
    head_dropout_widths : sequence of int
        Widths of the linear layers followed by dropout and LeakyReLU; may be empty.
    head_dropout : float
        Share dropped after each of them, 0 to below 1.
    head_widths : sequence of int
        Widths of the linear layers after them, followed by LeakyReLU; may be empty. A last
        linear layer of width 1 follows.
    negative_slope : float
        Slope of every LeakyReLU below 0, dimensionless.
    final_activation : bool
        Whether the prediction is the sigmoid of the last layer.
    recompute : bool
        Compute the blocks again in the backward pass, with one slice's memory for each but one
        convolution output (`ionmodel.networks.recompute`). Weights and results are the same.

    Attributes
    ----------
    n_features : int
        Values that enter the head.

    Raises
    ------
    ValueError
        If a value is outside its range, or the neighborhood too narrow for the blocks.

    Notes
    -----
    A block is Conv3d (zero padding, so that the width stays) → BatchNorm3d → LeakyReLU →
    AvgPool3d(2), which drops the last layer of cells of an odd width. Because of the padding
    there is no exact dense form: border cells of a neighborhood see zeros that the box
    does not have.

    The defaults with radius 24 are the course project's system of December 2021, 49 → 24 → 12 →
    6 cells and ``2 * 128 * 6**3`` features, except that it says nothing on the slope (torch's
    default is taken) nor on activations between the last three linear layers (LeakyReLU here).
    Dropout scales by a number that is not negative and LeakyReLU is positively homogeneous,
    so their order does not matter.

    Without recomputation, training keeps about ``3.5 * 4 * batch * channels *
    block_channels[0] * width**3`` bytes of activations.

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

    has_dense_form = False

    def __init__(
        self,
        radius: int,
        *,
        channels: int = 2,
        block_channels: Sequence[int] = (128, 128, 128),
        kernel: int = 5,
        conv_bias: bool = True,
        shared_branches: bool = False,
        feature_dropout: float = 0.8,
        head_dropout_widths: Sequence[int] = (256, 128, 64, 32, 16),
        head_dropout: float = 0.5,
        head_widths: Sequence[int] = (8, 4),
        negative_slope: float = 0.01,
        final_activation: bool = True,
        recompute: bool = False,
    ) -> None:
        if radius < 0:
            raise ValueError(f"radius must be at least 0, got {radius}")
        width = 2 * radius + 1
        super().__init__(
            receptive_field=width, channels=channels, final_activation=final_activation
        )
        _check_widths("block_channels", block_channels, minimum=1)
        _check_widths("head_dropout_widths", head_dropout_widths)
        _check_widths("head_widths", head_widths)
        _check_share("feature_dropout", feature_dropout)
        _check_share("head_dropout", head_dropout)
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and positive, got {kernel}")
        n_blocks = len(block_channels)
        pooled = width >> n_blocks
        if pooled == 0:
            raise ValueError(
                f"radius must be at least {2 ** (n_blocks - 1)} for {n_blocks} blocks that each "
                f"halve the width, got {radius}; use fewer blocks"
            )

        def branch() -> nn.Sequential:
            inputs = (1, *block_channels[:-1])
            return nn.Sequential(
                *(
                    _Block(
                        n_in,
                        n_out,
                        kernel=kernel,
                        bias=conv_bias,
                        negative_slope=negative_slope,
                        recompute=recompute,
                    )
                    for n_in, n_out in zip(inputs, block_channels, strict=True)
                )
            )

        self.n_features = channels * block_channels[-1] * pooled**3
        self.branches = nn.ModuleList(branch() for _ in range(1 if shared_branches else channels))
        self.head = nn.Sequential(
            nn.Dropout(feature_dropout),
            *_head_layers(
                self.n_features, head_dropout_widths, head_dropout, head_widths, negative_slope
            ),
        )

    def _logits(self, x: Tensor) -> Tensor:
        features = []
        for channel in range(self.channels):
            branch = self.branches[channel % len(self.branches)]
            features.append(branch(x[:, channel : channel + 1]).flatten(1))
        z: Tensor = self.head(torch.cat(features, dim=1))
        return z.squeeze(1)  # (batch, 1) → (batch,)


class _Block(nn.Module):
    """Convolution, batch normalization, activation and pooling by two."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        kernel: int,
        bias: bool,
        negative_slope: float,
        recompute: bool,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(n_in, n_out, kernel, padding=kernel // 2, bias=bias)
        self.norm = nn.BatchNorm3d(n_out)
        self.tail = nn.Sequential(nn.LeakyReLU(negative_slope), nn.AvgPool3d(2))
        self.recompute = recompute
        self.slice_bytes = SLICE_BYTES

    def forward(self, x: Tensor) -> Tensor:
        if self.recompute:
            return recomputed_block(
                x, self.conv, self.norm, self.tail, slice_bytes=self.slice_bytes
            )
        out: Tensor = self.tail(self.norm(self.conv(x)))
        return out


def _head_layers(
    n_features: int,
    dropout_widths: Sequence[int],
    dropout: float,
    widths: Sequence[int],
    negative_slope: float,
) -> Iterator[nn.Module]:
    n_in = n_features
    for n_out in dropout_widths:
        yield nn.Linear(n_in, n_out)
        yield nn.Dropout(dropout)
        yield nn.LeakyReLU(negative_slope)
        n_in = n_out
    for n_out in widths:
        yield nn.Linear(n_in, n_out)
        yield nn.LeakyReLU(negative_slope)
        n_in = n_out
    yield nn.Linear(n_in, 1)


def _check_widths(name: str, widths: Sequence[int], *, minimum: int = 0) -> None:
    if len(widths) < minimum or any(width < 1 for width in widths):
        raise ValueError(f"{name} must be at least {minimum} positive numbers, got {tuple(widths)}")


def _check_share(name: str, share: float) -> None:
    if not 0 <= share < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {share}")
