"""The fields of a coeval cube: their names on disk, units and CF attributes."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

RANGES = {"n_igm": (0.0, np.inf), "n_src": (0.0, np.inf), "xhii": (0.0, 1.0)}
"""Least and greatest value that a field can have; fields that are not named have any."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field that a store can hold."""

    name: str  # of its array
    file_prefix: str  # before ``_z`` in the names of a three-file set
    long_name: str  # CF
    units: str  # CF; "unknown" where the files must say
    standard_name: str | None = None  # CF, where one exists


N_IGM = Field("n_igm", "rho", "gas density", "g cm-3")
N_SRC = Field("n_src", "nsrc", "ionizing sources", "unknown")
XHII = Field("xhii", "xHII", "ionized hydrogen fraction", "1")

INPUTS = (N_IGM, N_SRC)
"""Fields that a network predicts from: a simulation holds one of these at least."""

REQUIRED = (*INPUTS, XHII)
"""Fields that a simulation holds at every redshift, unless the user leaves some out."""

WITHOUT = {
    N_IGM.name: "serves networks that do not see it",
    N_SRC.name: "serves networks that do not see it",
    XHII.name: "can be predicted, not trained on",
}
"""Use of a store that lacks a required field, as the predicate of a sentence."""

EXTRA = (
    Field("src_mass", "srcmass", "halo mass of the ionizing sources", "Msun"),
    Field("ionization_rate", "irate", "hydrogen photoionization rate", "s-1"),
    Field("mfp_mask", "mask", "mean free path mask", "1"),
    Field("temperature", "temperature", "gas temperature", "K"),
)
PREDICTED = Field("xhii_predicted", "xHIIpredicted", "predicted ionized hydrogen fraction", "1")
"""Written by networks in place of `XHII`; no simulation has it."""

IONIZED_FRACTIONS = (XHII.name, PREDICTED.name)
"""Fields that are shown and exported alike, so that they can be compared."""

FIELDS = {field.name: field for field in (*REQUIRED, *EXTRA, PREDICTED)}


def ionized_fraction_among(names: Collection[str]) -> str | None:
    """Return the ionized fraction among fields, the simulated one first, None without one."""
    return next((name for name in IONIZED_FRACTIONS if name in names), None)
