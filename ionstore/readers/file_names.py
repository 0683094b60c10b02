"""Find the redshift that the name of a file tells."""

import re

# A version such as 3.4.0 is no number, so neither its beginning nor its end is one.
DECIMAL_NUMBER = re.compile(r"(?<!\d)(?<!\d\.)\d+\.\d+(?!\d)(?!\.\d)")
"""A number in a name that may be a redshift."""


def redshift_in(name: str) -> float | None:
    """Return the last number with a decimal point in a name, such as ``8.397n_all.dat``."""
    # The last one, since parameters of a run, such as sigma0.8, stand before the redshift. Without
    # a point, numbers are seeds, mesh sizes and indices.
    numbers = DECIMAL_NUMBER.findall(name)
    return float(numbers[-1]) if numbers else None
