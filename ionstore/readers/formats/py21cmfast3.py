"""Files of 21cmFAST 3: ``IonizedBox_<hash>_r<seed>.h5`` and others of its cache, Coeval files."""

from pathlib import Path

from ionstore.readers.arrays.hdf5 import HDF5_MAGIC, attributes, number, opened_hdf5
from ionstore.readers.base import FileContents, FileReader, FoundField
from ionstore.readers.formats.py21cmfast import (
    OTHER_SOURCES,
    density_cube,
    halo_fields,
    ionization_cubes,
    lightcone,
    no_cubes,
    read_box,
    read_cosmology,
    read_initial_conditions,
    read_redshift,
)

_PARAMETERS = {"user_params", "cosmo_params"}
_LAGRANGIAN = (
    "HaloField tells where the matter of halos came from, not where they are, so it gives no "
    f"n_src; compute a PerturbHaloField with perturb_halo_list, {OTHER_SOURCES}"
)


class Py21cmFast3(FileReader):
    """Reads HDF5 files whose parameters are attributes of groups of their own."""

    name = "21cmfast-v3"
    description = "21cmFAST 3: PerturbedField_*.h5, IonizedBox_*.h5, PerturbHaloField_*.h5, Coeval"

    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        """Return density, ionized fraction, temperature and halos of a file, as far as it has them.

        Parameters
        ----------
        path : Path
            The file; its redshift is an attribute, or else in its name.
        head : bytes
            Its first bytes, at most 64.

        Raises
        ------
        SourceDataError
            If the file is truncated or damaged, or h5py is not installed.
        OSError
            If it cannot be read.
        """
        if not head.startswith(HDF5_MAGIC):
            return None
        with opened_hdf5(path) as file:
            if not _PARAMETERS & set(file):
                return None
            if "lightcones" in file:
                return lightcone(path)
            simulation = attributes(file, "user_params")
            if (nothing := no_cubes(path, simulation)) is not None:
                return nothing
            redshift = read_redshift(path, file.attrs)
            parameters = attributes(file, "cosmo_params")
            cosmology = read_cosmology(parameters, number(parameters, "SIGMA_8"))
            box = read_box(simulation, cosmology)
            initial_conditions = read_initial_conditions(simulation, file.attrs)
            fields: list[FoundField] = []
            notes: list[str] = []
            if "PerturbedField" in file:
                fields += density_cube(path, file["PerturbedField"], redshift)
            if "IonizedBox" in file:
                fields += ionization_cubes(
                    path,
                    file["IonizedBox"],
                    redshift,
                    neutral_fraction="xH_box",
                    temperature="temp_kinetic_all_gas",
                )
            if "PerturbHaloField" in file:
                found, note = halo_fields(
                    path, file["PerturbHaloField"], redshift, box, in_cells=True
                )
                fields += found
                notes += [note] if note else []
            elif "HaloField" in file:
                notes.append(_LAGRANGIAN)
        return FileContents(
            tuple(fields), box.length_cmpc, box.cosmology, tuple(notes), initial_conditions
        )
