from pathlib import Path

import numpy as np
import pytest

from ionstore.cube.mesh import Array
from ionstore.readers.base import FileContents
from ionstore.readers.formats.numpy_set import NumpySet
from ionstore.readers.formats.pinion import Pinion
from tests.support.mesh_files import check_source, inspected, the_field

READER = Pinion()


def _overdensity(side: int, seed: int = 0) -> Array:
    """Mean 0, at least -1, as PINION's are."""
    ratio = np.random.default_rng(seed).lognormal(sigma=0.4, size=(side,) * 3)
    overdensity: Array = (ratio / ratio.mean() - 1).astype("f4")
    return np.asfortranarray(overdensity)


def _inspected(path: Path, cube: Array) -> FileContents | None:
    with path.open("wb") as file:
        np.save(file, cube)
    return inspected(READER, path)


@pytest.mark.parametrize("side", [3, 8, 17, 40])
def test_the_gas_density_is_an_overdensity(tmp_path: Path, side: int) -> None:
    path = tmp_path / "rho_z8.397.npz"
    cube = _overdensity(side)
    found = the_field(_inspected(path, cube))
    assert (found.field, found.redshift, found.quantity) == ("n_igm", 8.397, "overdensity")
    check_source(found.source, cube, path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prefix", "field", "quantity"),
    [
        ("nsrc", "n_src", "sources"),
        ("irate", "ionization_rate", "as_is"),
        ("xHII", "xhii", "ionized_fraction"),
        ("mask", "mfp_mask", "as_is"),
    ],
)
def test_the_other_fields_are_found(tmp_path: Path, prefix: str, field: str, quantity: str) -> None:
    cube = np.asfortranarray(np.random.default_rng(1).random((6, 6, 6)))
    path = tmp_path / f"{prefix}_z12.048.npz"
    found = the_field(_inspected(path, cube))
    assert (found.field, found.redshift, found.quantity) == (field, 12.048, quantity)
    check_source(found.source, cube, path)  # type: ignore[arg-type]


@pytest.mark.parametrize("frame", [1.0, (1 + 8.397) ** 3])
@pytest.mark.parametrize("side", [8, 40])
def test_densities_in_grams_stay_a_three_file_set(tmp_path: Path, side: int, frame: float) -> None:
    cube = (4.2e-31 * frame * (1 + _overdensity(side))).astype("f4")
    path = tmp_path / "rho_z8.397.npz"
    assert _inspected(path, cube) is None
    assert the_field(inspected(NumpySet(), path)).quantity == "density"


def test_a_broken_density_in_grams_is_no_overdensity(tmp_path: Path) -> None:
    cube = np.full((8, 8, 8), 4e-28, "f4")
    cube[1, 2, 3] = -4e-28
    assert _inspected(tmp_path / "rho_z8.397.npz", cube) is None


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_without_negative_cells_it_is_no_overdensity(tmp_path: Path, value: float) -> None:
    assert _inspected(tmp_path / "rho_z8.397.npz", np.full((8, 8, 8), value)) is None


def test_arrays_that_are_no_cubes_are_left_to_others(tmp_path: Path) -> None:
    assert _inspected(tmp_path / "rho_z8.397.npz", -np.ones((3, 4, 4, 4))) is None
    assert _inspected(tmp_path / "rho_z8.397.npz", -np.ones((3, 4, 4))) is None


def test_other_files_are_not_of_this_format(tmp_path: Path) -> None:
    cube = _overdensity(4)
    np.savez(tmp_path / "rho_z8.397.npz", cube)
    assert inspected(READER, tmp_path / "rho_z8.397.npz") is None
    for name in ("rho_z8.397.npy", "density_z8.397.npz", "temperature_z8.397.npz", "rho.npz"):
        assert _inspected(tmp_path / name, cube) is None


def test_real_densities_are_told_from_their_overdensities(
    tmp_path: Path, shared_data: Path
) -> None:
    for path in sorted((shared_data / "dev").glob("rho_z*.npy")):
        density = np.load(path)
        stream = tmp_path / path.with_suffix(".npz").name
        assert _inspected(stream, density) is None
        overdensity = (density / density.mean(dtype="f8") - 1).astype("f4")
        assert the_field(_inspected(stream, overdensity)).quantity == "overdensity"
