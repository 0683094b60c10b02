"""Common parts of the readers of 21cmFAST 3 and 4, which group the same outputs differently."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ionstore.cube.cosmology import Cosmology
from ionstore.errors import SourceDataError
from ionstore.readers.arrays.hdf5 import HDF5_MAGIC, member, number, open_hdf5_field, opened_hdf5
from ionstore.readers.arrays.sample import sample_values
from ionstore.readers.base import FieldSource, FileContents, FileReader, FoundField, Quantity
from ionstore.readers.file_names import redshift_in
from ionstore.readers.points.halos import DATASETS, HaloCatalog
from ionstore.readers.points.positions import n_listed

OTHER_SOURCES = "or give sources of your own with --map n_src=PATH"

_LIGHTCONE = (
    "it is a lightcone, whose redshift changes along its last axis; give coeval cubes, which "
    "run_coeval or its cache write"
)
# Files of one run agree in these; another mesh has other initial conditions from the same seed.
_MESHES = ("HII_DIM", "DIM", "HIRES_TO_LOWRES_FACTOR")


@dataclass(frozen=True, slots=True)
class Run:
    """Outputs in an open file, and the parameters that they were computed with."""

    # Attributes with the box and its meshes, the seed, and the redshift.
    simulation: Mapping[str, Any]
    seeded: Mapping[str, Any]
    told: Mapping[str, Any]
    cosmology: Cosmology
    outputs: Mapping[str, Any]  # groups of datasets, by the kind of output

    @property
    def box_length_cmpc(self) -> float | None:
        """Comoving side of the box; 21cmFAST gives it in Mpc, not in Mpc/h."""
        return number(self.simulation, "BOX_LEN")

    @property
    def mesh_cells(self) -> int | None:
        """Cells along a side of the mesh of the fields."""
        mesh_cells = number(self.simulation, "HII_DIM")
        return int(mesh_cells) if mesh_cells else None

    @property
    def initial_conditions(self) -> Mapping[str, float]:
        """Seed and meshes, as far as they are told."""
        numbers = {name: number(self.simulation, name) for name in _MESHES}
        numbers["random_seed"] = number(self.seeded, "random_seed")
        return {name: value for name, value in numbers.items() if value is not None}


class Py21cmFast(FileReader):
    """Reads density, ionized fraction, temperature and halos of one version of 21cmFAST."""

    neutral_fraction: ClassVar[str]
    temperature: ClassVar[str]
    halos: ClassVar[str]
    halos_in_cells: ClassVar[bool]  # else in comoving Mpc
    no_sources: ClassVar[Mapping[str, str]]
    """Kinds of output that look like sources, and notes that say why they are none."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of output that give a field, or seem to."""
        return ("PerturbedField", "IonizedBox", self.halos, *self.no_sources)

    @abstractmethod
    def is_lightcone(self, file: Any) -> bool:
        """Tell whether an open file is a lightcone of this version."""

    @abstractmethod
    def runs(self, file: Any) -> list[Run]:
        """Return the outputs of an open file, nothing if it is not of this version."""

    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        """Return the fields of a file; an attribute tells the redshift, or else its name."""
        if not head.startswith(HDF5_MAGIC):
            return None
        with opened_hdf5(path) as file:
            if self.is_lightcone(file):
                return FileContents.left_out(path, _LIGHTCONE)
            runs = self.runs(file)
            if not runs:
                return None
            for run in runs:
                stretch = number(run.simulation, "NON_CUBIC_FACTOR")
                if stretch not in (None, 1.0):
                    return FileContents.left_out(
                        path,
                        f"the last side of its box is {stretch:g} times the others "
                        "(NON_CUBIC_FACTOR); simulate a cube",
                    )
            fields: list[FoundField] = []
            notes: list[str] = []
            kinds = {kind for run in runs for kind in run.outputs}
            for run in runs:
                for kind, group in run.outputs.items():
                    if kind == self.halos:
                        found, note = _halo_fields(
                            path, group, run, kind, in_cells=self.halos_in_cells
                        )
                        fields += found
                        notes += [note] if note else []
                    elif kind in self.no_sources and self.halos not in kinds:
                        notes.append(self.no_sources[kind])
                    else:
                        fields += self._cubes(path, group, run, kind)
            first = runs[0]  # the runs of one file differ in nothing but their outputs
            return FileContents(
                tuple(fields),
                first.box_length_cmpc,
                None if first.cosmology == Cosmology() else first.cosmology,
                tuple(notes),
                first.initial_conditions,
            )

    def _cubes(self, path: Path, group: Any, run: Run, kind: str) -> list[FoundField]:
        redshift = _redshift(path, run)
        found = [
            FoundField(field, redshift, open_hdf5_field(path, numbers), quantity)
            for dataset, field, quantity in self._datasets(kind)
            if (numbers := member(group, dataset)) is not None
        ]
        # A temperature that was not computed is stored all the same, as zeros.
        return [one for one in found if one.field != "temperature" or _is_positive(one.source)]

    def _datasets(self, kind: str) -> list[tuple[str, str, Quantity]]:
        """Return the datasets of a kind of output that are fields, with field and quantity."""
        if kind == "PerturbedField":
            return [("density", "n_igm", "overdensity")]
        if kind == "IonizedBox":
            # Photoionization rates are left out: they are given in 1e-12 s-1.
            return [
                (self.neutral_fraction, "xhii", "neutral_fraction"),
                (self.temperature, "temperature", "as_is"),
            ]
        return []


