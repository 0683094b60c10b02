"""The redshift as an input of a network: one more channel, the same in all cells of a cube."""

import numpy as np
import torch

_MIDDLE = 8.0  # of 1 + z, in the midst of reionization


def redshift_value(redshift: float) -> float:
    """Return what a network sees of a redshift.

    Parameters
    ----------
    redshift : float
        Redshift, above -1.

    Returns
    -------
    float
        ``log((1 + z) / 8)``: minus the logarithm of the scale factor, and of cosmic time but for
        a factor of 3/2, about zero in the midst of reionization.

    Examples
    --------
    >>> [round(redshift_value(z), 3) for z in (5.0, 7.0, 12.0)]
    [-0.288, 0.0, 0.486]
    """
    return float(np.log((1 + redshift) / _MIDDLE))


def with_redshift(inputs: torch.Tensor, redshift: torch.Tensor) -> torch.Tensor:
    """Return a batch with the redshift of each sample as its last channel.

    Parameters
    ----------
    inputs : tensor of float32, shape (B, C, i, j, k)
        The batch.
    redshift : tensor, shape (B,)
        Redshift of each sample.

    Returns
    -------
    tensor of float32, shape (B, C + 1, i, j, k)
        A copy.
    """
    values = torch.log((1 + redshift.double()) / _MIDDLE).to(inputs)
    channel = values.view(-1, 1, 1, 1, 1).expand(-1, 1, *inputs.shape[2:])
    return torch.cat([inputs, channel], dim=1)
