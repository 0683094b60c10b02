"""Small files of 21cmFAST, copies of them with changes, and the gas density that they imply."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ionstore.cube.cosmology import Cosmology
from ionstore.cube.mesh import Array
from ionstore.readers.base import FieldSource, FileContents, FoundField
from tests.support.places import DATA

VERSION_3 = DATA / "21cmfast_v3"
VERSION_4 = DATA / "21cmfast_v4"
COSMOLOGY = Cosmology(
    h=0.6766,
    omega_m=0.30964144154550644,
    omega_b=0.04897468161869667,
    sigma_8=0.8102,
    n_s=0.9665,
)


def copied(source: Path, target: Path, change: Callable[[h5py.File], Any]) -> Path:
    """A copy of a file with something changed in it."""
    shutil.copy(source, target)
    target.chmod(0o644)
    with h5py.File(target, "r+") as file:
        change(file)
    return target


def field_of(contents: FileContents | None, name: str) -> FoundField:
    """The field of this name, which must be there once."""
    assert contents is not None
    (found,) = [one for one in contents.fields if one.field == name]
    return found


def names_in(contents: FileContents | None) -> set[str | None]:
    """Names of the fields."""
    assert contents is not None
    return {one.field for one in contents.fields}


def whole(found: FoundField) -> Array:
    """All values of a field."""
    assert isinstance(found.source, FieldSource)
    block: Array = found.source.read_block((0, 0, 0), found.source.shape)  # type: ignore[arg-type]
    streamed = np.concatenate(list(found.source.stream(lambda _: None)))
    np.testing.assert_array_equal(streamed.reshape(block.shape), block)
    return block


def gas_density(overdensity: Array, h: float, omega_b: float, redshift: float) -> Array:
    """Proper gas density in g/cm3, in float64."""
    hubble = h * 100 * 1e5 / 3.0856775814913673e24  # per second
    critical = 3 * hubble**2 / (8 * np.pi * 6.6743e-8)
    density: Array = omega_b * critical * (1 + redshift) ** 3 * (1 + overdensity.astype("f8"))
    return density
