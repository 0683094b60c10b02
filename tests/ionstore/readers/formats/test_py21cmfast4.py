from pathlib import Path

import h5py
import numpy as np
import pytest

from ionstore.cube.cosmology import Cosmology
from ionstore.errors import SourceDataError
from ionstore.readers.formats.py21cmfast4 import Py21cmFast4
from ionstore.readers.points.halos import HaloCatalog
from tests.ionstore.readers.points.test_halos import added_one_by_one, gridded
from tests.support.mesh_files import inspected
from tests.support.py21cmfast_files import (
    VERSION_3,
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
COSMOLOGY = Cosmology(
    h=0.6766,
    omega_m=0.30964144154550644,
    omega_b=0.04897468161869667,
    sigma_8=0.8102,
    n_s=0.9665,
)


@pytest.mark.parametrize("path", [*CACHE.values(), COEVAL])
def test_seed_and_meshes_of_the_initial_conditions_are_told(path: Path) -> None:
    contents = inspected(READER, path)
    assert contents is not None
    assert contents.initial_conditions == {
        "HII_DIM": 12,
        "HIRES_TO_LOWRES_FACTOR": 2,
        "random_seed": 5,
    }


@pytest.mark.parametrize("path", [*CACHE.values(), COEVAL])
def test_box_cosmology_and_redshift_are_told_by_attributes(path: Path) -> None:
    contents = inspected(READER, path)
    assert contents is not None
    assert contents.box_length_cmpc == pytest.approx(BOX_LENGTH)
    assert contents.cosmology == COSMOLOGY
    assert {one.redshift for one in contents.fields} <= {8.0}


def test_the_density_is_an_overdensity() -> None:
    found = field_of(inspected(READER, CACHE["PerturbedField"]), "n_igm")
    assert found.quantity == "overdensity"
    with h5py.File(CACHE["PerturbedField"]) as file:
        np.testing.assert_array_equal(whole(found), file["PerturbedField/OutputFields/density"][:])


def test_the_ionized_box_holds_the_neutral_fraction_and_a_temperature() -> None:
    contents = inspected(READER, CACHE["IonizedBox"])
    assert names_in(contents) == {"xhii", "temperature"}
    with h5py.File(CACHE["IonizedBox"]) as file:
        outputs = file["IonizedBox/OutputFields"]
        for field, quantity, dataset in (
            ("xhii", "neutral_fraction", "neutral_fraction"),
            ("temperature", "as_is", "kinetic_temperature"),
        ):
            found = field_of(contents, field)
            assert found.quantity == quantity
            np.testing.assert_array_equal(whole(found), outputs[dataset][:])


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


def test_a_catalog_without_halos_gives_a_note(tmp_path: Path) -> None:
    path = copied(
        CACHE["PerturbedHaloCatalog"],
        tmp_path / "a.h5",
        lambda f: f["PerturbedHaloCatalog/OutputFields"].attrs.modify("n_halos", 0),
    )
    contents = inspected(READER, path)
    assert contents is not None
    assert contents.fields == ()
    assert contents.notes[0].startswith("PerturbedHaloCatalog holds no halos")


def test_a_coeval_file_yields_all_its_fields() -> None:
    contents = inspected(READER, COEVAL)
    assert names_in(contents) == {"n_igm", "xhii", "temperature"}
    assert contents is not None
    (note,) = contents.notes
    assert note.startswith("HaloBox")
    with h5py.File(COEVAL) as file:
        for field, dataset in (
            ("n_igm", "PerturbedField/OutputFields/density"),
            ("xhii", "IonizedBox/OutputFields/neutral_fraction"),
            ("temperature", "IonizedBox/OutputFields/kinetic_temperature"),
        ):
            np.testing.assert_array_equal(whole(field_of(contents, field)), file[dataset][:])


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


def test_a_temperature_that_was_not_computed_is_left_out(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file["IonizedBox/OutputFields/kinetic_temperature"][...] = 0

    contents = inspected(READER, copied(CACHE["IonizedBox"], tmp_path / "a.h5", change))
    assert names_in(contents) == {"xhii"}


@pytest.mark.parametrize(
    ("name", "redshift"), [("coeval_z7.900.h5", 7.9), ("PerturbedField.h5", None)]
)
def test_the_name_tells_a_redshift_that_is_no_attribute(
    tmp_path: Path, name: str, redshift: float | None
) -> None:
    path = copied(
        CACHE["PerturbedField"],
        tmp_path / name,
        lambda f: f["PerturbedField"].attrs.pop("redshift"),
    )
    assert field_of(inspected(READER, path), "n_igm").redshift == redshift


def test_folders_that_cut_off_the_redshift_are_not_asked(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file["PerturbedField"].attrs["redshift"] = 8.289925

    (tmp_path / "8.2899").mkdir()
    path = copied(CACHE["PerturbedField"], tmp_path / "8.2899" / "PerturbedField.h5", change)
    assert field_of(inspected(READER, path), "n_igm").redshift == 8.289925


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


def test_boxes_that_are_no_cubes_are_left_out(tmp_path: Path) -> None:
    options = "PerturbedField/InputParameters/simulation_options"
    path = copied(
        CACHE["PerturbedField"],
        tmp_path / "a.h5",
        lambda f: f[options].attrs.modify("NON_CUBIC_FACTOR", 2.0),
    )
    contents = inspected(READER, path)
    assert contents is not None
    assert contents.fields == ()
    assert "a.h5 is left out: the last side of its box is 2 times" in contents.notes[0]


def test_lightcones_are_left_out(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file.create_group("lightcones")
        file.attrs["lightcone"] = True

    path = copied(COEVAL, tmp_path / "a.h5", change)
    contents = inspected(READER, path)
    assert contents is not None
    assert contents.fields == ()
    assert "a.h5 is left out: it is a lightcone" in contents.notes[0]


@pytest.mark.parametrize("source", [*CACHE.values(), COEVAL])
def test_truncated_files_are_refused(tmp_path: Path, source: Path) -> None:
    content = source.read_bytes()
    for kept in (100, 2000, len(content) // 2, len(content) - 1):
        with pytest.raises(SourceDataError, match=r"a\.h5: .*truncated .*copy it again"):
            inspected(READER, tmp_path / "a.h5", content[:kept])


def test_other_files_are_not_of_this_format(tmp_path: Path) -> None:
    assert inspected(READER, VERSION_3 / "coeval_z8.000.h5") is None
    assert inspected(READER, tmp_path / "a.h5", b"CDF\x01" + bytes(99)) is None
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["PartType0/Masses"] = np.zeros(3)
        file["elsewhere"] = h5py.ExternalLink("missing.h5", "/")
    assert inspected(READER, tmp_path / "b.h5") is None


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
