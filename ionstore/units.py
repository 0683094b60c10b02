"""What the numbers of a simulation are: counts or masses, proper or comoving densities."""

from collections.abc import Mapping, Sequence
from typing import Literal

from ionstore.cosmology import PLANCK18, Cosmology, critical_density

N_SRC_UNITS = ("Msun", "grid_mass", "1")
LARGEST_COUNT = 65535
_FACTOR = 3.0

KnownFrame = Literal["proper", "comoving"]
"""Whether a density is that of its own time or of the same matter in today's volume."""

Frame = KnownFrame | Literal["unknown"]


def decide_n_src(largest: Sequence[float], integral: bool, units: str | None) -> tuple[str, str]:
    """Return dtype and units of the sources.

    Parameters
    ----------
    largest : sequence of float
        Largest value at each redshift.
    integral : bool
        Whether all values are whole numbers.
    units : str, optional
        Units that the user or the files give.

    Returns
    -------
    tuple of str
        "uint8" or "uint16" and "1" for counts, else "float32" and the given units or "unknown":
        whole numbers up to 65535 are counts unless they are said to be masses.

    Examples
    --------
    >>> decide_n_src([3.0, 17.0], True, None)
    ('uint8', '1')
    >>> decide_n_src([3e11], True, None)
    ('float32', 'unknown')
    """
    if integral and max(largest) <= LARGEST_COUNT and units in (None, "1"):
        return ("uint8" if max(largest) <= 255 else "uint16"), "1"
    return "float32", units or "unknown"


def decide_density_frame(means: Mapping[float, float], cosmology: Cosmology | None) -> Frame:
    """Return the frame of a gas density, found by comparing its mean with the cosmic mean.

    Parameters
    ----------
    means : mapping of float to float
        Mean gas density in g/cm3 at each redshift.
    cosmology : Cosmology, optional
        Cosmology of the simulation; Planck 2018 fills what it leaves open.

    Returns
    -------
    {"proper", "comoving", "unknown"}
        A frame when it agrees within a factor of 3 at all redshifts, and the other one does not.

    Notes
    -----
    The comoving mean is Ω_b ρ_crit, about 4.2e-31 g/cm3; the proper one is (1 + redshift)³ times
    that, about three orders of magnitude more during reionization.

    Examples
    --------
    >>> decide_density_frame({8.397: 3.49e-28, 7.305: 2.41e-28}, None)
    'proper'
    """
    given = cosmology or PLANCK18
    omega_b = given.omega_b or PLANCK18.omega_b
    h = given.h or PLANCK18.h
    assert omega_b is not None  # Planck 2018 is complete
    assert h is not None
    comoving_mean = omega_b * critical_density(h)
    fitting: list[Frame] = []
    if all(_agrees(mean, comoving_mean) for mean in means.values()):
        fitting.append("comoving")
    if all(_agrees(mean, comoving_mean * (1 + redshift) ** 3) for redshift, mean in means.items()):
        fitting.append("proper")
    return fitting[0] if len(fitting) == 1 else "unknown"


def _agrees(mean: float, expected: float) -> bool:
    return expected / _FACTOR <= mean <= expected * _FACTOR
