"""Losses by name: functions of a network's logits and the targets."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]


def make_loss(name: str, *, final_activation: bool) -> Loss:
    """Return the mean loss of a batch as a function of (logits, targets)."""
    if name == "mse" and final_activation:
        return _mse_of_sigmoid
    if name == "mse":
        return functional.mse_loss
    # Its gradient does not vanish at 0 and 1, where most cells are. On logits, because the
    # logarithm of a rounded sigmoid would overflow.
    if name == "bce" and final_activation:
        return functional.binary_cross_entropy_with_logits
    raise ValueError(f"loss must be 'mse', or 'bce' with final_activation, got {name!r}")


def _mse_of_sigmoid(logits: Tensor, target: Tensor) -> Tensor:
    return functional.mse_loss(torch.sigmoid(logits), target)
