"""`write_simulation`: a simulation as three files per redshift: gas, sources, ionized fraction."""

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ionstore.cube.cosmology import PLANCK18, Cosmology
from ionstore.cube.description import FILE_NAME, SimulationDescription, read_description
from ionstore.cube.fields import N_IGM, N_SRC, XHII
from ionstore.cube.mesh import Mesh
from ionstore.errors import SimulationRequestError, StoreExistsError
from ionstore.reporter import SILENT, Reporter
from ionstore.simulate.cubes import (
    DEFAULT_MODEL,
    DEFAULT_SEED,
    ReionizationModel,
    SimulatedCube,
    check_request,
    simulate_cubes,
)
from ionstore.storage.disk_space import require_space

_STAGING = ".simulate-partial"
_PREFIXES = tuple(field.file_prefix for field in (N_IGM, N_SRC, XHII))
_CUBE_FILE = re.compile(rf"({'|'.join(_PREFIXES)})_z\d+(\.\d+)?\.npy")


@dataclass(frozen=True, slots=True)
class WrittenCube:
    """Files and averages of one redshift.

    Parameters
    ----------
    redshift : float
        Redshift of the cube.
    paths : tuple of Path
        Files of the gas density, the sources and the ionized fraction.
    mean_xhii_volume : float
        Volume mean of the ionized fraction, 0 to 1.
    n_sources : int
        Halos in the box.
    share_without_source : float
        Fraction of the cells without a halo, 0 to 1.
    """

    redshift: float
    paths: tuple[Path, Path, Path]
    mean_xhii_volume: float
    n_sources: int
    share_without_source: float


def cube_file_names(redshift: float) -> tuple[str, str, str]:
    """Return the names of the three files of a redshift.

    >>> cube_file_names(8.397)
    ('rho_z8.397.npy', 'nsrc_z8.397.npy', 'xHII_z8.397.npy')
    """
    rho, n_src, xhii = (f"{prefix}_z{redshift:.3f}.npy" for prefix in _PREFIXES)
    return rho, n_src, xhii


def write_simulation(
    out: str | os.PathLike[str],
    mesh: Mesh,
    redshifts: Sequence[float],
    *,
    seed: int = DEFAULT_SEED,
    overwrite: bool = False,
    model: ReionizationModel = DEFAULT_MODEL,
    cosmology: Cosmology = PLANCK18,
    reporter: Reporter = SILENT,
) -> tuple[WrittenCube, ...]:
    """Simulate coeval cubes and write them as a three-file set with its description.

    Parameters
    ----------
    out : str or path-like
        Folder to write into; created if missing, must be empty unless `overwrite`.
    mesh : Mesh
        At least 8 cells a side; its box length must be known.
    redshifts : sequence of float
        Redshifts from 0 to 50, no two with the same third decimal.
    seed : int
        Seed of the initial conditions and the halos, not below 0.
    overwrite : bool
        Replace the cubes of an earlier simulation of the same redshifts. Other files stay.
    model : ReionizationModel
        Sources and ionization.
    cosmology : Cosmology
        Must have all of its parameters.
    reporter : Reporter
        Gets the steps done and their number.

    Returns
    -------
    tuple of WrittenCube
        In the order of cosmic time.

    Raises
    ------
    SimulationRequestError
        If the mesh, a redshift or the seed is out of range, or two redshifts share file names.
    ValueError
        If the cosmology lacks a parameter.
    StoreExistsError
        If `out` is a file or a folder that is not empty. With `overwrite`: if it holds cubes that
        this simulation would not replace, or that `ionstore` did not simulate.
    SourceDataError
        If, with `overwrite`, the `simulation.json` in `out` cannot be read.
    DiskSpaceError
        If the disk has too little room.
    MemoryBudgetError
        If this machine has too little free memory.

    Notes
    -----
    All files are written in a folder inside `out` and renamed at the end, `simulation.json` last.
    """
    out = Path(out)
    ordered = sorted(redshifts, reverse=True)
    check_request(mesh, ordered, seed)
    _check_file_names(ordered)
    replaced = {name for redshift in ordered for name in cube_file_names(redshift)}
    _check_folder(out, replaced, overwrite)
    cubes = simulate_cubes(
        mesh, ordered, seed=seed, model=model, cosmology=cosmology, reporter=reporter
    )
    out.mkdir(parents=True, exist_ok=True)
    _check_disk(out, mesh, len(ordered))
    staging = out / _STAGING
    shutil.rmtree(staging, ignore_errors=True)  # left by a run that was killed
    staging.mkdir()
    try:
        written = tuple(_write_cube(cube, staging, out) for cube in cubes)
        SimulationDescription(
            box_length_cmpc=mesh.box_length_cmpc,
            cosmology=cosmology,
            density_frame="proper",
            n_src_units="1",
            seed=seed,
        ).write(staging)
        for cube in written:
            for path in cube.paths:
                os.replace(staging / path.name, path)
        # Last: a folder that was empty and has this file holds a whole simulation.
        os.replace(staging / FILE_NAME, out / FILE_NAME)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return written


def _check_file_names(ordered: Sequence[float]) -> None:
    for earlier, later in pairwise(ordered):
        if cube_file_names(earlier) == cube_file_names(later):
            raise SimulationRequestError(
                f"redshifts {earlier} and {later} would both be written as "
                f"{cube_file_names(later)[0]}; give redshifts that differ by 0.001 or more"
            )


def _check_folder(out: Path, replaced: set[str], overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise StoreExistsError(f"{out}: expected a folder, got a file; choose another name")
    names = {path.name for path in out.iterdir()} - {_STAGING}
    if not names:
        return
    if not overwrite:
        raise StoreExistsError(
            f"{out}: the folder is not empty; choose another one, or --overwrite the simulation "
            f"in it"
        )
    # Only cubes that a simulation wrote may be replaced; other data have no seed.
    cubes = {name for name in names if _CUBE_FILE.fullmatch(name)}
    if cubes and read_description(out).seed is None:
        raise StoreExistsError(
            f"{out}: holds cubes that `ionstore simulate` did not write "
            f"(its {FILE_NAME} has no seed); choose another folder"
        )
    # `ionstore ingest` would take cubes of two different boxes for one simulation.
    if kept := sorted(cubes - replaced):
        raise StoreExistsError(
            f"{out}: {kept[0]} would stay and be mixed with the new simulation; remove the cubes "
            f"of other redshifts, give their redshifts as well, or choose another folder"
        )


def _check_disk(out: Path, mesh: Mesh, n_redshifts: int) -> None:
    needed = 3 * 4 * mesh.n_cells * n_redshifts  # three fields of float32
    require_space(out, needed, out, way_on="choose a smaller mesh or fewer redshifts")


def _write_cube(cube: SimulatedCube, staging: Path, out: Path) -> WrittenCube:
    names = cube_file_names(cube.redshift)
    for name, field in zip(names, (cube.rho, cube.n_src, cube.xhii), strict=True):
        _write_array(staging / name, field)
    rho, n_src, xhii = (out / name for name in names)
    return WrittenCube(
        cube.redshift,
        (rho, n_src, xhii),
        float(cube.xhii.mean(dtype=np.float64)),
        int(cube.n_src.sum(dtype=np.float64)),
        float(np.count_nonzero(cube.n_src == 0) / cube.n_src.size),
    )


def _write_array(path: Path, field: NDArray[np.float32]) -> None:
    with path.open("wb") as file:
        np.save(file, field)
        file.flush()
        os.fsync(file.fileno())  # before the rename, so that a crash leaves no empty file
