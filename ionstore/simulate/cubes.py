"""A small semi-numerical simulation of reionization, so that everything runs without data.

A stand-in for teaching, tests and demonstrations: its cubes look like those of a simulation and
have similar statistics, but it is tuned by hand and compared with nothing observed. Do not use
it for science; simulate with 21cmFAST, C2-Ray or another published code instead.

Gas moves from a Gaussian field along Zel'dovich displacements, halos are drawn from the
conditional mass function and move with it, and the excursion set finds the ionized regions.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
from numpy.typing import NDArray

from ionstore.cube.cosmology import (
    PLANCK18,
    Cosmology,
    growth_factor,
    matter_density,
    mean_gas_density,
)
from ionstore.cube.mesh import Mesh
from ionstore.errors import MemoryBudgetError, SimulationRequestError
from ionstore.simulate.displacement import Displacement, deposit_gas, move_halos
from ionstore.simulate.halos import HaloModel, draw_halo_counts, mass_radius
from ionstore.simulate.ionization import filter_radii, ionized_fraction
from ionstore.simulate.linear_field import (
    LinearSpectrum,
    displacements,
    draw_linear_modes,
    inverse_transform,
    mode_variance,
    smooth_modes,
)

DEFAULT_REDSHIFTS = (8.397,)
DEFAULT_SEED = 2021
MIN_CELLS_PER_SIDE = 8
MAX_REDSHIFT = 50.0
MAX_CELL_SIZE_CMPC = 1000.0  # no structure is left; far beyond, halos of a cell overflow int64
_PEAK_BYTES_PER_CELL = 68
_REGION_IN_SMALLEST_HALOS = 20.0


@dataclass(frozen=True, slots=True)
class ReionizationModel:
    """Parameters of sources and ionization, tuned by hand to a plausible history.

    Parameters
    ----------
    min_halo_mass_msun : float
        Smallest halo that is a source, Msun.
    ionized_mass_per_halo_msun : float
        Matter (gas and dark) whose hydrogen the photons of one halo ionize, Msun: the
        ionizing efficiency, the same at all redshifts.
    sink_photons_per_atom : float
        Photons per atom lost to absorbers before any gas ionizes.
    max_radius_cmpc : float
        Largest radius from which photons reach a cell, cMpc.
    """

    min_halo_mass_msun: float = 1e9
    ionized_mass_per_halo_msun: float = 1.5e11
    sink_photons_per_atom: float = 0.25
    max_radius_cmpc: float = 15.0


DEFAULT_MODEL = ReionizationModel()


@dataclass(frozen=True, slots=True)
class SimulatedCube:
    """The fields of one redshift.

    Parameters
    ----------
    redshift : float
        Its redshift.
    rho : ndarray of float32, shape (n, n, n)
        Proper gas density, g/cm3, >= 0.
    n_src : ndarray of float32, shape (n, n, n)
        Halos per cell, whole numbers.
    xhii : ndarray of float32, shape (n, n, n)
        Ionized fraction, 0 to 1.
    """

    redshift: float
    rho: NDArray[np.float32]
    n_src: NDArray[np.float32]
    xhii: NDArray[np.float32]


def simulate_cubes(
    mesh: Mesh,
    redshifts: Sequence[float],
    *,
    seed: int = DEFAULT_SEED,
    model: ReionizationModel = DEFAULT_MODEL,
    cosmology: Cosmology = PLANCK18,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[SimulatedCube]:
    """Simulate coeval cubes of one box, one at a time.

    Parameters
    ----------
    mesh : Mesh
        At least 8 cells a side; its box length must be known.
    redshifts : sequence of float
        Redshifts, each from 0 to 50.
    seed : int
        Seed of the initial conditions and the halos, not below 0.
    model : ReionizationModel
        Sources and ionization.
    cosmology : Cosmology
        Must tell all of its parameters.
    on_progress : callable, optional
        Called with steps done and steps in all.

    Returns
    -------
    iterator of SimulatedCube
        One for each redshift, in the order given. A cube does not depend on which other
        redshifts are asked for.

    Raises
    ------
    SimulationRequestError
        If the mesh, a redshift or the seed is out of range.
    ValueError
        If the cosmology leaves out a parameter.
    MemoryBudgetError
        If this machine has too little free memory.

    Notes
    -----
    About 68 bytes a cell at the peak, 1.1 GB for 256 cells a side. Nothing runs in parallel:
    the same arguments give the same bytes on one machine.

    References
    ----------
    Mesinger, Furlanetto & Cen 2011, MNRAS 411, 955 describe the method with more care.
    """
    check_request(mesh, redshifts, seed)
    cosmology.known("h", "omega_m", "omega_b", "sigma_8", "n_s")
    _check_memory(mesh)
    box = _Box(mesh, seed, model, cosmology)
    return _simulate(box, tuple(redshifts), on_progress)


def check_request(mesh: Mesh, redshifts: Sequence[float], seed: int) -> None:
    """Refuse what `simulate_cubes` cannot do.

    Raises
    ------
    SimulationRequestError
        Naming the argument.
    """
    if mesh.cells_per_side < MIN_CELLS_PER_SIDE:
        raise SimulationRequestError(
            f"mesh must have at least {MIN_CELLS_PER_SIDE} cells a side, got {mesh.cells_per_side}"
        )
    length = mesh.box_length_cmpc
    if length is None or not math.isfinite(length):
        raise SimulationRequestError(f"box_length_cmpc must be a length in cMpc, got {length}")
    if length > MAX_CELL_SIZE_CMPC * mesh.cells_per_side:
        raise SimulationRequestError(
            f"cells must be at most {MAX_CELL_SIZE_CMPC:g} cMpc wide, got "
            f"{length / mesh.cells_per_side:g}: far too coarse for ionized regions; "
            "simulate a smaller box or a finer mesh"
        )
    if not redshifts:
        raise SimulationRequestError("redshifts must hold at least one redshift, got none")
    for redshift in redshifts:
        if not 0 <= redshift <= MAX_REDSHIFT:
            raise SimulationRequestError(
                f"a redshift must be from 0 to {MAX_REDSHIFT:g}, got {redshift}"
            )
    if seed < 0:
        raise SimulationRequestError(f"seed must not be below 0, got {seed}")


def why_no_sources(
    mesh: Mesh,
    redshifts: Sequence[float],
    *,
    model: ReionizationModel = DEFAULT_MODEL,
    cosmology: Cosmology = PLANCK18,
) -> str:
    """Return in one sentence why a simulated box holds no sources, so that nothing reionizes.

    Parameters
    ----------
    mesh : Mesh
        Its box length must be known.
    redshifts : sequence of float
        Redshifts, all without sources.
    model, cosmology
        As in `simulate_cubes`.

    Raises
    ------
    ValueError
        If the box length is unknown, or the cosmology leaves out h or omega_m.
    """
    if mesh.box_length_cmpc is None:
        raise ValueError(f"mesh must have a box length, got {mesh}")
    mass = matter_density(cosmology) * mesh.box_length_cmpc**3
    smallest = model.min_halo_mass_msun
    if mass < smallest:
        return (
            f"no halo fits: the smallest source has {smallest:.1e} Msun, the whole box of "
            f"{mesh.box_length_cmpc:g} cMpc {mass:.1e} Msun of matter; simulate a larger box"
        )
    return (
        f"no halo of {smallest:.1e} Msun or more has formed by redshift {min(redshifts):g} out of "
        f"the {mass:.1e} Msun of matter in the box; simulate a larger box or a lower redshift"
    )


def _check_memory(mesh: Mesh) -> None:
    needed = _PEAK_BYTES_PER_CELL * mesh.n_cells
    free = psutil.virtual_memory().available
    if needed > free:
        fitting = int((free / _PEAK_BYTES_PER_CELL) ** (1 / 3))
        raise MemoryBudgetError(
            f"a mesh of {mesh.cells_per_side} cells a side needs {needed / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free; try {fitting} cells or fewer"
        )


@dataclass(frozen=True, slots=True)
class _Box:
    mesh: Mesh
    seed: int
    model: ReionizationModel
    cosmology: Cosmology

    @property
    def cell_size_cmpc(self) -> float:
        assert self.mesh.cell_size_cmpc is not None
        return self.mesh.cell_size_cmpc

    @property
    def cell_mass_msun(self) -> float:
        return matter_density(self.cosmology) * self.cell_size_cmpc**3

    def halo_regions(self, spectrum: LinearSpectrum) -> tuple[HaloModel, float]:
        """Return the halo model, and the radius in cMpc to smooth its overdensity with."""
        # The conditional mass function needs regions that can hold several halos.
        region_mass = _REGION_IN_SMALLEST_HALOS * self.model.min_halo_mass_msun
        radius = mass_radius(spectrum, region_mass)
        if self.cell_mass_msun >= region_mass:
            region_mass, radius = self.cell_mass_msun, 0.0
        variance = mode_variance(self.mesh, spectrum, radius_cmpc=radius)
        halos = HaloModel(spectrum, self.model.min_halo_mass_msun, region_mass, variance)
        return halos, radius


def _simulate(
    box: _Box, redshifts: tuple[float, ...], on_progress: Callable[[int, int], None] | None
) -> Iterator[SimulatedCube]:
    n = box.mesh.cells_per_side
    radii = filter_radii(n, box.model.max_radius_cmpc / box.cell_size_cmpc)
    n_steps = 1 + len(redshifts) * (2 + len(radii))
    n_done = 0

    def step() -> None:
        nonlocal n_done
        n_done += 1
        if on_progress is not None:
            on_progress(n_done, n_steps)

    spectrum = LinearSpectrum(box.cosmology)
    modes = draw_linear_modes(box.mesh, spectrum, np.random.default_rng([box.seed, 0]))
    along_x, along_y, along_z = displacements(modes, n)
    displacement = (along_x, along_y, along_z)
    halos, radius_cmpc = box.halo_regions(spectrum)
    if radius_cmpc > 0:
        modes = smooth_modes(modes, n, radius_cmpc / box.cell_size_cmpc)
    overdensity = inverse_transform(modes, n)
    del modes
    step()
    for redshift in redshifts:
        growth = growth_factor(box.cosmology, redshift)
        gas = deposit_gas(displacement, growth)
        gas /= np.float32(gas.mean(dtype=np.float64))
        step()
        grid, abundance = halos.conditional_abundance(redshift)
        mean_counts = (grid, abundance * box.cell_mass_msun)
        n_src = _draw_halos(overdensity, mean_counts, displacement, growth, box.seed)
        step()
        per_halo = box.model.ionized_mass_per_halo_msun / box.cell_mass_msun
        photons = n_src * np.float32(per_halo)
        photons -= np.float32(box.model.sink_photons_per_atom) * gas
        xhii = ionized_fraction(photons, gas, radii, on_radius=step)
        del photons
        gas *= np.float32(mean_gas_density(box.cosmology, redshift))
        yield SimulatedCube(redshift, gas, n_src, xhii)
        del gas, n_src, xhii


def _draw_halos(
    overdensity: NDArray[np.float32],
    mean_counts: tuple[NDArray[np.float64], NDArray[np.float64]],
    displacement: Displacement,
    growth: float,
    seed: int,
) -> NDArray[np.float32]:
    n_src = np.zeros_like(overdensity)
    # The same stream at every redshift, so that halos stay; by planes, to bound the memory.
    rng = np.random.default_rng([seed, 1])
    for plane, linear in enumerate(overdensity):
        normals = rng.standard_normal(linear.shape, dtype=np.float32)
        offsets = rng.random((1, *linear.shape, 3), dtype=np.float32)
        counts = draw_halo_counts(np.interp(linear, *mean_counts), normals)
        move_halos(counts[None], offsets, plane, displacement, growth, out=n_src)
    return n_src
