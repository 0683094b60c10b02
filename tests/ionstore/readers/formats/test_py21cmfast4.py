from pathlib import Path

import h5py
import numpy as np
import pytest

from ionstore.readers.formats.py21cmfast4 import Py21cmFast4
from ionstore.readers.points.halos import HaloCatalog
from tests.ionstore.readers.points.test_halos import added_one_by_one, gridded
from tests.support.mesh_files import inspected
from tests.support.py21cmfast_files import (
    COSMOLOGY,
    VERSION_4,
    copied,
    field_of,
    gas_density,
    names_in,
    whole,
)

READER = Py21cmFast4()
CACHE = {path.stem: path for path in VERSION_4.glob("cache/**/*.h5")}
COEVAL = VERSION_4 / "coeval_z8.000.h5"
BOX_LENGTH, MESH_CELLS = 2.381 * 12, 12


@pytest.mark.parametrize("path", [*CACHE.values(), COEVAL])
def test_all_files_tell_the_box_and_its_initial_conditions(path: Path) -> None:
    contents = inspected(READER, path)
    assert contents is not None
    assert contents.box_length_cmpc == pytest.approx(BOX_LENGTH)
    assert contents.cosmology == COSMOLOGY
    assert contents.initial_conditions == {
        "HII_DIM": 12,
        "HIRES_TO_LOWRES_FACTOR": 2,
        "random_seed": 5,
    }


def test_perturbed_halos_are_counted_and_weighed_in_the_nearest_cells() -> None:
    path = CACHE["PerturbedHaloCatalog"]
    contents = inspected(READER, path)
    assert names_in(contents) == {"n_src", "src_mass"}
    assert contents is not None
    assert contents.notes == ()
    with h5py.File(path) as file:
        outputs = file["PerturbedHaloCatalog/OutputFields"]
        positions, masses = outputs["halo_coords"][:], outputs["halo_masses"][:]
    assert positions.max() > BOX_LENGTH - 0.5 * 2.381  # beyond the center of the last cell
    for name, quantity, weights in (
        ("n_src", "counts", np.ones(len(masses))),
        ("src_mass", "msun", masses),
    ):
        found = field_of(contents, name)
        assert (found.quantity, found.redshift) == (quantity, 8.0)
        assert isinstance(found.source, HaloCatalog)
        expected = added_one_by_one(positions, weights, BOX_LENGTH / MESH_CELLS, MESH_CELLS)
        np.testing.assert_allclose(gridded(found.source), expected, rtol=1e-6)


def test_halos_follow_the_density_better_than_with_cells_cut_off_below() -> None:
    density = whole(field_of(inspected(READER, CACHE["PerturbedField"]), "n_igm"))
    path = CACHE["PerturbedHaloCatalog"]
    source = field_of(inspected(READER, path), "n_src").source
    assert isinstance(source, HaloCatalog)
    with h5py.File(path) as file:
        positions = file["PerturbedHaloCatalog/OutputFields/halo_coords"][:]
    below = np.zeros((MESH_CELLS,) * 3)
    np.add.at(below, tuple((positions / 2.381).astype(int).T % MESH_CELLS), 1)

    def correlation(n_src: object) -> float:
        return float(np.corrcoef(density.ravel(), np.ravel(n_src))[0, 1])

    assert correlation(gridded(source)) > correlation(below)


def test_padding_of_a_catalog_holds_no_halos(tmp_path: Path) -> None:
    def pad(file: h5py.File) -> None:
        outputs = file["PerturbedHaloCatalog/OutputFields"]
        for name in ("halo_coords", "halo_masses"):
            values = outputs[name][:]
            del outputs[name]
            outputs[name] = np.concatenate([values, np.full_like(values, 9)])
        outputs.attrs["buffer_size"] = 2 * 637

    path = copied(CACHE["PerturbedHaloCatalog"], tmp_path / "a.h5", pad)
    source = field_of(inspected(READER, path), "n_src").source
    assert isinstance(source, HaloCatalog)
    assert gridded(source).sum() == 637


@pytest.mark.parametrize(
    ("name", "reason"), [("HaloCatalog", "Lagrangian"), ("HaloBox", "expected numbers")]
)
def test_what_is_no_list_of_sources_gives_a_note(name: str, reason: str) -> None:
    contents = inspected(READER, CACHE[name])
    assert contents is not None
    assert contents.fields == ()
    (note,) = contents.notes
    assert note.startswith(name)
    assert reason in note
    assert "perturb_halo_catalog" in note
    assert "--map n_src=" in note


