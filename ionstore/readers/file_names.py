"""What the names of files say: the redshift."""

import re

# A version such as 3.4.0 is no number, so neither its beginning nor its end is one.
DECIMAL_NUMBER = re.compile(r"(?<!\d)(?<!\d\.)\d+\.\d+(?!\d)(?!\.\d)")
"""A number in a name that may be a redshift."""


def redshift_in(name: str) -> float | None:
    """Return the redshift that a file name tells: its last number with a decimal point.

    Parameters
    ----------
    name : str
        Name of the file, without its folder: ``8.397n_all.dat``, ``xfrac_z8.700.npy``.

    Returns
    -------
    float, optional
        None if no number in the name has a decimal point.
    """
    numbers = DECIMAL_NUMBER.findall(name)
    return float(numbers[-1]) if numbers else None
