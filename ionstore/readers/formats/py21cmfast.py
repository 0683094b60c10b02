"""What the files of 21cmFAST 3 and 4 have in common: a box, cubes and halos."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ionstore.cube.cosmology import Cosmology
from ionstore.errors import SourceDataError
from ionstore.readers.arrays.hdf5 import number, open_hdf5_field
from ionstore.readers.arrays.sample import sample_values
from ionstore.readers.base import FieldSource, FileContents, FoundField, Quantity, redshift_in
from ionstore.readers.points.halos import MASSES, POSITIONS, HaloCatalog

OTHER_SOURCES = "or give sources of your own with --map n_src=PATH"
"""How to go on without halos."""

_MESHES = ("HII_DIM", "DIM", "HIRES_TO_LOWRES_FACTOR")


@dataclass(frozen=True, slots=True)
class SimulatedBox:
    """The box of a simulation, as far as its file tells.

    Parameters
    ----------
    length_cmpc : float, optional
        Comoving side in cMpc.
    mesh_cells : int, optional
        Cells along a side of the mesh of the fields.
    cosmology : Cosmology, optional
        Cosmology.
    """

    length_cmpc: float | None
    mesh_cells: int | None
    cosmology: Cosmology | None


def lightcone(path: Path) -> FileContents:
    """Return what a lightcone holds: nothing, and the reason."""
    return FileContents(
        (),
        notes=(
            f"{path.name} is left out: it is a lightcone, whose redshift changes along its last "
            "axis; give coeval cubes, which run_coeval or its cache write",
        ),
    )


def no_cubes(path: Path, simulation: Mapping[str, Any]) -> FileContents | None:
    """Return what a box that is not a cube holds: nothing, and the reason; None for a cube.

    Parameters
    ----------
    path : Path
        The file.
    simulation : mapping
        Attributes that may tell NON_CUBIC_FACTOR.
    """
    stretch = number(simulation, "NON_CUBIC_FACTOR")
    if stretch in (None, 1.0):
        return None
    return FileContents(
        (),
        notes=(
            f"{path.name} is left out: the last side of its box is {stretch:g} times the others "
            "(NON_CUBIC_FACTOR); simulate a cube",
        ),
    )


def read_redshift(path: Path, attributes: Mapping[str, Any]) -> float | None:
    """Return the redshift that attributes tell, or else the name of their file."""
    redshift = number(attributes, "redshift")
    return redshift_in(path.name) if redshift is None else redshift


def read_cosmology(parameters: Mapping[str, Any], sigma_8: float | None) -> Cosmology:
    """Return a cosmology.

    Parameters
    ----------
    parameters : mapping
        Attributes that tell hlittle, OMm, OMb and POWER_INDEX.
    sigma_8 : float, optional
        Amplitude of the fluctuations, which both versions tell in their own way.
    """
    return Cosmology(
        h=number(parameters, "hlittle"),
        omega_m=number(parameters, "OMm"),
        omega_b=number(parameters, "OMb"),
        sigma_8=sigma_8,
        n_s=number(parameters, "POWER_INDEX"),
    )


def read_initial_conditions(
    simulation: Mapping[str, Any], seeded: Mapping[str, Any]
) -> Mapping[str, float]:
    """Return what makes the initial conditions what they are, as far as attributes tell.

    Parameters
    ----------
    simulation : mapping
        Attributes that tell the meshes.
    seeded : mapping
        Attributes that tell the seed.
    """
    numbers = {name: number(simulation, name) for name in _MESHES}
    numbers["random_seed"] = number(seeded, "random_seed")
    return {name: value for name, value in numbers.items() if value is not None}


def read_box(simulation: Mapping[str, Any], cosmology: Cosmology) -> SimulatedBox:
    """Return the box of a simulation.

    Parameters
    ----------
    simulation : mapping
        Attributes that tell BOX_LEN and HII_DIM.
    cosmology : Cosmology
        Its cosmology.
    """
    mesh_cells = number(simulation, "HII_DIM")
    return SimulatedBox(
        number(simulation, "BOX_LEN"),
        int(mesh_cells) if mesh_cells else None,
        None if cosmology == Cosmology() else cosmology,
    )


def density_cube(path: Path, group: Any, redshift: float | None) -> list[FoundField]:
    """Return the gas density of a group that holds the perturbed field.

    Raises
    ------
    SourceDataError
        If it holds no real numbers, or the file is too short for it.
    """
    return _cube(path, group, "density", ("n_igm", "overdensity"), redshift)


def ionization_cubes(
    path: Path, group: Any, redshift: float | None, *, neutral_fraction: str, temperature: str
) -> list[FoundField]:
    """Return ionized fraction and temperature of a group that holds the ionized box.

    Parameters
    ----------
    path : Path
        The file.
    group : h5py.Group
        The group.
    redshift : float, optional
        Its redshift.
    neutral_fraction, temperature : str
        Names of the datasets. A temperature that was not computed is left out.

    Raises
    ------
    SourceDataError
        If a dataset holds no real numbers, or the file is too short for it.

    Notes
    -----
    Photoionization rates are left out: they are given in 1e-12 s-1.
    """
    found = _cube(path, group, neutral_fraction, ("xhii", "neutral_fraction"), redshift)
    for one in _cube(path, group, temperature, ("temperature", "as_is"), redshift):
        if isinstance(one.source, FieldSource) and _is_positive(one.source):
            found.append(one)
    return found


def halo_fields(
    path: Path, group: Any, redshift: float | None, box: SimulatedBox, *, in_cells: bool
) -> tuple[list[FoundField], str | None]:
    """Return number and mass of the halos of a catalog, or a note that says why there are none.

    Parameters
    ----------
    path : Path
        The file.
    group : h5py.Group
        The group with attributes and datasets of the catalog, named as in the file.
    redshift : float, optional
        Its redshift.
    box : SimulatedBox
        Box of the simulation.
    in_cells : bool
        Whether positions are cells, or in comoving Mpc.

    Raises
    ------
    SourceDataError
        If the datasets are missing, or shorter than the number of halos.
    """
    catalog = group.name.strip("/").split("/")[0]
    n_halos = number(group.attrs, "n_halos")
    if n_halos != 0:
        there = _catalog_length(path, group)
        n_halos = there if n_halos is None else n_halos
        if not 0 <= n_halos <= there:
            raise SourceDataError(
                f"{path}: expected {n_halos:.0f} halos in {catalog}, got {there}; "
                "it is damaged, copy it again"
            )
    if n_halos == 0:
        return [], (
            f"{catalog} holds no halos, so it gives no n_src; simulate with a larger DIM, which "
            f"resolves smaller ones, {OTHER_SOURCES}"
        )
    if box.mesh_cells is None or (box.length_cmpc is None and not in_cells):
        return [], (
            f"{catalog} gives no n_src, since HII_DIM or BOX_LEN is missing, which say what cells "
            f"its halos are in; write it again with 21cmFAST, {OTHER_SOURCES}"
        )
    cell_size_cmpc = None
    if not in_cells:
        assert box.length_cmpc is not None  # checked above
        cell_size_cmpc = box.length_cmpc / box.mesh_cells
    counts, masses = (
        HaloCatalog(path, group.name, int(n_halos), box.mesh_cells, cell_size_cmpc, by_mass)
        for by_mass in (False, True)
    )
    return [
        FoundField("n_src", redshift, counts, "counts"),
        FoundField("src_mass", redshift, masses, "msun"),
    ], None


def _cube(
    path: Path, group: Any, dataset: str, what: tuple[str, Quantity], redshift: float | None
) -> list[FoundField]:
    if dataset not in group:
        return []
    field, quantity = what
    return [FoundField(field, redshift, open_hdf5_field(path, group[dataset]), quantity)]


def _is_positive(source: FieldSource) -> bool:
    """Tell whether a field is a cube of positive numbers, as far as a sample of it shows."""
    is_cube = len(source.shape) == 3 and len(set(source.shape)) == 1 and source.shape[0] > 0
    if not is_cube:
        return False
    values = sample_values(source)
    return bool(((values > 0) & np.isfinite(values)).all())


def _catalog_length(path: Path, group: Any) -> int:
    shapes = {
        name: group[name].shape if name in group and hasattr(group[name], "shape") else None
        for name in (POSITIONS, MASSES)
    }
    positions, masses = shapes[POSITIONS], shapes[MASSES]
    if positions is None or masses is None or positions != (*masses, 3) or len(masses) != 1:
        raise SourceDataError(
            f"{path}: expected {POSITIONS} of shape (n, 3) and {MASSES} of shape (n,) in "
            f"{group.name}, got {positions or 'none'} and {masses or 'none'}; it is damaged, "
            "copy it again"
        )
    return int(masses[0])
