"""The 2021 baseline: xHII of a cell from the fields in the cell alone."""

from collections.abc import Sequence

from torch import Tensor, nn

from ionmodel.networks.base import DenseNetwork


class Pointwise(DenseNetwork):
    """A fully connected network on the input channels of a single cell.

    Examples
    --------
    >>> import torch
    >>> Pointwise(0)(torch.zeros(5, 2, 4, 4, 4)).shape
    torch.Size([5, 4, 4, 4])
    """

    def __init__(
        self,
        radius: int = 0,  # the only value: a single cell is the whole input
        *,
        channels: int = 2,
        widths: Sequence[int] = (64, 64),  # of the hidden layers; may be empty
        negative_slope: float = 0.01,  # of LeakyReLU below 0
        final_activation: bool = True,  # predict the sigmoid of the last layer
    ) -> None:
        if radius != 0:
            raise ValueError(f"radius must be 0 for a network that sees single cells, got {radius}")
        if any(width < 1 for width in widths):
            raise ValueError(f"widths must be positive, got {list(widths)}")
        super().__init__(receptive_field=1, channels=channels, final_activation=final_activation)
        layers: list[nn.Module] = []
        n_in = channels
        for n_out in widths:
            layers += [nn.Conv3d(n_in, n_out, 1), nn.LeakyReLU(negative_slope)]
            n_in = n_out
        # 1³ convolutions in place of linear layers predict a whole tile at once.
        self.layers = nn.Sequential(*layers, nn.Conv3d(n_in, 1, 1))

    def _logits(self, x: Tensor) -> Tensor:
        z: Tensor = self.layers(x)
        return z.squeeze(1)
