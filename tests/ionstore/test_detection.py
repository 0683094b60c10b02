import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ionstore.cosmology import Cosmology
from ionstore.description import SimulationDescription
from ionstore.detection import detect
from ionstore.errors import SourceDataError
from tests.three_file_sets import write_set


def test_every_field_and_redshift_is_found(tmp_path: Path) -> None:
    cubes = write_set(tmp_path, 4, ("7.500", "10.110", "9.000"))
    for redshift in cubes:
        np.save(tmp_path / f"irate_z{redshift}.npy", np.zeros((4, 4, 4)))
    simulation = detect(tmp_path).simulation()
    assert simulation.redshifts == (10.11, 9.0, 7.5)
    assert tuple(simulation.cubes) == ("n_igm", "n_src", "xhii", "ionization_rate")
    assert simulation.notes == ()
    block = simulation.cubes["n_igm"][10.11].read_block((0, 0, 0), (4, 4, 4))
    np.testing.assert_array_equal(block, cubes["10.110"]["n_igm"])


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    write_set(tmp_path)
    np.save(tmp_path / "nhalo_z9.000.npy", np.zeros(1))
    np.save(tmp_path / "movie.npy", np.zeros(1))
    np.save(tmp_path / "srcmass_z9.000.npy", np.zeros(1))
    (tmp_path / "README.md").write_text("text")
    (tmp_path / "logs").mkdir()
    (tmp_path / "old" / "deep").mkdir(parents=True)
    np.save(tmp_path / "old" / "deep" / "rho_z8.000.npy", np.zeros(1))
    (tmp_path / "cubes.zarr.partial").mkdir()
    np.save(tmp_path / "cubes.zarr.partial" / "spool.npy", np.zeros(1))
    simulation = detect(tmp_path).simulation()
    assert "src_mass" not in simulation.cubes
    assert simulation.notes == (
        "src_mass is left out: srcmass is missing at redshift 7.5",
        "ignored files: movie.npy, nhalo_z9.000.npy",
        "subfolders are not read: old",
    )


def test_the_description_beside_the_files_is_read(tmp_path: Path) -> None:
    write_set(tmp_path)
    SimulationDescription(
        box_length_cmpc=20.0,
        cosmology=Cosmology("Planck18", h=0.68),
        density_frame="proper",
        n_src_units="1",
    ).write(tmp_path)
    simulation = detect(tmp_path).simulation()
    assert simulation.box_length_cmpc == 20.0
    assert simulation.cosmology == Cosmology("Planck18", h=0.68)
    assert simulation.density_frame == "proper"
    assert simulation.n_src_units == "1"


def test_keys_of_the_description_that_nobody_reads_are_named(tmp_path: Path) -> None:
    write_set(tmp_path)
    told = {"box_length": 20.0, "density_frame": "proper", "cosmology": {"h": 0.7, "H0": 70}}
    (tmp_path / "simulation.json").write_text(json.dumps(told))
    simulation = detect(tmp_path).simulation()
    assert simulation.notes == (
        "simulation.json: box_length is no key that is known, so it is ignored; "
        "the nearest is box_length_cmpc",
        "simulation.json: cosmology.H0 is no key that is known, so it is ignored; "
        "the nearest is cosmology.h",
    )
    assert simulation.cosmology == Cosmology(h=0.7)
    told = SimulationDescription(cosmology=Cosmology(h=0.7), seed=1).model_dump()
    (tmp_path / "simulation.json").write_text(json.dumps(told))
    assert detect(tmp_path).simulation().notes == ()


@pytest.mark.parametrize("prefix", ["rho", "nsrc", "xHII"])
def test_a_missing_field_is_named(tmp_path: Path, prefix: str) -> None:
    write_set(tmp_path)
    (tmp_path / f"{prefix}_z7.500.npy").unlink()
    with pytest.raises(SourceDataError, match=rf"{prefix}_z7\.500\.npy is missing"):
        detect(tmp_path).simulation()


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ("rho_z7.500.npy", "rho_z7.51.npy", "rho_z7.500.npy"),
        ("rho_z7.500.npy", "Rho_z7.500.npy", "rho_z7.500.npy"),
        ("nsrc_z7.500.npy", "nsrc_z7.5.npz.npy", "nsrc_z7.500.npy"),
        ("xHII_z7.500.npy", "xhii_z7.500.npy", "xHII_z7.500.npy"),
    ],
)
def test_a_file_that_may_be_the_missing_one_is_named(
    tmp_path: Path, old: str, new: str, missing: str
) -> None:
    write_set(tmp_path)
    (tmp_path / old).rename(tmp_path / new)
    with pytest.raises(SourceDataError, match=rf"{missing} is missing.*; {new} is there"):
        detect(tmp_path).simulation()


def test_a_file_that_belongs_elsewhere_is_not_taken_for_the_missing_one(tmp_path: Path) -> None:
    write_set(tmp_path, 4, ("7.500", "7.510"))
    (tmp_path / "rho_z7.510.npy").unlink()
    with pytest.raises(SourceDataError, match=r"rho_z7\.510\.npy is missing.*; add it"):
        detect(tmp_path).simulation()


@pytest.mark.parametrize("twin", ["xHII_z9.000.npz", "xHII_z9.0.npy"])
def test_twins_are_named(tmp_path: Path, twin: str) -> None:
    write_set(tmp_path)
    shutil.copy(tmp_path / "xHII_z9.000.npy", tmp_path / twin)
    with pytest.raises(SourceDataError, match="there twice") as caught:
        detect(tmp_path).simulation()
    assert twin in str(caught.value)
    assert "xHII_z9.000.npy" in str(caught.value)


def test_redshifts_too_close_to_tell_apart_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path, 4, ("9.000", "9.0007"))
    with pytest.raises(SourceDataError, match=r"got 9\.0 and 9\.0007"):
        detect(tmp_path).simulation()


def test_folders_without_a_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceDataError, match="expected files such as"):
        detect(tmp_path).simulation()
    with pytest.raises(SourceDataError, match="expected a folder"):
        detect(tmp_path / "none").simulation()
