"""Arrays of NumPy: the three-file set ``rho_z8.397.npy``, ``nsrc_z8.397.npy`` and others."""

import re
import zipfile
from pathlib import Path

from ionstore.cube.fields import FIELDS
from ionstore.errors import SourceDataError
from ionstore.readers.arrays.npy import NPY_MAGIC, ZIP_MAGIC, open_numpy_file
from ionstore.readers.base import PLAIN_QUANTITIES, FileContents, FileReader, FoundField
from ionstore.readers.file_names import redshift_in

_SUFFIXES = (".npy", ".npz")
_NAME = re.compile(r"(?P<prefix>.+)_z(?P<redshift>\d+(\.\d+)?)\.np[yz]")
_BY_PREFIX = {field.file_prefix: field for field in FIELDS.values()}


class NumpySet(FileReader):
    """Reads one array a file; ``<prefix>_z<redshift>.npy`` or ``.npz`` says which field it is."""

    name = "three-file-set"
    description = "arrays of NumPy: rho_z8.397.npy, nsrc_z8.397.npy, xHII_z8.397.npy, or .npz"

    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        """Return the array of a file, without a field where the name tells none."""
        named = field_in_name(path.name)
        if named is not None:
            field, redshift = named
            source = open_numpy_file(path, FIELDS[field].file_prefix)
            quantity = PLAIN_QUANTITIES.get(field, "as_is")
            return FileContents((FoundField(field, redshift, source, quantity),))
        if not (head.startswith(NPY_MAGIC) or _is_archive_of_arrays(path, head)):
            return None
        try:
            source = open_numpy_file(path, "")
        except SourceDataError as error:
            # A note, so that damaged arrays of another purpose do not stop an ingest.
            return FileContents((), notes=(str(error),))
        return FileContents((FoundField(None, redshift_in(path.name), source, "as_is"),))

    def named(self, name: str) -> tuple[str, float] | None:
        """Return field and redshift of a name of the set."""
        return field_in_name(name)


def field_in_name(name: str) -> tuple[str, float] | None:
    """Return field and redshift that the name of a file of a three-file set tells, None for others.

    Examples
    --------
    >>> field_in_name("rho_z8.397.npy"), field_in_name("density_z8.397.npy")
    (('n_igm', 8.397), None)
    """
    match = _NAME.fullmatch(name)
    if match is None or match["prefix"] not in _BY_PREFIX:
        return None
    return _BY_PREFIX[match["prefix"]].name, float(match["redshift"])


def _is_archive_of_arrays(path: Path, head: bytes) -> bool:
    """Tell whether a zip archive is one of `numpy.savez`; many other files are zip archives."""
    if not head.startswith(ZIP_MAGIC):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(member.endswith(".npy") for member in archive.namelist())
    except zipfile.BadZipFile:
        # Cut short, it has lost the table of its members at its end; only its name is left.
        return path.suffix in _SUFFIXES
