from itertools import pairwise

import numpy as np
import pytest

from ionstore.cube.cosmology import PLANCK18, Cosmology, mean_gas_density
from ionstore.cube.mesh import Mesh
from ionstore.errors import MemoryBudgetError, SimulationRequestError
from ionstore.simulate.cubes import SimulatedCube, simulate_cubes
from tests.support.reporters import ProgressList

REDSHIFTS = (10.11, 8.397, 7.305)


@pytest.fixture(scope="module")
def history() -> list[SimulatedCube]:
    return list(simulate_cubes(Mesh(64, 152.0), REDSHIFTS))


def test_gas_has_the_mean_density_of_baryons(history: list[SimulatedCube]) -> None:
    for cube in history:
        mean = cube.rho.mean(dtype=np.float64)
        assert mean == pytest.approx(mean_gas_density(PLANCK18, cube.redshift), rel=1e-6)
        assert cube.rho.min() > 0


def test_overdensity_is_about_that_of_a_published_code(history: list[SimulatedCube]) -> None:
    # 21cmFAST 4.1.1, same mesh and box: 0.211, 0.253, 0.289
    for cube, expected in zip(history, (0.21, 0.25, 0.28), strict=True):
        ratio = cube.rho / cube.rho.mean(dtype=np.float64)
        assert ratio.std() == pytest.approx(expected, rel=0.1)


def test_sources_are_about_those_of_a_published_code(history: list[SimulatedCube]) -> None:
    # 21cmFAST 4.1.1, halos above 1e9 Msun: 1.05, 3.44, 5.55 a cell; 0.64, 0.33, 0.20 without
    for cube, mean, without in zip(history, (1.1, 3.1, 5.1), (0.6, 0.33, 0.2), strict=True):
        assert np.array_equal(cube.n_src, np.rint(cube.n_src))
        assert cube.n_src.mean() == pytest.approx(mean, rel=0.2)
        assert (cube.n_src == 0).mean() == pytest.approx(without, rel=0.2)
        assert np.corrcoef(cube.n_src.ravel(), cube.rho.ravel() * 1e27)[0, 1] > 0.6


def test_ionization_advances_with_cosmic_time(history: list[SimulatedCube]) -> None:
    for cube, (low, high) in zip(history, ((0.1, 0.2), (0.35, 0.5), (0.7, 0.85)), strict=True):
        assert low < cube.xhii.mean() < high
        assert cube.xhii.min() >= 0
        assert cube.xhii.max() == 1
    for before, after in pairwise(history):
        assert (after.xhii >= before.xhii).mean() > 0.95


def test_cells_are_mostly_neutral_or_ionized(history: list[SimulatedCube]) -> None:
    for cube in history:
        assert ((cube.xhii < 0.1) | (cube.xhii > 0.9)).mean() > 0.7


def test_denser_regions_ionize_first(history: list[SimulatedCube]) -> None:
    early = history[0]
    assert np.corrcoef(early.rho.ravel() * 1e27, early.xhii.ravel())[0, 1] > 0.4


def test_finer_cells_leave_the_means_alike() -> None:
    coarse, fine = (next(simulate_cubes(Mesh(n, 76.0), [8.397])) for n in (32, 64))
    density = [cube.n_src.sum() / 76.0**3 for cube in (coarse, fine)]
    assert density[1] == pytest.approx(density[0], rel=0.15)
    assert fine.xhii.mean() == pytest.approx(coarse.xhii.mean(), abs=0.12)


@pytest.mark.parametrize("n", [8, 9, 15])
def test_any_mesh_works(n: int) -> None:
    cubes = list(simulate_cubes(Mesh(n, 20.0), [12.0, 6.0]))
    for cube in cubes:
        for field in (cube.rho, cube.n_src, cube.xhii):
            assert field.shape == (n, n, n)
            assert field.dtype == np.float32
            assert field.flags.c_contiguous
            assert np.isfinite(field).all()
            assert field.min() >= 0


def test_same_seed_same_bytes_whatever_else_is_simulated() -> None:
    mesh = Mesh(16, 40.0)
    both = list(simulate_cubes(mesh, [9.0, 7.0], seed=5))
    alone = next(simulate_cubes(mesh, [7.0], seed=5))
    other = next(simulate_cubes(mesh, [7.0], seed=6))
    for name in ("rho", "n_src", "xhii"):
        assert getattr(both[1], name).tobytes() == getattr(alone, name).tobytes()
        assert getattr(alone, name).tobytes() != getattr(other, name).tobytes()


def test_progress_ends_at_the_last_step() -> None:
    progress = ProgressList()
    assert len(list(simulate_cubes(Mesh(8, 20.0), [9.0, 7.0], reporter=progress))) == 2
    seen = progress.shown
    totals = {total for _, total in seen}
    assert totals == {len(seen)}
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))


@pytest.mark.parametrize(
    ("mesh", "redshifts", "seed", "said"),
    [
        (Mesh(7, 20.0), [8.0], 1, "at least 8 cells a side, got 7"),
        (Mesh(8), [8.0], 1, "box_length_cmpc"),
        (Mesh(8, float("inf")), [8.0], 1, "box_length_cmpc"),
        (Mesh(8, 8001.0), [8.0], 1, "at most 1000 cMpc wide"),
        (Mesh(8, 20.0), [], 1, "at least one redshift"),
        (Mesh(8, 20.0), [8.0, -0.5], 1, "from 0 to 50, got -0.5"),
        (Mesh(8, 20.0), [float("nan")], 1, "from 0 to 50, got nan"),
        (Mesh(8, 20.0), [8.0], -1, "seed"),
    ],
)
def test_bad_values_are_refused_at_once(
    mesh: Mesh, redshifts: list[float], seed: int, said: str
) -> None:
    with pytest.raises(SimulationRequestError, match=said):
        simulate_cubes(mesh, redshifts, seed=seed)


def test_a_cosmology_without_its_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="sigma_8"):
        simulate_cubes(Mesh(8, 20.0), [8.0], cosmology=Cosmology(h=0.7, omega_m=0.3, omega_b=0.05))


def test_a_mesh_beyond_the_memory_is_refused() -> None:
    with pytest.raises(MemoryBudgetError, match=r"try \d+ cells or fewer"):
        simulate_cubes(Mesh(100_000, 20.0), [8.0])
