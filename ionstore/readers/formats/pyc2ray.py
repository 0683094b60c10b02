"""Results of pyC2Ray: ``xfrac_z8.700.dat``, ``IonRates_z8.700.dat``, or the same as ``.npy``."""

from pathlib import Path

from ionstore.readers.arrays.fortran import sizes_in_record
from ionstore.readers.arrays.npy import NPY_MAGIC, open_numpy_file
from ionstore.readers.base import FileContents, FileReader
from ionstore.readers.formats.c2ray_names import is_named_as_results, named_result, results
from ionstore.readers.formats.cbin import check_complete, open_mesh


class PyC2Ray(FileReader):
    """Reads meshes that only their sizes stand before, and arrays of NumPy, by their names."""

    name = "pyc2ray"
    description = "results of pyC2Ray: xfrac_z8.700.dat, IonRates_z8.700.dat, or .npy"

    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        """Return the mesh of a file that is named as results are.

        Parameters
        ----------
        path : Path
            The file.
        head : bytes
            Its first bytes, at most 64.

        Raises
        ------
        SourceDataError
            If the file is truncated or damaged, or holds no real numbers.
        OSError
            If it cannot be read.
        """
        if not is_named_as_results(path.name):
            return None
        if path.suffix == ".npy" or head.startswith(NPY_MAGIC):
            return results(path, open_numpy_file(path, path.stem))
        source = open_mesh(path, head)
        if source is None:
            if sizes_in_record(head) is None:
                check_complete(path, head)
            return None
        return results(path, source)

    def named(self, name: str) -> tuple[str, float | None] | None:
        """Return field and redshift that the name of a file tells, None where it tells no field."""
        return named_result(name)