def read_cosmology(parameters: Mapping[str, Any], sigma_8: float | None) -> Cosmology:
    """Return a cosmology; each version tells sigma_8 in its own way."""
    return Cosmology(
        h=number(parameters, "hlittle"),
        omega_m=number(parameters, "OMm"),
        omega_b=number(parameters, "OMb"),
        sigma_8=sigma_8,
        n_s=number(parameters, "POWER_INDEX"),
    )


def _redshift(path: Path, run: Run) -> float | None:
    # Names and folders have rounded redshifts (8.2899 for 8.289925), so attributes come first.
    redshift = number(run.told, "redshift")
    return redshift_in(path.name) if redshift is None else redshift


def _halo_fields(
    path: Path, group: Any, run: Run, kind: str, *, in_cells: bool
) -> tuple[list[FoundField], str | None]:
    """Return number and mass of the halos of a catalog, or a note that says why there are none."""
    n_halos = number(group.attrs, "n_halos")
    # A catalog without halos may have no datasets either.
    if n_halos != 0:
        there = n_listed(path, group, DATASETS, "it is damaged, copy it again")
        n_halos = there if n_halos is None else n_halos
        if not 0 <= n_halos <= there:
            raise SourceDataError(
                f"{path}: expected {n_halos:.0f} halos in {kind}, got {there}; "
                "it is damaged, copy it again"
            )
    if n_halos == 0:
        return [], (
            f"{kind} holds no halos, so it gives no n_src; simulate with a larger DIM, which "
            f"resolves smaller ones, {OTHER_SOURCES}"
        )
    mesh_cells, box_length = run.mesh_cells, run.box_length_cmpc
    if mesh_cells is None or (box_length is None and not in_cells):
        return [], (
            f"{kind} gives no n_src, since HII_DIM or BOX_LEN is missing, which say what cells "
            f"its halos are in; write it again with 21cmFAST, {OTHER_SOURCES}"
        )
    cell_size = None if in_cells or box_length is None else box_length / mesh_cells
    counts, masses = (
        HaloCatalog(path, group.name, int(n_halos), mesh_cells, cell_size, by_mass)
        for by_mass in (False, True)
    )
    redshift = _redshift(path, run)
    return [
        FoundField("n_src", redshift, counts, "counts"),
        FoundField("src_mass", redshift, masses, "msun"),
    ], None


def _is_positive(source: object) -> bool:
    """Tell whether a field is a cube of positive numbers, as far as a sample of it shows."""
    assert isinstance(source, FieldSource)
    is_cube = len(source.shape) == 3 and len(set(source.shape)) == 1 and source.shape[0] > 0
    if not is_cube:
        return False
    values = sample_values(source)
    return bool(((values > 0) & np.isfinite(values)).all())
