"""Cubes of PINION: streams of `numpy.save` under the name of an archive, ``rho_z8.397.npz``."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ionstore.cube.fields import FIELDS
from ionstore.readers.arrays.npy import NPY_MAGIC, open_numpy_file
from ionstore.readers.arrays.sample import sample_values
from ionstore.readers.base import (
    PLAIN_QUANTITIES,
    FieldSource,
    FileContents,
    FileReader,
    FoundField,
    Quantity,
)
from ionstore.readers.formats.numpy_set import field_in_name

_QUANTITIES: Mapping[str, Quantity] = {
    **PLAIN_QUANTITIES,
    "n_igm": "overdensity",
    "ionization_rate": "as_is",
    "mfp_mask": "as_is",
}
_LARGEST_DENSITY_G_CM3 = 1e-15  # far above any gas between galaxies


class Pinion(FileReader):
    """Reads arrays of NumPy under ``.npz`` names, whose gas density is an overdensity."""

    name = "pinion"
    description = "PINION: rho_z8.397.npz (overdensity), nsrc_, irate_, xHII_, mask_, of numpy.save"

    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        """Return the cube of a file, None where a three-file set may have been saved like this."""
        named = field_in_name(path.name)
        if named is None or path.suffix != ".npz" or not head.startswith(NPY_MAGIC):
            return None
        field, redshift = named
        if field not in _QUANTITIES:
            return None
        source = open_numpy_file(path, FIELDS[field].file_prefix)
        # Only the gas density differs from that of a three-file set; other fields fit both formats.
        if field == "n_igm" and not _is_overdensity(source):
            return None
        return FileContents((FoundField(field, redshift, source, _QUANTITIES[field]),))


def _is_overdensity(source: FieldSource) -> bool:
    """Tell by a sample: overdensities are negative in some cells, and not as tiny as g/cm3."""
    if len(source.shape) != 3 or len(set(source.shape)) != 1 or source.shape[0] < 1:
        return False
    values = sample_values(source)
    return bool((values < 0).any() and np.abs(values).max() > _LARGEST_DENSITY_G_CM3)