def test_a_coeval_file_with_a_catalog_needs_no_note(tmp_path: Path) -> None:
    def add(file: h5py.File) -> None:
        with h5py.File(CACHE["PerturbedHaloCatalog"]) as other:
            other.copy("PerturbedHaloCatalog", file)

    contents = inspected(READER, copied(COEVAL, tmp_path / "a.h5", add))
    assert names_in(contents) == {"n_igm", "xhii", "temperature", "n_src", "src_mass"}
    assert contents is not None
    assert contents.notes == ()


def test_kinds_that_hold_no_field_are_passed_over(tmp_path: Path) -> None:
    kinds = ("PerturbedField", "IonizedBox", "HaloBox")
    path = copied(COEVAL, tmp_path / "a.h5", lambda f: [f.pop(kind) for kind in kinds])
    contents = inspected(READER, path)
    assert contents is not None
    assert (contents.fields, contents.notes) == ((), ())
    assert contents.box_length_cmpc == pytest.approx(BOX_LENGTH)


def test_sigma_8_is_told_where_it_normalizes_the_fluctuations(tmp_path: Path) -> None:
    path = copied(
        CACHE["PerturbedField"],
        tmp_path / "a.h5",
        lambda f: f["PerturbedField/InputParameters/cosmo_tables"].attrs.modify(
            "USE_SIGMA_8", False
        ),
    )
    contents = inspected(READER, path)
    assert contents is not None
    assert contents.cosmology is not None
    assert contents.cosmology.sigma_8 is None
    assert contents.cosmology.h == 0.6766


@pytest.mark.parametrize(
    ("group", "missing"),
    [("cosmo_params", "cosmology"), ("simulation_options", "box_length_cmpc")],
)
def test_what_parameters_do_not_tell_stays_open(tmp_path: Path, group: str, missing: str) -> None:
    def change(file: h5py.File) -> None:
        del file[f"PerturbedField/InputParameters/{group}"]
        del file["PerturbedField/InputParameters/cosmo_tables"]

    contents = inspected(READER, copied(CACHE["PerturbedField"], tmp_path / "a.h5", change))
    assert names_in(contents) == {"n_igm"}
    assert getattr(contents, missing) is None


@pytest.mark.parametrize("missing", ["BOX_LEN", "HII_DIM"])
def test_halos_whose_cells_are_unknown_give_a_note(tmp_path: Path, missing: str) -> None:
    options = "PerturbedHaloCatalog/InputParameters/simulation_options"
    path = copied(
        CACHE["PerturbedHaloCatalog"],
        tmp_path / "a.h5",
        lambda f: f[options].attrs.pop(missing),
    )
    contents = inspected(READER, path)
    assert contents is not None
    assert contents.fields == ()
    assert missing in contents.notes[0]


def test_a_group_without_outputs_or_its_dataset_has_no_field(tmp_path: Path) -> None:
    path = copied(
        CACHE["PerturbedField"],
        tmp_path / "a.h5",
        lambda f: f.pop("PerturbedField/OutputFields/density"),
    )
    assert names_in(inspected(READER, path)) == set()
    path = copied(path, tmp_path / "b.h5", lambda f: f.pop("PerturbedField/OutputFields"))
    assert inspected(READER, path) is None


def test_real_files_give_the_arrays_of_the_same_data(shared_data: Path) -> None:
    folder = shared_data / "dev"
    (density,) = folder.glob("21cmfast_v4_cache/**/PerturbedField.h5")
    (ionized,) = folder.glob("21cmfast_v4_cache/**/IonizedBox.h5")
    coeval = folder / "21cmfast_v4_coeval" / "coeval_z8.000.h5"
    for redshift, paths, arrays in (
        (8.397, (density, ionized), folder),
        (8.0, (coeval, coeval), coeval.parent),
    ):
        n_igm = field_of(inspected(READER, paths[0]), "n_igm")
        xhii = field_of(inspected(READER, paths[1]), "xhii")
        assert n_igm.redshift == xhii.redshift == redshift
        expected = np.load(arrays / f"xHII_z{redshift:.3f}.npy")
        np.testing.assert_array_equal(1 - whole(xhii), expected)
        expected = np.load(arrays / f"rho_z{redshift:.3f}.npy").astype("f8")
        rho = gas_density(whole(n_igm), 0.6766, 0.04897468161869667, redshift)
        np.testing.assert_allclose(rho, expected, rtol=1e-6)
