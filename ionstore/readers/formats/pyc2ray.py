"""Results of pyC2Ray: ``xfrac_z8.700.dat``, ``IonRates_z8.700.dat``, or the same as ``.npy``."""

from pathlib import Path

from ionstore.readers.arrays.cbin import check_complete, open_mesh
from ionstore.readers.arrays.fortran import sizes_in_record
from ionstore.readers.arrays.npy import NPY_MAGIC, open_numpy_file
from ionstore.readers.base import FileContents, FileReader
from ionstore.readers.formats.c2ray_names import is_named_as_results, named_result, results


class PyC2Ray(FileReader):
    """Reads meshes without records, and arrays of NumPy, by the names of results."""

    name = "pyc2ray"
    description = "results of pyC2Ray: xfrac_z8.700.dat, IonRates_z8.700.dat, or .npy"

    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        """Return the mesh of a file that is named as results are."""
        if not is_named_as_results(path.name):
            return None
        if path.suffix == ".npy" or head.startswith(NPY_MAGIC):
            return results(path, open_numpy_file(path, path.stem))
        source = open_mesh(path, head)
        if source is None:
            # A whole record of sizes is C2-Ray's, and no damaged mesh of this format.
            if sizes_in_record(head) is None:
                check_complete(path, head)
            return None
        return results(path, source)

    def named(self, name: str) -> tuple[str, float | None] | None:
        """Return field and redshift of a name that the codes give to results."""
        return named_result(name)
