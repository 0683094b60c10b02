"""Files of 21cmFAST 4: ``IonizedBox.h5`` and others of its cache tree, Coeval files."""

from collections.abc import Mapping
from typing import Any, ClassVar

from ionstore.errors import SourceDataError
from ionstore.readers.arrays.hdf5 import attributes, member, number
from ionstore.readers.formats.py21cmfast import OTHER_SOURCES, Py21cmFast, Run, read_cosmology

_INPUTS, _OUTPUTS = "InputParameters", "OutputFields"
_PERTURBED = f"compute a PerturbedHaloCatalog with perturb_halo_catalog, {OTHER_SOURCES}"


class Py21cmFast4(Py21cmFast):
    """Reads HDF5 files with a group for each kind of output, which holds its inputs as well."""

    name = "21cmfast-v4"
    description = "21cmFAST 4: PerturbedField.h5, IonizedBox.h5, PerturbedHaloCatalog.h5, Coeval"

    neutral_fraction = "neutral_fraction"
    temperature = "kinetic_temperature"
    halos = "PerturbedHaloCatalog"
    halos_in_cells = False
    no_sources: ClassVar[Mapping[str, str]] = {
        "HaloCatalog": (
            "HaloCatalog tells where the matter of halos came from (Lagrangian positions), not "
            f"where they are, so it gives no n_src; {_PERTURBED}"
        ),
        "HaloBox": (
            "HaloBox holds expected numbers of halos, those too small for the catalog among them, "
            f"so it gives no n_src; {_PERTURBED}"
        ),
    }

    def is_lightcone(self, file: Any) -> bool:
        """Tell by the mark that this version sets."""
        return bool(file.attrs.get("lightcone", False)) and "lightcones" in file

    def runs(self, file: Any) -> list[Run]:
        """Return a run for each kind of output, by which parameters are grouped."""
        runs = []
        for kind in file:
            try:
                group = member(file, kind)  # None for links to what is not there
            except SourceDataError:
                if kind in self.kinds:
                    raise
                continue  # no field lies in it, wherever it is
            if not (hasattr(group, "keys") and _INPUTS in group and _OUTPUTS in group):
                continue
            inputs = member(group, _INPUTS)
            tables = attributes(inputs, "cosmo_tables")
            # Only with USE_SIGMA_8 is the norm of the fluctuations their amplitude at 8 Mpc/h.
            sigma_8 = number(tables, "ps_norm") if tables.get("USE_SIGMA_8", False) else None
            runs.append(
                Run(
                    attributes(inputs, "simulation_options"),
                    seeded=inputs.attrs,
                    told=group.attrs,
                    cosmology=read_cosmology(attributes(inputs, "cosmo_params"), sigma_8),
                    outputs={kind: member(group, _OUTPUTS)},
                )
            )
        return runs
