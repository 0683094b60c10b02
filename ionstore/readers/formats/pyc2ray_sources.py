"""Source lists that pyC2Ray converts to HDF5: ``8.700-coarsest_wsubgrid_sources.hdf5``."""

from pathlib import Path

from ionstore.errors import SourceDataError
from ionstore.readers.arrays.hdf5 import HDF5_MAGIC, member, number, opened_hdf5
from ionstore.readers.base import FileContents, FileReader, FoundField, Quantity
from ionstore.readers.file_names import redshift_in
from ionstore.readers.points.hdf5_list import DATASETS, ConvertedSourceList
from ionstore.readers.points.positions import n_listed

_SOLAR_MASS = "Solar Mass"  # the converter writes no other unit


class PyC2RaySources(FileReader):
    """Reads source lists with the datasets that pyC2Ray's converter writes."""

    name = "pyc2ray-sources"
    description = "source lists of pyC2Ray, in Msun: 8.700-coarsest_wsubgrid_sources.hdf5"

    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        """Return the list of a file; an attribute tells the redshift, or else its name."""
        if not head.startswith(HDF5_MAGIC):
            return None
        with opened_hdf5(path) as file:
            if not all(name in file for name in DATASETS):
                return None
            n_listed(path, file, DATASETS, "convert the list again")
            positions, masses = (member(file, name) for name in DATASETS)
            if not (positions.dtype.kind in "iuf" and masses.dtype.kind in "iuf"):
                raise SourceDataError(
                    f"{path}: expected real numbers in {' and '.join(DATASETS)}, "
                    f"got {positions.dtype} and {masses.dtype}; convert the list again"
                )
            redshift = number(file.attrs, "z")
            unit = masses.attrs.get("unit", _SOLAR_MASS)
            # Attributes of h5py are text, those of other programs may be bytes.
            in_msun = (unit.decode() if isinstance(unit, bytes) else str(unit)) == _SOLAR_MASS
        if redshift is None:
            redshift = redshift_in(path.name)
        quantity: Quantity = "msun" if in_msun else "sources"
        return FileContents((FoundField("n_src", redshift, ConvertedSourceList(path), quantity),))

    def named(self, name: str) -> tuple[str, float | None] | None:
        """Return ``n_src`` and its redshift for the name of a list."""
        is_list = "sources" in name and name.endswith((".hdf5", ".h5"))
        return ("n_src", redshift_in(name)) if is_list else None
