"""The learning rate over a run of known length."""

import math

WARM_UP = 0.1
"""Share of the run in which the rate rises."""
FIRST, LAST = 0.04, 0.001
"""Rates at its beginning and at its end, as shares of the highest."""


def one_cycle(progress: float) -> float:
    """Return the learning rate as a share of its highest, at a share 0 to 1 of all steps.

    References
    ----------
    Smith & Topin 2019, Super-convergence, section 3 (one cycle; cosines instead of lines).

    Examples
    --------
    >>> [round(one_cycle(progress), 3) for progress in (0, 0.05, 0.1, 0.55, 1)]
    [0.04, 0.52, 1.0, 0.5, 0.001]
    """
    if progress < WARM_UP:
        return _between(FIRST, 1.0, progress / WARM_UP)
    return _between(1.0, LAST, (progress - WARM_UP) / (1 - WARM_UP))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
