"""Units and frames: counts or masses of sources, proper or comoving gas densities."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from ionstore.cube.cosmology import PLANCK18, Cosmology, mean_gas_density

N_SRC_UNITS = ("Msun", "grid_mass", "1")
LARGEST_COUNT = 65535  # of uint16
_FACTOR = 3.0  # between a mean and the cosmic mean, at most

KnownFrame = Literal["proper", "comoving"]
"""Frame of a density: that of its own time, or of the same matter in today's volume."""

Frame = KnownFrame | Literal["unknown"]

_FRAMES: tuple[KnownFrame, KnownFrame] = ("proper", "comoving")


def decide_n_src(largest: Sequence[float], integral: bool, units: str | None) -> tuple[str, str]:
    """Return dtype and units of the sources, given their largest value at each redshift.

    Whole numbers up to 65535 are counts unless `units` says that they are masses.

    >>> decide_n_src([3.0, 17.0], True, None)
    ('uint8', '1')
    >>> decide_n_src([3e11], True, None)
    ('float32', 'unknown')
    """
    if integral and max(largest) <= LARGEST_COUNT and units in (None, "1"):
        return ("uint8" if max(largest) <= 255 else "uint16"), "1"
    return "float32", units or "unknown"


def decide_density_frame(means: Mapping[float, float], cosmology: Cosmology | None) -> Frame:
    """Return the frame of a gas density, whose means in g/cm3 by redshift fit that frame alone.

    >>> decide_density_frame({8.397: 3.49e-28, 7.305: 2.41e-28}, None)
    'proper'
    """
    # The comoving mean is Ω_b ρ_crit, about 4.2e-31 g/cm3; the proper one is (1 + redshift)³ times
    # that, three orders of magnitude more during reionization. So a factor of 3 decides.
    fitting = [frame for frame in _FRAMES if not _misfits(frame, means, cosmology)]
    return fitting[0] if len(fitting) == 1 else "unknown"


def contradiction_to_frame(
    frame: KnownFrame, means: Mapping[float, float], cosmology: Cosmology | None
) -> str | None:
    """Return a sentence if the means of a gas density in g/cm3 contradict a frame, else None.

    >>> contradiction_to_frame("proper", {8.397: 3.49e-28, 7.305: 2.41e-28}, None)
    >>> print(contradiction_to_frame("comoving", {1.0: 3.4e-30}, None))
    n_igm is taken as comoving, although its mean fits proper densities: it is 3.4e-30 g/cm3 at \
redshift 1, where the cosmic mean is 3.37e-30 proper and 4.21e-31 comoving; a wrong frame is \
wrong by (1 + redshift)³ = 8
    """
    misfits = _misfits(frame, means, cosmology)
    if not misfits:
        return None
    redshift = max(misfits)
    proper, comoving = (_cosmic_mean(one, redshift, cosmology) for one in _FRAMES)
    fitting = decide_density_frame(means, cosmology)
    fits, way_on = "is not the cosmic one", "check the unit of the density"
    if fitting != "unknown":
        fits = f"fits {fitting} densities"
        way_on = f"a wrong frame is wrong by (1 + redshift)³ = {proper / comoving:.3g}"
    return (
        f"n_igm is taken as {frame}, although its mean {fits}: it is {means[redshift]:.3g} g/cm3 "
        f"at redshift {redshift:g}, where the cosmic mean is {proper:.3g} proper and "
        f"{comoving:.3g} comoving; {way_on}"
    )


def _misfits(
    frame: KnownFrame, means: Mapping[float, float], cosmology: Cosmology | None
) -> list[float]:
    """Return the redshifts at which the mean is not that of the cosmos in a frame."""
    expected = {redshift: _cosmic_mean(frame, redshift, cosmology) for redshift in means}
    return [
        redshift
        for redshift, mean in means.items()
        if not expected[redshift] / _FACTOR <= mean <= expected[redshift] * _FACTOR
    ]


def _cosmic_mean(frame: KnownFrame, redshift: float, cosmology: Cosmology | None) -> float:
    """Return the mean gas density in g/cm3; Planck 2018 fills what the cosmology leaves open."""
    given = cosmology or PLANCK18
    omega_b = given.omega_b or PLANCK18.omega_b
    whole = dataclasses.replace(given, h=given.h or PLANCK18.h, omega_b=omega_b)
    return mean_gas_density(whole, redshift if frame == "proper" else 0.0)
