"""`simulate_cubes`: a small semi-numerical simulation of reionization.

Meant for teaching, tests and demonstrations: its cubes look like those of a simulation and have
similar statistics, but its parameters are tuned by hand and compared with no observation. Do not
use it for science; use 21cmFAST, C2-Ray or another published code instead.

Gas moves along Zel'dovich displacements of a Gaussian field, halos are drawn from the conditional
mass function and move with the gas, and an excursion set finds the ionized regions.
"""

import math
from collections.abc import Iterator, Sequence
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
from ionstore.errors import MemoryBudgetError, SimulationRequestError, bytes_in_words
from ionstore.reporter import SILENT, Reporter
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
MAX_CELL_SIZE_CMPC = 1000.0  # no structure is left; far above it, halos per cell overflow int64
_PEAK_BYTES_PER_CELL = 68
_REGION_IN_SMALLEST_HALOS = 20.0  # regions of the conditional mass function, in smallest halos


@dataclass(frozen=True, slots=True)
class ReionizationModel:
    """Parameters of sources and ionization, tuned by hand for a plausible history.

    Parameters
    ----------
    min_halo_mass_msun : float
        Smallest halo that is a source, Msun.
    ionized_mass_per_halo_msun : float
        Matter (gas and dark matter), Msun, whose hydrogen the photons of one halo ionize: the
        ionizing efficiency, the same at all redshifts.
    sink_photons_per_atom : float
        Photons per atom that absorbers take before any gas is ionized.
    max_radius_cmpc : float
        Largest distance from which photons reach a cell, cMpc.
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
        Redshift of the cube.
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
    reporter: Reporter = SILENT,
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
        Must have all of its parameters.
    reporter : Reporter
        Gets the steps done and their number.

    Returns
    -------
    iterator of SimulatedCube
        One for each redshift, in the order given. A cube does not depend on the other
        redshifts.

    Raises
    ------
    SimulationRequestError
        If the mesh, a redshift or the seed is out of range.
    ValueError
        If the cosmology lacks a parameter.
    MemoryBudgetError
        If this machine has too little free memory.

    Notes
    -----
    Needs about 68 bytes per cell at the peak, 1.1 GB for 256 cells a side. Runs serially, so the
    same arguments give the same bytes on one machine.

    References
    ----------
    Mesinger, Furlanetto & Cen 2011, MNRAS 411, 955 (the method, in more detail).
    """
    # Checked here, not in the generator, whose body runs only once it is iterated.
    check_request(mesh, redshifts, seed)
    cosmology.known("h", "omega_m", "omega_b", "sigma_8", "n_s")
    _check_memory(mesh)
    box = _Box(mesh, seed, model, cosmology)
    return _simulate(box, tuple(redshifts), reporter)


def check_request(mesh: Mesh, redshifts: Sequence[float], seed: int) -> None:
    """Raise SimulationRequestError for arguments that `simulate_cubes` cannot use."""
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
            f"{length / mesh.cells_per_side:g}, too coarse for ionized regions; "
            "simulate a smaller box or a finer mesh"
        )
    if not redshifts:
        raise SimulationRequestError("redshifts must have at least one redshift, got none")
    for redshift in redshifts:
        if not 0 <= redshift <= MAX_REDSHIFT:
            raise SimulationRequestError(
                f"a redshift must be from 0 to {MAX_REDSHIFT:g}, got {redshift}"
            )
    if seed < 0:
        raise SimulationRequestError(f"seed must be 0 or more, got {seed}")


def why_no_sources(
    mesh: Mesh,
    redshifts: Sequence[float],
    *,
    model: ReionizationModel = DEFAULT_MODEL,
    cosmology: Cosmology = PLANCK18,
) -> str:
    """Return in one sentence why a simulated box has no sources at any of the redshifts."""
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
    # Refused before the work: running out of memory would kill the process without a message.
    needed = _PEAK_BYTES_PER_CELL * mesh.n_cells
    free = psutil.virtual_memory().available
    if needed > free:
        fitting = int((free / _PEAK_BYTES_PER_CELL) ** (1 / 3))
        raise MemoryBudgetError(
            f"a mesh of {mesh.cells_per_side} cells a side needs {bytes_in_words(needed)} of "
            f"memory, {bytes_in_words(free)} are free; try {fitting} cells or fewer"
        )


@dataclass(frozen=True, slots=True)
class _Box:
    """Properties of a simulation that are the same at all redshifts."""

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
        """Return the halo model, and the radius in cMpc over which its overdensity is smoothed."""
        # The conditional mass function needs regions that can hold several halos. Where a cell is
        # that heavy, cells are the regions, and nothing is smoothed.
        region_mass = _REGION_IN_SMALLEST_HALOS * self.model.min_halo_mass_msun
        radius = mass_radius(spectrum, region_mass)
        if self.cell_mass_msun >= region_mass:
            region_mass, radius = self.cell_mass_msun, 0.0
        variance = mode_variance(self.mesh, spectrum, radius_cmpc=radius)
        halos = HaloModel(spectrum, self.model.min_halo_mass_msun, region_mass, variance)
        return halos, radius


def _simulate(
    box: _Box, redshifts: tuple[float, ...], reporter: Reporter
) -> Iterator[SimulatedCube]:
    n = box.mesh.cells_per_side
    radii = filter_radii(n, box.model.max_radius_cmpc / box.cell_size_cmpc)
    n_steps = 1 + len(redshifts) * (2 + len(radii))
    n_done = 0

    def step() -> None:
        nonlocal n_done
        n_done += 1
        reporter.progress(n_done, n_steps)

    spectrum = LinearSpectrum(box.cosmology)
    # Separate random streams for the field and the halos: neither depends on how many numbers the
    # other one draws.
    modes = draw_linear_modes(box.mesh, spectrum, np.random.default_rng([box.seed, 0]))
    along_x, along_y, along_z = displacements(modes, n)
    displacement = (along_x, along_y, along_z)
    halos, radius_cmpc = box.halo_regions(spectrum)
    if radius_cmpc > 0:
        modes = smooth_modes(modes, n, radius_cmpc / box.cell_size_cmpc)
    overdensity = inverse_transform(modes, n)
    del modes  # three displacements and the overdensity remain, 16 bytes per cell
    step()
    for redshift in redshifts:
        growth = growth_factor(box.cosmology, redshift)
        # Zel'dovich 1970: displacements grow as the linear growth factor.
        gas = deposit_gas(displacement, growth)
        gas /= np.float32(gas.mean(dtype=np.float64))  # float32 leaves it slightly off 1
        step()
        grid, abundance = halos.conditional_abundance(redshift)
        mean_counts = (grid, abundance * box.cell_mass_msun)
        n_src = _draw_halos(overdensity, mean_counts, displacement, growth, box.seed)
        step()
        # Mesinger et al. 2011, section 2.2, with photons counted per atom of a mean cell.
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
    """Return the halos per cell, after they moved with their matter."""
    n_src = np.zeros_like(overdensity)
    # The same numbers at every redshift, so that halos stay from one to the next; plane by plane,
    # because offsets of all cells would take 12 bytes per cell.
    rng = np.random.default_rng([seed, 1])
    for plane, linear in enumerate(overdensity):
        normals = rng.standard_normal(linear.shape, dtype=np.float32)
        offsets = rng.random((1, *linear.shape, 3), dtype=np.float32)
        counts = draw_halo_counts(np.interp(linear, *mean_counts), normals)
        move_halos(counts[None], offsets, plane, displacement, growth, out=n_src)
    return n_src
