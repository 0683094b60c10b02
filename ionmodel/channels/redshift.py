"""The redshift as an input of a network: one more channel, the same in all cells of a cube."""

import numpy as np
import torch

# The 1 + z of the midst of reionization, so that the input is about zero there. The logarithm is
# that of the scale factor (negative), and of cosmic time but for a factor of 3/2.
_MIDDLE = 8.0


def redshift_value(redshift: float) -> float:
    """Return what a network sees of a redshift.

    Examples
    --------
    >>> [round(redshift_value(z), 3) for z in (5.0, 7.0, 12.0)]
    [-0.288, 0.0, 0.486]
    """
    return float(np.log((1 + redshift) / _MIDDLE))


def with_redshift(inputs: torch.Tensor, redshift: torch.Tensor) -> torch.Tensor:
    """Return a batch with the redshift of each sample as its last channel."""
    values = torch.log((1 + redshift.double()) / _MIDDLE).to(inputs)
    channel = values.view(-1, 1, 1, 1, 1).expand(-1, 1, *inputs.shape[2:])
    return torch.cat([inputs, channel], dim=1)
