"""Evaluate a patch network densely: the same numbers for all cells of a tile at once."""

from numbers import Integral
from typing import Self

import torch
from torch import Tensor, nn

from ionmodel.dense.layers import WithOutputAxis, cells3
from ionmodel.dense.patch import ZERO, Patch, in_words
from ionmodel.dense.refusals import refuse_changes
from ionmodel.dense.rules import chain, convert, runs_as, twin, unfold
from ionmodel.networks.base import Cells3, DenseNetwork, PatchNetwork
from ionmodel.networks.two_branch import TwoBranch


class DenseForm(nn.Module):
    """A patch network as layers of stride 1; made by `dense_form`."""

    def __init__(
        self,
        layers: nn.Sequential,
        *,
        receptive_field: int,
        channels: int | None,
        unused: Cells3 = ZERO,
        final_activation: bool = False,
    ) -> None:
        super().__init__()
        self.layers = layers
        self.receptive_field = receptive_field
        self.channels = channels  # None if no layer fixes it
        self.unused = unused  # cells at the end of each axis of a patch that change no output
        self.final_activation = final_activation

    def forward(self, x: Tensor, *, activate: bool = True) -> Tensor:
        """Predict all cells of a tile.

        Parameters
        ----------
        x : Tensor, shape (batch, channels, T + 2r, T + 2r, T + 2r)
            Tiles with their halo of r cells, where the `receptive_field` is ``2 r + 1``; T is at
            least 1 and may differ from axis to axis. In the dtype of the weights.
        activate : bool
            False returns the logits of a network with a final activation.

        Returns
        -------
        Tensor of the same dtype, shape (batch, out, T, T, T)
            Position (i, j, k) is the value of the patch network for the neighborhood that starts
            there, ``x[:, :, i:i + 2r + 1, j:j + 2r + 1, k:k + 2r + 1]``.
        """
        z = self.logits(x)
        return torch.sigmoid(z) if activate and self.final_activation else z

    def logits(self, x: Tensor) -> Tensor:
        """Return the values before the final activation; arguments as in `forward`."""
        least = self.receptive_field
        if x.ndim != 5 or self.channels not in {None, x.shape[1]} or min(x.shape[2:]) < least:
            channels = "channels" if self.channels is None else self.channels
            raise ValueError(
                f"x must have shape (batch, {channels}, i, j, k) with at least {least} cells along "
                f"i, j and k, got {tuple(x.shape)}"
            )
        # Cells that the last strides drop are removed first, so that no length has to be rounded.
        for axis, cells in enumerate(self.unused, start=2):
            x = x.narrow(axis, 0, x.shape[axis] - cells)
        z: Tensor = self.layers(x)
        return z

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, the only one that is exact."""
        return super().train(False)


def dense_form(network: nn.Module, *, receptive_field: int | None = None) -> DenseForm:
    """Turn a patch network into one that predicts all cells of a tile at once, exactly.

    Parameters
    ----------
    network : Module
        Maps neighborhoods of shape (batch, channels, width, width, width) to (batch, out) or
        (batch,). Either a `PatchNetwork` with ``has_dense_form``, or a Sequential, nested or not,
        of Conv3d, BatchNorm1d, BatchNorm3d, AvgPool3d, MaxPool3d, Flatten, Linear, PReLU,
        activations in `ionmodel.dense.rules.ELEMENTWISE`, and Dropout. Layers must not pad, and
        must not have hooks, parametrized weights, or replaced methods. In any mode; it is not
        changed.
    receptive_field : int, optional
        Width of those neighborhoods in cells, odd. Needed for a Sequential, because its layers do
        not show how many cells pooling drops; a `PatchNetwork` knows its own.

    Returns
    -------
    DenseForm
        In evaluation mode, with the same device and dtype, and without a copy of the weights.

    Raises
    ------
    TypeError
        If the network is not a Module.
    ValueError
        If no exact dense form is known (the message names the layer), or the receptive field is
        missing or does not fit the layers.

    Notes
    -----
    On CUDA devices, convolutions round to TensorFloat-32 by default, and the two networks agree to
    that precision. They agree to float32 if ``torch.backends.cudnn.conv.fp32_precision`` is "ieee",
    as in `ionmodel.prediction.predictor`.

    A layer of stride s reads every s-th cell of its input. Here it reads all cells, and later
    layers read every s-th of its outputs: strides become 1 and multiply all later dilations.
    Flatten and the Linear after it are a convolution of the width that is left of a patch, later
    ones convolutions of one cell. Batch normalization by running statistics is an affine map of
    channels. At an odd width pooling drops cells, always at the end of a patch; these are removed
    from the tile first.

    Pooling is separable, a sum or maximum over shifted views, axis by axis: 10 ms for 32 channels
    (first in memory), 64³ cells, kernel 2, on two cores, against 47 for AvgPool3d, 47 to 105 for a
    depthwise convolution at dilation 4 to 1, and 148 to 170 for MaxPool3d.

    Parameters are shared: training steps and ``load_state_dict`` of the network change the dense
    form too, and gradients of either reach the same tensors. ``network.to`` may replace running
    statistics: move the network first, then make its dense form. ``copy.deepcopy`` makes one
    that is independent. Modes are not shared: a dense form stays in evaluation mode.
    The gradient of equal maxima is divided among them.

    Memory without gradients: input and output of one layer, ``itemsize * batch * (n_in +
    n_out) * L**3`` bytes at the widest layer, where L is at most ``T + receptive_field - 1``,
    because no layer reduces the mesh. oneDNN's float32 convolutions hold as much again in their
    own layout (64³ cells, 64 features into a Linear of 256: 694 MiB by this rule, 641 measured).
    Others (float64 on a CPU) hold ``n_in * kernel**3`` values for every output cell.
    BatchNorm1d directly after Flatten has statistics for every place in a patch, and
    a network that ends in Flatten as many outputs: there each cell takes all its features at
    once, ``n_in * w**3`` values where w cells are left of a patch.

    References
    ----------
    Giusti et al. 2013, Fast image scanning with deep max-pooling convolutional neural networks.
    Long, Shelhamer, Darrell 2015, Fully convolutional networks for semantic segmentation,
    section 3.2.

    Examples
    --------
    >>> network = nn.Sequential(
    ...     nn.Conv3d(2, 4, 3), nn.ReLU(), nn.AvgPool3d(2), nn.Flatten(), nn.Linear(4 * 3**3, 1)
    ... )
    >>> dense = dense_form(network, receptive_field=9)
    >>> dense(torch.zeros(5, 2, 20, 20, 20)).shape
    torch.Size([5, 1, 12, 12, 12])
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be a torch.nn.Module, got {type(network).__name__}")
    width, channels = _receptive_field(network, receptive_field), None
    final_activation = False
    if isinstance(network, PatchNetwork):
        channels, final_activation = network.channels, network.final_activation
    # A family that predicts tiles needs no conversion, unless a subclass changes how it is called.
    if isinstance(network, DenseNetwork) and runs_as(network, PatchNetwork):
        for path, layer in network.named_modules():
            refuse_changes(layer, path)
        return DenseForm(
            nn.Sequential(WithOutputAxis(twin(network))),
            receptive_field=width,
            channels=channels,
            final_activation=final_activation,
        ).eval()
    patch = Patch(channels, (width, width, width))
    if type(network) is TwoBranch:
        refuse_changes(network, "")
        stages = (("branches", network.branches), ("", nn.Flatten()), ("head", network.head))
        layers, patch = chain(stages, "", patch)
    else:
        layers, patch = convert(network, "", patch)
    if not patch.flat:
        raise ValueError(
            f"network must give (batch, out), but its last layer still has {in_words(patch.width)} "
            "cells; add an nn.Flatten()"
        )
    unfolded, patch = unfold(patch)
    first_channels = channels if channels is not None else patch.input_channels
    return DenseForm(
        nn.Sequential(*layers, *unfolded),
        receptive_field=width,
        channels=first_channels,
        unused=cells3(width - 1 - reach for reach in patch.reach),
        final_activation=final_activation,
    ).eval()


def _receptive_field(network: nn.Module, receptive_field: int | None) -> int:
    if isinstance(network, PatchNetwork):
        if receptive_field not in {None, network.receptive_field}:
            raise ValueError(
                f"receptive_field must be the network's, {network.receptive_field}, or left out, "
                f"got {receptive_field}"
            )
        return network.receptive_field
    if receptive_field is None:
        raise ValueError(
            f"receptive_field must be given for a {type(network).__name__}: the width in cells of "
            "the patches it takes"
        )
    if not isinstance(receptive_field, Integral) or receptive_field < 1 or receptive_field % 2 == 0:
        raise ValueError(
            f"receptive_field must be a whole number, odd and positive, got {receptive_field!r}"
        )
    return receptive_field
