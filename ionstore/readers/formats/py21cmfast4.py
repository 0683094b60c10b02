"""Files of 21cmFAST 4: ``IonizedBox.h5`` and others of its cache tree, Coeval files."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ionstore.readers.arrays.hdf5 import HDF5_MAGIC, attributes, number, opened_hdf5
from ionstore.readers.base import FileContents, FileReader, FoundField
from ionstore.readers.formats.py21cmfast import (
    OTHER_SOURCES,
    SimulatedBox,
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

_INPUTS, _OUTPUTS = "InputParameters", "OutputFields"
_PERTURBED = f"compute a PerturbedHaloCatalog with perturb_halo_catalog, {OTHER_SOURCES}"
_NO_SOURCES = {
    "HaloCatalog": (
        "HaloCatalog tells where the matter of halos came from (Lagrangian positions), not where "
        f"they are, so it gives no n_src; {_PERTURBED}"
    ),
    "HaloBox": (
        "HaloBox holds expected numbers of halos, those too small for the catalog among them, so "
        f"it gives no n_src; {_PERTURBED}"
    ),
}


class Py21cmFast4(FileReader):
    """Reads HDF5 files with a group for each kind of output, which holds its inputs as well."""

    name = "21cmfast-v4"
    description = "21cmFAST 4: PerturbedField.h5, IonizedBox.h5, PerturbedHaloCatalog.h5, Coeval"

    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        """Return density, ionized fraction, temperature and halos of a file, as far as it has them.

        Parameters
        ----------
        path : Path
            The file; redshifts are attributes, or else in its name.
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
            if file.attrs.get("lightcone", False) and "lightcones" in file:
                return lightcone(path)
            kinds = dict(_kinds(file))
            if not kinds:
                return None
            for kind in kinds.values():
                if (nothing := no_cubes(path, _options(kind))) is not None:
                    return nothing
            boxes = {name: _box(kind) for name, kind in kinds.items()}
            first = next(iter(kinds.values()))
            initial_conditions = read_initial_conditions(_options(first), first[_INPUTS].attrs)
            fields: list[FoundField] = []
            notes: list[str] = []
            for name, kind in kinds.items():
                redshift = read_redshift(path, kind.attrs)
                outputs = kind[_OUTPUTS]
                if name == "PerturbedField":
                    fields += density_cube(path, outputs, redshift)
                elif name == "IonizedBox":
                    fields += ionization_cubes(
                        path,
                        outputs,
                        redshift,
                        neutral_fraction="neutral_fraction",
                        temperature="kinetic_temperature",
                    )
                elif name == "PerturbedHaloCatalog":
                    found, note = halo_fields(path, outputs, redshift, boxes[name], in_cells=False)
                    fields += found
                    notes += [note] if note else []
                elif name in _NO_SOURCES and "PerturbedHaloCatalog" not in kinds:
                    notes.append(_NO_SOURCES[name])
        box = next(iter(boxes.values()))
        return FileContents(
            tuple(fields), box.length_cmpc, box.cosmology, tuple(notes), initial_conditions
        )


def _kinds(file: Any) -> Iterator[tuple[str, Any]]:
    """Yield the groups of outputs by their kinds."""
    for name in file:
        group = file.get(name)  # None for links to what is not there
        if hasattr(group, "keys") and _INPUTS in group and _OUTPUTS in group:
            yield name, group


def _options(kind: Any) -> Mapping[str, Any]:
    return attributes(kind[_INPUTS], "simulation_options")


def _box(kind: Any) -> SimulatedBox:
    inputs = kind[_INPUTS]
    parameters, tables = attributes(inputs, "cosmo_params"), attributes(inputs, "cosmo_tables")
    # The fluctuations are normalized by their amplitude at 8 Mpc/h or in another way.
    sigma_8 = number(tables, "ps_norm") if tables.get("USE_SIGMA_8", False) else None
    cosmology = read_cosmology(parameters, sigma_8)
    return read_box(_options(kind), cosmology)
