from pathlib import Path

import h5py
import numpy as np
import pytest

from ionstore.cube.cosmology import Cosmology
from ionstore.readers.formats.py21cmfast3 import Py21cmFast3
from ionstore.readers.points.halos import HaloCatalog
from tests.ionstore.readers.points.test_halos import added_one_by_one, gridded
from tests.support.mesh_files import inspected
from tests.support.py21cmfast_files import (
    COSMOLOGY,
    VERSION_3,
    copied,
    field_of,
    gas_density,
    names_in,
    whole,
)

READER = Py21cmFast3()
(DENSITY,) = VERSION_3.glob("PerturbedField_*.h5")
(IONIZED,) = VERSION_3.glob("IonizedBox_*.h5")
(HALOS,) = VERSION_3.glob("PerturbHaloField_*.h5")
COEVAL = VERSION_3 / "coeval_z8.000.h5"


@pytest.mark.parametrize(("path", "mesh"), [(DENSITY, 96), (IONIZED, 96), (COEVAL, 48)])
def test_seed_and_meshes_of_the_initial_conditions_are_told(path: Path, mesh: int) -> None:
    contents = inspected(READER, path)
    assert contents is not None
    assert contents.initial_conditions == {"HII_DIM": 12, "DIM": mesh, "random_seed": 77}


def test_halos_are_counted_and_weighed_in_their_cells() -> None:
    contents = inspected(READER, HALOS)
    assert names_in(contents) == {"n_src", "src_mass"}
    with h5py.File(HALOS) as file:
        cells = file["PerturbHaloField/halo_coords"][:]
        masses = file["PerturbHaloField/halo_masses"][:]
    for name, quantity, weights in (
        ("n_src", "counts", np.ones(len(masses))),
        ("src_mass", "msun", masses),
    ):
        found = field_of(contents, name)
        assert found.quantity == quantity
        assert isinstance(found.source, HaloCatalog)
        expected = added_one_by_one(cells, weights, 1.0, 12)
        assert expected.any()
        np.testing.assert_allclose(gridded(found.source), expected, rtol=1e-6)


def test_only_as_many_halos_count_as_the_catalog_says(tmp_path: Path) -> None:
    path = copied(
        HALOS, tmp_path / "a.h5", lambda f: f["PerturbHaloField"].attrs.modify("n_halos", 3)
    )
    source = field_of(inspected(READER, path), "n_src").source
    assert isinstance(source, HaloCatalog)
    assert gridded(source).sum() == 3


def test_halos_at_their_origins_give_a_note(tmp_path: Path) -> None:
    path = copied(HALOS, tmp_path / "a.h5", lambda f: f.move("PerturbHaloField", "HaloField"))
    contents = inspected(READER, path)
    assert contents is not None
    assert contents.fields == ()
    (note,) = contents.notes
    assert "perturb_halo_list" in note
    assert "--map n_src=" in note


def test_a_cube_with_a_leading_axis_is_read(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        collapsed = file["IonizedBox/Fcoll"]
        assert collapsed.shape == (1, 12, 12, 12)
        del file["IonizedBox/xH_box"]
        file["IonizedBox/xH_box"] = collapsed[:]

    path = copied(IONIZED, tmp_path / "a.h5", change)
    found = field_of(inspected(READER, path), "xhii")
    with h5py.File(path) as file:
        np.testing.assert_array_equal(whole(found), file["IonizedBox/Fcoll"][0])


def test_what_parameters_do_not_tell_stays_open(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        del file["cosmo_params"]
        del file["user_params"].attrs["BOX_LEN"]

    contents = inspected(READER, copied(DENSITY, tmp_path / "a.h5", change))
    assert names_in(contents) == {"n_igm"}
    assert contents is not None
    assert contents.cosmology is None
    assert contents.box_length_cmpc is None

    path = copied(DENSITY, tmp_path / "b.h5", lambda f: f["cosmo_params"].attrs.pop("SIGMA_8"))
    contents = inspected(READER, path)
    assert contents is not None
    assert contents.cosmology == Cosmology(
        h=0.6766, omega_m=COSMOLOGY.omega_m, omega_b=COSMOLOGY.omega_b, n_s=0.9665
    )


def test_halos_on_an_unknown_mesh_give_a_note(tmp_path: Path) -> None:
    path = copied(HALOS, tmp_path / "a.h5", lambda f: f.pop("user_params"))
    contents = inspected(READER, path)
    assert contents is not None
    assert contents.fields == ()
    assert "HII_DIM" in contents.notes[0]


def test_real_files_give_what_their_codes_wrote(shared_data: Path) -> None:
    folder = shared_data / "dev" / "21cmfast_v3"
    found: dict[tuple[str | None, float | None], object] = {}
    for path in sorted(folder.glob("*_r77.h5")):
        contents = inspected(READER, path)
        assert contents is not None
        assert contents.box_length_cmpc == 76.192
        found |= {(one.field, one.redshift): one for one in contents.fields}
    names = ("n_igm", "xhii", "temperature", "n_src", "src_mass")
    assert set(found) == {(name, redshift) for name in names for redshift in (8.0, 7.0)}
    for redshift, mean_xhii, n_halos in ((8.0, 0.4847, 249), (7.0, 0.7812, 1030)):
        of_epoch = {name: found[name, redshift] for name in names}
        xhii = 1 - whole(of_epoch["xhii"]).astype("f8")  # type: ignore[arg-type]
        assert xhii.mean() == pytest.approx(mean_xhii, abs=1e-4)
        overdensity = whole(of_epoch["n_igm"])  # type: ignore[arg-type]
        assert np.corrcoef(overdensity.ravel(), xhii.ravel())[0, 1] > 0.3
        n_src = gridded(of_epoch["n_src"].source)  # type: ignore[attr-defined]
        assert n_src.sum() == n_halos
        assert np.corrcoef(overdensity.ravel(), n_src.ravel())[0, 1] > 0.1
        density = gas_density(overdensity, 0.6766, 0.04897468161869667, redshift)
        assert density.mean() == pytest.approx(4.211e-31 * (1 + redshift) ** 3, rel=1e-3)
