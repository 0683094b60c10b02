import struct
from pathlib import Path

import numpy as np
import pytest

from ionstore.errors import SourceDataError
from ionstore.readers.base import FieldSource
from ionstore.readers.formats.cubep3m import CubeP3M
from tests.support.mesh_files import check_source, inspected, plain_mesh, the_field
from tests.support.places import DATA

CUBE = np.random.default_rng(1).random((5, 5, 5)).astype("f4")


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_density_is_in_grid_masses(tmp_path: Path, byte_order: str) -> None:
    path = tmp_path / "10.110n_all.dat"
    found = the_field(inspected(CubeP3M(), path, plain_mesh(CUBE, byte_order)))
    assert (found.field, found.quantity, found.redshift) == ("n_igm", "gas_grid_mass", 10.11)
    assert isinstance(found.source, FieldSource)
    check_source(found.source, CUBE, path)


def test_tools21cm_reads_the_same() -> None:
    density_file = pytest.importorskip("tools21cm.density_file")
    path = DATA / "c2ray" / "8.700n_all.dat"
    found = the_field(inspected(CubeP3M(), path))
    theirs = density_file.DensityFile(str(path))
    assert found.redshift == theirs.z
    assert isinstance(found.source, FieldSource)
    check_source(found.source, theirs.raw_density, path)


def test_real_densities_are_those_of_the_set_of_files(shared_data: Path) -> None:
    path = shared_data / "dev" / "c2ray_container" / "8.700n_all.dat"
    found = the_field(inspected(CubeP3M(), path))
    assert isinstance(found.source, FieldSource)
    block = found.source.read_block((0, 0, 0), (64, 64, 64))
    ratio = block / np.load(shared_data / "dev" / "pyc2ray_rt" / "rho_z8.700.npy").astype("f8")
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-6)


@pytest.mark.parametrize("name", ["8.700v_all.dat", "velocity.dat"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_velocities_are_left_out(tmp_path: Path, name: str, byte_order: str) -> None:
    content = struct.pack(f"{byte_order}3i", 4, 4, 4) + bytes(12 * 64)
    contents = inspected(CubeP3M(), tmp_path / name, content)
    assert contents is not None
    assert contents.fields == ()
    assert contents.notes == (f"{name} is left out: velocities are not stored",)


def test_clumping_factors_are_left_out(tmp_path: Path) -> None:
    contents = inspected(CubeP3M(), tmp_path / "8.700c_all.dat", plain_mesh(CUBE))
    assert contents is not None
    assert contents.fields == ()
    assert contents.notes == ("8.700c_all.dat is left out: clumping factors are not stored",)


@pytest.mark.parametrize("name", ["8.700n_all.dat", "8.700v_all.dat"])
def test_truncated_or_longer_files_are_refused(tmp_path: Path, name: str) -> None:
    content = plain_mesh(CUBE)
    for damaged in (content[:0], content[:11], content[:12], content[:-1], content + b"0"):
        with pytest.raises(SourceDataError, match=rf"{name}: .*copy it again"):
            inspected(CubeP3M(), tmp_path / name, damaged)


def test_other_files_are_not_claimed(tmp_path: Path) -> None:
    assert inspected(CubeP3M(), tmp_path / "mesh_8.700.dat", plain_mesh(CUBE)) is None
    assert inspected(CubeP3M(), tmp_path / "8.700rho_all.dat", plain_mesh(CUBE)) is None
    no_sizes = np.full(203, 97844.7, "f4").tobytes()
    assert inspected(CubeP3M(), tmp_path / "8.700n_all.dat", no_sizes) is None
