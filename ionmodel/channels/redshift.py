"""The redshift as an input of a network: one more channel, the same in all cells of a cube."""

import numpy as np
import torch

# The 1 + z in the middle of reionization, where the input is then about zero. Its logarithm is that
# of the scale factor with the sign reversed, and of cosmic time but for a factor of -3/2.
_MIDDLE = 8.0


def redshift_value(redshift: float) -> float:
    """Return the value of the redshift channel.

    Examples
    --------
    >>> [round(redshift_value(z), 3) for z in (5.0, 7.0, 12.0)]
    [-0.288, 0.0, 0.486]
    """
    return float(np.log((1 + redshift) / _MIDDLE))


def with_redshift(inputs: torch.Tensor, redshift: torch.Tensor) -> torch.Tensor:
    """Return a batch with the redshift of each sample as its last channel."""
    # In float64 as in `redshift_value`, so that training and prediction give the same values.
    values = torch.log((1 + redshift.double()) / _MIDDLE).to(inputs)
    channel = values.view(-1, 1, 1, 1, 1).expand(-1, 1, *inputs.shape[2:])
    return torch.cat([inputs, channel], dim=1)
