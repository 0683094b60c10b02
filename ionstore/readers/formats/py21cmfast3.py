"""Files of 21cmFAST 3: ``IonizedBox_<hash>_r<seed>.h5`` and others of its cache, Coeval files."""

from collections.abc import Mapping
from typing import Any, ClassVar

from ionstore.readers.arrays.hdf5 import attributes, member, number
from ionstore.readers.formats.py21cmfast import OTHER_SOURCES, Py21cmFast, Run, read_cosmology

# The files carry no name of their format; both groups are in all of them.
_PARAMETERS = {"user_params", "cosmo_params"}


class Py21cmFast3(Py21cmFast):
    """Reads HDF5 files whose parameters are attributes of groups of their own."""

    name = "21cmfast-v3"
    description = "21cmFAST 3: PerturbedField_*.h5, IonizedBox_*.h5, PerturbHaloField_*.h5, Coeval"

    neutral_fraction = "xH_box"
    temperature = "temp_kinetic_all_gas"
    halos = "PerturbHaloField"
    halos_in_cells = True
    no_sources: ClassVar[Mapping[str, str]] = {
        "HaloField": (
            "HaloField tells where the matter of halos came from, not where they are, so it gives "
            f"no n_src; compute a PerturbHaloField with perturb_halo_list, {OTHER_SOURCES}"
        )
    }

    def is_lightcone(self, file: Any) -> bool:
        """Tell by the group of its cubes."""
        return bool(_PARAMETERS & set(file)) and "lightcones" in file

    def runs(self, file: Any) -> list[Run]:
        """Return all outputs as one run: a file has one set of parameters."""
        if not _PARAMETERS & set(file):
            return []
        parameters = attributes(file, "cosmo_params")
        found = {kind: member(file, kind) for kind in self.kinds}
        return [
            Run(
                attributes(file, "user_params"),
                seeded=file.attrs,
                told=file.attrs,
                cosmology=read_cosmology(parameters, number(parameters, "SIGMA_8")),
                outputs={kind: group for kind, group in found.items() if group is not None},
            )
        ]
