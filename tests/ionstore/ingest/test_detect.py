import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ionstore.cube.cosmology import Cosmology
from ionstore.cube.description import SimulationDescription
from ionstore.cube.mesh import Array
from ionstore.errors import SourceDataError
from ionstore.ingest.detect import FoundSimulation, detect
from ionstore.ingest.selection import FileSelection
from ionstore.readers.formats.c2ray_sources import C2RaySources
from ionstore.readers.points.gridded import GriddedPoints
from ionstore.store.cube_store import CubeStore
from tests.support.three_file_sets import write_set
from tests.support.toy_format import TOYS, toy_field, write_toy, write_toys

V3_KINDS = {"n_igm": "PerturbedField", "n_src": "PerturbHaloField", "xhii": "IonizedBox"}
C2RAY = SimulationDescription(
    box_length_cmpc=500 / 0.7,
    cosmology=Cosmology(h=0.7, omega_m=0.27, omega_b=0.044),
    n_box=13824,
)


def _toys(folder: Path, **options: object) -> FoundSimulation:
    return detect(folder, readers=TOYS, **options)  # type: ignore[arg-type]


def _values(detection: FoundSimulation, field: str, redshift: float) -> Array:
    """All values of a cube, in the order of its file."""
    source = detection.simulation().cubes[field][redshift]
    return np.concatenate(list(source.stream(lambda piece: None)))


def test_every_field_and_redshift_is_found(tmp_path: Path) -> None:
    cubes = write_set(tmp_path, 4, ("7.500", "10.110", "9.000"))
    for redshift in cubes:
        np.save(tmp_path / f"irate_z{redshift}.npy", np.zeros((4, 4, 4)))
    detection = detect(tmp_path)
    simulation = detection.simulation()
    assert simulation.redshifts == (10.11, 9.0, 7.5)
    assert tuple(simulation.cubes) == ("n_igm", "n_src", "xhii", "ionization_rate")
    assert detection.notes == ()
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
    detection = detect(tmp_path)
    simulation = detection.simulation()
    assert "src_mass" not in simulation.cubes
    assert detection.notes == (
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
    detection = detect(tmp_path)
    simulation = detection.simulation()
    assert simulation.box_length_cmpc == 20.0
    assert simulation.cosmology == Cosmology("Planck18", h=0.68)
    assert simulation.density_frame == "proper"
    assert simulation.n_src_units == "1"


def test_keys_of_the_description_that_nobody_reads_are_named(tmp_path: Path) -> None:
    write_set(tmp_path)
    told = {"box_length": 20.0, "density_frame": "proper", "cosmology": {"h": 0.7, "H0": 70}}
    (tmp_path / "simulation.json").write_text(json.dumps(told))
    detection = detect(tmp_path)
    simulation = detection.simulation()
    assert detection.notes == (
        "simulation.json: box_length is no key that is known, so it is ignored; "
        "the nearest is box_length_cmpc",
        "simulation.json: cosmology.H0 is no key that is known, so it is ignored; "
        "the nearest is cosmology.h",
    )
    assert simulation.cosmology == Cosmology(h=0.7)
    told = SimulationDescription(cosmology=Cosmology(h=0.7), seed=1).model_dump()
    (tmp_path / "simulation.json").write_text(json.dumps(told))
    assert detect(tmp_path).notes == ()


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


def test_links_that_lead_nowhere_hide_no_redshift(tmp_path: Path) -> None:
    write_set(tmp_path, 4, ("9.000",))
    for prefix in ("rho", "nsrc", "xHII"):
        (tmp_path / f"{prefix}_z8.000.npy").symlink_to(tmp_path / "archive" / prefix)
    with pytest.raises(SourceDataError, match=r"_z8\.000\.npy: link to a file that is not there"):
        detect(tmp_path)
    detection = detect(tmp_path, FileSelection(redshifts=[9.0]))
    assert detection.simulation().redshifts == (9.0,)
    assert len(detection.notes) == 3


@pytest.mark.parametrize(
    ("name", "is_needed"), [("movie.npy", False), ("README", False), ("IonizedBox_r1.h5", True)]
)
def test_a_link_that_leads_nowhere_is_noted_where_no_field_would_be_taken_from_it(
    tmp_path: Path, name: str, is_needed: bool
) -> None:
    write_set(tmp_path, 4, ("9.000",))
    (tmp_path / name).symlink_to(tmp_path / "archive")
    if is_needed:
        with pytest.raises(SourceDataError, match=f"{name}: link to a file that is not there"):
            detect(tmp_path)
        return
    detection = detect(tmp_path)
    assert detection.problems == ()
    assert detection.notes == (f"{name}: link to a file that is not there",)


def test_a_link_that_leads_nowhere_is_needed_where_it_is_mapped(tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 4, ("9.000",))
    (tmp_path / "maps").mkdir()
    (tmp_path / "sim" / "xHII_z9.000.npy").rename(tmp_path / "maps" / "cube_9.000.npy")
    (tmp_path / "maps" / "README").symlink_to(tmp_path / "archive")
    files = FileSelection(maps={"xhii": [tmp_path / "maps"]})
    assert detect(tmp_path / "sim", files).problems == ()
    (tmp_path / "maps" / "cube_8.000.npy").symlink_to(tmp_path / "archive")
    with pytest.raises(SourceDataError, match=r"cube_8\.000\.npy: link to a file"):
        detect(tmp_path / "sim", files)
    files = FileSelection(maps={"xhii": [tmp_path / "maps" / "*.npy"]})
    with pytest.raises(SourceDataError, match=r"cube_8\.000\.npy: link to a file"):
        detect(tmp_path / "sim", files)


def test_a_file_that_may_not_be_read_is_needed_if_a_field_would_be_taken_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path, 4, ("9.000",))
    np.save(tmp_path / "movie.npy", np.zeros(4))
    opened = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == forbidden:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    forbidden = "movie.npy"
    detection = detect(tmp_path)
    assert detection.problems == ()
    assert detection.notes == ("movie.npy: it cannot be read (Permission denied)",)
    forbidden = "rho_z9.000.npy"
    with pytest.raises(SourceDataError, match=r"rho_z9\.000\.npy: it cannot be read \(Perm"):
        detect(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("xfrac3d.npy", None, "its field and redshift are unknown"),
        ("XFRAC3D_8.000.NPY", None, "its field is unknown; give it with --map"),
        ("xHII_z8,000.npy", None, "its redshift has a decimal comma; rename it to xHII_z8.000.npy"),
        ("xfrac3d_8.000.bin", b"<!DOCTYPE html>\n<html>", "it begins with '<!DOCTYPE"),
        ("8.000v_all.dat", struct.pack("<3i3f", 1, 1, 1, 0, 0, 0), "velocities are not stored"),
        ("xHII_8.000.h5", b"", "it is empty"),
        ("xHII_64_model_z08.04", b"\x80\x04\x95\x00", "a pickle can run any code"),
        ("xfrac3d_8.000.raw", bytes(4 * 4**3), "it has the size of 4³ float32 numbers"),
    ],
)
def test_what_is_ignored_is_named_where_a_field_is_missing(
    tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    write_set(tmp_path, 4, ("9.000", "8.000"))
    missing = tmp_path / "xHII_z8.000.npy"
    (tmp_path / "other_9.000.dat").touch()  # of another redshift
    if content is None:
        missing.rename(tmp_path / name)
    else:
        missing.unlink()
        (tmp_path / name).write_bytes(content)
    (problem,) = detect(tmp_path).problems
    assert problem.startswith(f"{tmp_path}: xHII_z8.000.npy is missing: ")
    is_alike = f"{name} is there: rename it" in problem
    assert is_alike == (name == "xHII_z8,000.npy")
    assert is_alike or f"; ignored: {name} ({reason}" in problem
    assert "other_9.000.dat" not in problem
    for path in tmp_path.glob("xHII_z*.npy"):  # the field is at no redshift: any file may be it
        path.unlink()
    (problem,) = detect(tmp_path).problems
    assert "ignored: other_9.000.dat" in problem or ", other_9.000.dat (it is empty)" in problem


def test_files_that_nothing_can_be_made_of_are_named_in_an_empty_folder(tmp_path: Path) -> None:
    write_set(tmp_path, 4, ("9.000",))
    (problem,) = detect(tmp_path, FileSelection("pinion")).problems
    assert problem.endswith(
        "ignored: nsrc_z9.000.npy, rho_z9.000.npy, xHII_z9.000.npy (its format is three-file-set, "
        "which --format leaves out)"
    )
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_name(path.name.replace(".", ",", 1)))
    for index in range(2):
        (tmp_path / f"zeros_{index}").with_suffix(".cbin").write_bytes(
            struct.pack("<3i", 4, 4, 4) + bytes(4**4)
        )
    (problem,) = detect(tmp_path).problems
    assert "rho_z9,000.npy (its redshift has a decimal comma; rename it to rho_z9.000.npy)" in (
        problem
    )
    assert problem.endswith(" and 2 more")
    for path in tmp_path.glob("*.npy"):
        path.unlink()
    (problem,) = detect(tmp_path).problems
    assert problem.endswith(
        "; ignored: zeros_0.cbin, zeros_1.cbin (its field and redshift are unknown; "
        "`ionstore formats` lists names that tell both)"
    )


def test_a_store_is_no_simulation(small_store: CubeStore) -> None:
    (problem,) = detect(Path(str(small_store.path))).problems
    assert problem == (
        f"{small_store.path}: expected a folder of simulation output, got a store; "
        f"`ionstore info {small_store.path}` shows what it holds"
    )


def test_cubes_are_converted_with_what_their_files_tell(tmp_path: Path) -> None:
    write_toy(
        tmp_path / "coeval.dat",
        toy_field("n_igm", 9.0, quantity="overdensity", value=-0.5),
        toy_field("n_src", 9.0, quantity="counts", value=3.0),
        toy_field("xhii", 9.0, quantity="neutral_fraction", value=0.25),
        box=20.0,
        cosmology={"h": 0.7, "omega_b": 0.044, "n_s": 0.96},
    )
    detection = _toys(tmp_path)
    simulation = detection.simulation()
    assert detection.problems == detection.notes == ()
    assert simulation.redshifts == (9.0,)
    assert simulation.box_length_cmpc == 20.0
    assert simulation.cosmology == Cosmology(h=0.7, omega_b=0.044, n_s=0.96)
    assert simulation.density_frame == "proper"
    assert simulation.n_src_units == "1"
    mean = 0.044 * 1.87834e-29 * 0.49 * 1000
    assert _values(detection, "n_igm", 9.0) == pytest.approx(mean / 2, rel=1e-4)
    assert set(_values(detection, "xhii", 9.0)) == {0.75}
    assert set(_values(detection, "n_src", 9.0)) == {3.0}
    assert set(detection.paths()) == {tmp_path / "coeval.dat"}


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_a_truncated_file_is_refused_unless_its_redshift_is_not_wanted(tmp_path: Path) -> None:
    write_set(tmp_path, 4, ("9.000", "8.397"))
    _truncate(tmp_path / "xHII_z8.397.npy")
    for redshifts in ((), (8.397,), (9.0, 8.397)):
        with pytest.raises(SourceDataError, match=r"xHII_z8\.397\.npy: .*truncated"):
            detect(tmp_path, FileSelection(redshifts=redshifts))
    detection = detect(tmp_path, FileSelection(redshifts=[9.0]))
    assert detection.simulation().redshifts == (9.0,)
    (note,) = detection.notes
    assert note.startswith(f"left out: {tmp_path / 'xHII_z8.397.npy'}: ")


def test_a_truncated_file_is_refused_unless_its_field_is_mapped(tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 4, ("9.000", "8.397"))
    write_set(tmp_path / "maps", 4, ("9.000", "8.397"))
    _truncate(tmp_path / "sim" / "xHII_z8.397.npy")
    detection = detect(tmp_path / "sim", FileSelection(maps={"xhii": [tmp_path / "maps"]}))
    assert detection.simulation().redshifts == (9.0, 8.397)
    with pytest.raises(SourceDataError, match=r"xHII_z8\.397\.npy: .*truncated"):
        detect(tmp_path / "sim", FileSelection(maps={"n_src": [tmp_path / "maps"]}))
    _truncate(tmp_path / "maps" / "xHII_z8.397.npy")
    with pytest.raises(SourceDataError, match=r"maps/xHII_z8\.397\.npy: .*truncated"):
        detect(tmp_path / "sim", FileSelection(maps={"xhii": [tmp_path / "maps"]}))


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("xHII_z7.305.npy", "xhii"),
        ("rho_z7.305.npz", "n_igm"),
        ("xfrac3d_7.305.bin", "xhii"),
        ("xfrac_z7.305.dat", "xhii"),
        ("7.305n_all.dat", "n_igm"),
        ("7.305-coarsest_sources.dat", "n_src"),
        ("7.305-coarsest_sources.hdf5", "n_src"),
        ("coeval_z7.305.h5", None),
    ],
)
def test_names_of_all_formats_tell_what_a_damaged_file_was(
    tmp_path: Path, name: str, field: str | None
) -> None:
    write_set(tmp_path, 4, ("9.000",))
    head = b"\x89HDF\r\n\x1a\n" if name.endswith("5") else b"\x0c\x00\x00"
    (tmp_path / name).write_bytes(b"" if field == "n_src" and head[:1] != b"\x89" else head)
    with pytest.raises(SourceDataError, match=re.escape(name)):
        detect(tmp_path)
    assert detect(tmp_path, FileSelection(redshifts=[9.0])).problems == ()
    if field:
        with pytest.raises(SourceDataError, match=re.escape(name)):
            detect(tmp_path, FileSelection(redshifts=[9.0, 7.305]))
        prefix = {"n_igm": "rho", "n_src": "nsrc", "xhii": "xHII"}[field]
        maps = {field: [tmp_path / f"{prefix}_z9.000.npy"]}
        assert detect(tmp_path, FileSelection(maps=maps)).problems == ()


def test_a_lightcone_beside_coeval_cubes_is_left_out(tmp_path: Path) -> None:
    write_set(tmp_path, 4, ("9.000",))
    for name, said in (("lightcone.h5", "it is a lightcone"), ("long.h5", "the last side of its")):
        with h5py.File(tmp_path / name, "w") as file:
            stretch = 2.0 if name == "long.h5" else 1.0
            file.create_group("user_params").attrs["NON_CUBIC_FACTOR"] = stretch
            if name == "lightcone.h5":
                file.create_group("lightcones")
        detection = detect(tmp_path)
        assert detection.simulation().redshifts == (9.0,)
        assert detection.notes[-1].startswith(f"{name} is left out: {said}")
    (tmp_path / "xHII_z9.000.npy").unlink()
    (problem,) = detect(
        tmp_path, FileSelection(maps={"xhii": [tmp_path / "lightcone.h5"]})
    ).problems[:1]
    assert "xhii was expected here, found no field; lightcone.h5 is left" in problem


def test_lists_of_sources_take_the_mesh_of_the_other_fields(tmp_path: Path) -> None:
    write_toys(tmp_path, 9.0, 8.0, fields=("n_igm", "xhii"))
    for z in (9.0, 8.0):
        source = toy_field("n_src", z, quantity="grid_mass", value=2.0, mesh=None)
        write_toy(tmp_path / f"sources_{z:.3f}.dat", source)
    detection = _toys(tmp_path, given=C2RAY)
    source = detection.simulation().cubes["n_src"][9.0]
    assert source.shape == (4, 4, 4)
    first, *others = _values(detection, "n_src", 9.0)
    grid_mass = 0.27 * 2.77536627e11 * 0.49 * (500 / 0.7 / 13824) ** 3
    assert first == pytest.approx(2 * grid_mass, rel=1e-4)
    assert set(others) == {0.0}
    assert detection.simulation().n_src_units == "Msun"
    kept = _toys(tmp_path, given=SimulationDescription(n_src_units="grid_mass"))
    assert isinstance(kept.simulation().cubes["n_src"][9.0], GriddedPoints)
    assert _values(kept, "n_src", 9.0)[0] == 2.0
    assert kept.simulation().n_src_units == "grid_mass"
    assert kept.notes == ()


def test_all_that_conversions_lack_is_one_problem(tmp_path: Path) -> None:
    write_toy(tmp_path / "n_igm.dat", toy_field("n_igm", 9.0, quantity="gas_grid_mass"))
    write_toy(tmp_path / "n_src.dat", toy_field("n_src", 9.0, quantity="grid_mass"))
    write_toys(tmp_path, 9.0, fields=("xhii",))
    (problem,) = _toys(tmp_path).problems
    assert "give --box-length, --h, --omega-m, --omega-b and --n-box" in problem
    with pytest.raises(SourceDataError, match="--n-box"):
        _toys(tmp_path).simulation()
    SimulationDescription(cosmology=Cosmology(h=0.7), n_box=13824).write(tmp_path)
    (problem,) = _toys(tmp_path).problems
    assert "give --box-length, --omega-m and --omega-b, or --n-src-unit grid_mass" in problem


def test_a_box_length_is_never_missing(tmp_path: Path) -> None:
    write_toys(tmp_path, 9.0)
    detection = _toys(tmp_path)
    assert detection.problems == ()
    assert detection.simulation().box_length_cmpc is None


def test_boxes_of_files_that_are_taken_must_agree(tmp_path: Path) -> None:
    for z, box in ((9.0, 20.0), (8.0, 20.0), (7.0, 30.0)):
        fields = [toy_field(name, z) for name in ("n_igm", "n_src", "xhii")]
        write_toy(tmp_path / f"coeval_{z:.3f}.dat", *fields, box=box)
    (problem,) = _toys(tmp_path).problems
    assert "coeval_7.000.dat and coeval_8.000.dat contradict each other" in problem
    assert "box length (cMpc) 30.0 and 20.0" in problem
    assert _toys(tmp_path, files=FileSelection(redshifts=[8.0, 9.0])).known.box_length_cmpc == 20.0
    given = _toys(tmp_path, given=SimulationDescription(box_length_cmpc=20.0))
    assert given.problems == ()
    assert given.notes == (
        "box length (cMpc): 20.0 as given here is used, the simulation's files say 30.0",
    )


def test_the_description_goes_with_any_format(tmp_path: Path) -> None:
    write_toys(tmp_path, 9.0)
    (tmp_path / "simulation.json").write_text('{"box_length_cmpc": 20.0, "n_bx": 3}')
    detection = _toys(tmp_path, given=SimulationDescription(cosmology=Cosmology(h=0.7)))
    assert detection.simulation().box_length_cmpc == 20.0
    assert detection.simulation().cosmology == Cosmology(h=0.7)
    (note,) = detection.notes
    assert "n_bx is no key that is known" in note
    assert "the nearest is n_box" in note
    write_toy(tmp_path / "xhii_9.000.dat", toy_field("xhii", 9.0), box=21.0)
    (problem,) = _toys(tmp_path).problems
    assert "xhii_9.000.dat and simulation.json contradict each other" in problem
    (tmp_path / "simulation.json").write_text("{")
    (problem,) = _toys(tmp_path).problems
    assert "expected JSON" in problem


def test_a_field_is_of_one_kind_at_all_redshifts(tmp_path: Path) -> None:
    write_toys(tmp_path, 9.0, 8.0)
    write_toy(tmp_path / "n_igm_8.000.dat", toy_field("n_igm", 8.0, quantity="gas_grid_mass"))
    write_toy(tmp_path / "n_igm_9.000.dat", toy_field("n_igm", 9.0, quantity="overdensity"))
    (problem,) = _toys(tmp_path, given=C2RAY).problems
    assert "n_igm must be of one kind at all redshifts" in problem
    assert "gas mass in grid masses in n_igm_8.000.dat" in problem
    assert "overdensity in n_igm_9.000.dat" in problem


@pytest.mark.parametrize(
    ("quantities", "said", "is_refused", "n_notes"),
    [
        (("msun", "grid_mass"), "grid_mass", True, 0),
        (("grid_mass", "msun"), "grid_mass", True, 0),
        (("msun", "grid_mass"), "Msun", False, 0),  # which is converted
        (("msun", "grid_mass"), None, False, 0),
        (("counts", "msun"), "Msun", True, 0),
        (("counts", "sources"), "Msun", True, 0),
        (("sources", "msun"), "Msun", False, 0),
        (("sources", "msun"), None, True, 0),
        (("sources", "counts"), "1", False, 0),
        (("counts", "counts"), "Msun", False, 1),
        (("grid_mass", "grid_mass"), "1", False, 1),
    ],
)
def test_a_unit_that_is_given_does_not_hide_a_mix_of_kinds(
    tmp_path: Path,
    quantities: tuple[str, str],
    said: str | None,
    is_refused: bool,
    n_notes: int,
) -> None:
    write_toys(tmp_path, 9.0, 8.0, fields=("n_igm", "xhii"))
    for z, quantity in zip((9.0, 8.0), quantities, strict=True):
        write_toy(tmp_path / f"n_src_{z:.3f}.dat", toy_field("n_src", z, quantity=quantity))
    detection = _toys(tmp_path, given=C2RAY.model_copy(update={"n_src_units": said}))
    if is_refused:
        (problem,) = detection.problems
        assert problem.startswith("n_src must be of one kind at all redshifts")
        return
    assert detection.problems == ()
    assert len(detection.notes) == n_notes
    assert all("as given, although" in note for note in detection.notes)


def test_what_is_said_against_the_files_is_noted(tmp_path: Path) -> None:
    write_toys(tmp_path, 9.0)
    write_toy(tmp_path / "n_igm_9.000.dat", toy_field("n_igm", 9.0, quantity="overdensity"))
    said = C2RAY.model_copy(update={"n_src_units": "1", "density_frame": "comoving"})
    detection = _toys(tmp_path, given=said)
    assert detection.notes == (
        "n_igm is stored as proper density, because n_igm_9.000.dat holds overdensity; "
        "density_frame comoving is not used",
        "n_src is stored in the unit 1, as given, although n_src_9.000.dat holds mass in Msun",
    )
    assert detection.simulation().n_src_units == "1"
    assert detection.simulation().density_frame == "proper"
    agreed = C2RAY.model_copy(update={"n_src_units": "Msun", "density_frame": "proper"})
    assert _toys(tmp_path, given=agreed).notes == ()


def test_what_was_found_can_be_shown_before_all_is_there(tmp_path: Path) -> None:
    write_toys(tmp_path, 9.0, 8.0, fields=("n_igm", "xhii"))
    write_toy(tmp_path / "list.dat", toy_field("n_src", 9.0, quantity="grid_mass", mesh=None))
    write_toy(tmp_path / "again.dat", toy_field("xhii", 9.0, quantity="neutral_fraction"))
    detection = _toys(tmp_path)
    shown = [
        (
            one.first.field,
            one.redshifts,
            one.first.name,
            one.array.shape if one.array else None,
            one.first.quantity,
            one.units,
            one.frame,
        )
        for one in detection.summary()
    ]
    cube = (4, 4, 4)
    assert shown == [
        *[("n_igm", (9, 8), "n_igm_9.000.dat", cube, "density", "g cm-3", None)],
        *[("n_src", (9,), "list.dat", None, "grid_mass", "Msun", None)],
        *[("xhii", (9,), "again.dat", cube, "neutral_fraction", "1", None)],
        *[("xhii", (9, 8), "xhii_9.000.dat", cube, "ionized_fraction", "1", None)],
    ]
    twice, missing, unknown = detection.problems
    assert twice == (
        f"{tmp_path}: xhii at redshift 9 is there twice, again.dat and xhii_9.000.dat; choose with "
        f"--map xhii={tmp_path}/again.dat, or remove the others"
    )
    assert "n_src is missing at redshift 8" in missing
    assert "--n-box" in unknown


def test_lists_of_one_kind_are_shown_one_below_the_other(tmp_path: Path) -> None:
    for name in ("all", "used"):
        for z in (9.0, 8.0):
            write_toy(tmp_path / f"{z:.3f}-{name}.dat", toy_field("n_src", z, mesh=None))
    shown = [(one.first.name, one.redshifts) for one in _toys(tmp_path).summary()]
    assert shown == [("9.000-all.dat", (9.0, 8.0)), ("9.000-used.dat", (9.0, 8.0))]


def test_what_readers_say_is_told_once(tmp_path: Path) -> None:
    write_toys(tmp_path, 9.0)
    for z in (9.0, 8.0, 7.0):
        name = f"heat_{z:.3f}.dat"
        write_toy(tmp_path / name, notes=[f"{name} is left out: heating rates are not stored"])
    write_toy(tmp_path / "halos.dat", notes=["no n_src here; give --map n_src=PATH"])
    write_toy(tmp_path / "notes.dat", notes=["it is odd"])
    assert _toys(tmp_path).notes == (
        "heat_7.000.dat is left out: heating rates are not stored (and 2 more such files)",
        "notes.dat: it is odd",
    )
    (tmp_path / "n_src_9.000.dat").unlink()
    detection = _toys(tmp_path)
    (problem,) = detection.problems
    assert "n_src is missing" in problem
    assert "no n_src here; give --map n_src=PATH" in problem
    assert not any("n_src" in note for note in detection.notes)


def test_a_folder_without_fields_is_refused_with_what_readers_say(tmp_path: Path) -> None:
    with pytest.raises(SourceDataError, match=r"expected files such as.*`ionstore formats`"):
        detect(tmp_path).simulation()
    (tmp_path / "xHII_64_model_z07.72").write_bytes(b"\x80\x04\x95\x00")
    with pytest.raises(SourceDataError, match=r"xHII_64_model_z07\.72 \(a pickle can run any"):
        detect(tmp_path).simulation()


def test_redshifts_told_with_more_digits_are_those_of_all_fields(tmp_path: Path) -> None:
    write_toys(tmp_path, 8.29, fields=("n_src", "xhii"))
    write_toys(tmp_path, 8.289925, fields=("n_igm",))
    assert _toys(tmp_path).simulation().redshifts == (8.289925,)


def test_source_columns_are_summed(tmp_path: Path) -> None:
    write_toys(tmp_path, 9.0, fields=("n_igm", "xhii"))
    write_set(tmp_path, 4, ("9.000",))
    (tmp_path / "nsrc_z9.000.npy").unlink()
    (tmp_path / "9.000-coarsest_sources.dat").write_text("2\n1 1 1 3.0 4.0\n4 4 4 5.0 6.0\n")
    kept = SimulationDescription(n_src_units="grid_mass")
    for columns, expected in (((), (3, 5)), ((5,), (4, 6)), ((4, 5), (7, 11))):
        detection = detect(tmp_path, FileSelection(source_columns=columns), given=kept)
        values = _values(detection, "n_src", 9.0)
        assert (values[0], values[-1]) == expected
        assert values.sum() == sum(expected)
    with pytest.raises(SourceDataError, match="choose from 4 on"):
        detect(tmp_path, FileSelection(source_columns=[3]))


def test_columns_that_are_left_out_are_noted(tmp_path: Path) -> None:
    write_toys(tmp_path, 9.0, 8.0, fields=("n_igm", "xhii"))
    for z in (9.0, 8.0):
        (tmp_path / f"{z:.3f}_sources.dat").write_text("1\n1 1 1 5. 6. 7.\n")
    readers = (*TOYS, C2RaySources())
    assert detect(tmp_path, given=C2RAY, readers=readers).notes == (
        "8.000_sources.dat: column 4 of 4-6 is taken as the mass of a source; --source-column "
        "chooses others, or several to be summed (and 1 more such files)",
    )
    chosen = FileSelection(source_columns=(4,))
    assert detect(tmp_path, chosen, given=C2RAY, readers=readers).notes == ()
    for z in (9.0, 8.0):
        (tmp_path / f"{z:.3f}_sources.dat").write_text("1\n1 1 1 5.\n")
    assert detect(tmp_path, given=C2RAY, readers=readers).notes == ()


def test_lists_of_sources_alone_tell_no_mesh(tmp_path: Path) -> None:
    (tmp_path / "9.000-coarsest_sources.dat").write_text("2\n1 1 1 3.0\n4 4 4 5.0\n")
    alone = FileSelection(without=["n_igm", "xhii"])
    (problem,) = detect(tmp_path, alone, given=C2RAY).problems
    assert problem.endswith("which lists of sources do not tell; give n_igm or xhii as well")
    write_set(tmp_path, 4, ("9.000",))
    (tmp_path / "nsrc_z9.000.npy").unlink()
    for without in (["n_igm"], ["xhii"]):
        detection = detect(tmp_path, FileSelection(without=without), given=C2RAY)
        assert detection.problems == ()
        assert _values(detection, "n_src", 9.0).shape == (64,)


def test_redshifts_of_what_is_left_out_are_no_redshifts(tmp_path: Path) -> None:
    write_set(tmp_path, 4, ("9.000", "8.000"))
    for prefix in ("rho", "nsrc"):
        (tmp_path / f"{prefix}_z8.000.npy").unlink()
    (problem, _) = detect(tmp_path).problems
    assert "rho_z8.000.npy is missing" in problem
    detection = detect(tmp_path, FileSelection(without=["xhii"]))
    assert detection.problems == ()
    assert detection.simulation().redshifts == (9.0,)
    wanted = detect(tmp_path, FileSelection(without=["xhii"], redshifts=[8.0]))
    assert "redshift 8 is wanted, but no file has it" in wanted.problems[0]


def test_real_caches_are_taken_without_sources(shared_data: Path) -> None:
    folder = shared_data / "dev" / "21cmfast_v4_cache"
    detection = detect(folder, FileSelection(without=["n_src"]))
    assert detection.problems == ()
    assert {"n_igm", "xhii"} <= detection.simulation().cubes.keys()
    assert any("HaloBox" in note for note in detection.notes)  # what is passed by


def test_source_columns_that_nothing_has_are_noted(tmp_path: Path) -> None:
    write_toys(tmp_path, 9.0)
    (note,) = _toys(tmp_path, files=FileSelection(source_columns=[5])).notes
    assert note == "--source-column is for text lists of sources, and none is among the files taken"


def test_real_source_lists_of_one_redshift_are_refused_until_one_is_chosen(
    shared_data: Path,
) -> None:
    folder = shared_data / "dev" / "c2ray_container"
    problem, *_ = detect(folder, given=C2RAY).problems
    assert "n_src at redshift 8.7 is there 3 times" in problem
    assert f"--map n_src={folder}/8.700-coarsest_sources.dat" in problem
    masses = []
    for name in ("sources.dat", "wsubgrid_sources.dat", "wsubgrid_sources.hdf5"):
        maps = {"n_src": [folder / f"8.700-coarsest_{name}"]}
        detection = detect(folder, FileSelection(maps=maps), given=C2RAY)
        assert detection.problems == ()
        assert detection.simulation().n_src_units == "Msun"
        masses.append(_values(detection, "n_src", 8.7))
    np.testing.assert_allclose(masses[0], masses[2], rtol=2e-5)
    np.testing.assert_array_equal(masses[0], masses[1])
    n_igm = _values(detection, "n_igm", 8.7)
    assert n_igm.mean(dtype="f8") == pytest.approx(4.0495e-31, rel=1e-3)
    assert detection.simulation().density_frame == "comoving"


def test_a_real_coeval_file_of_another_mesh_of_initial_conditions_is_refused(
    shared_data: Path,
) -> None:
    folder = shared_data / "dev" / "21cmfast_v3"
    maps = {name: [folder / f"{kind}_*"] for name, kind in V3_KINDS.items()}
    cache = detect(folder, FileSelection(maps=maps, redshifts=(8.0,)))
    assert cache.problems == ()
    maps["n_igm"] = [folder / "coeval_z8.000.h5"]
    (problem,) = detect(folder, FileSelection(maps=maps, redshifts=(8.0,))).problems
    assert problem.startswith("n_igm in coeval_z8.000.h5 and n_src in PerturbHaloField_")
    assert problem.endswith("of different runs, with DIM 48 and 96; give fields of one run")


def test_real_cache_trees_give_the_cubes_of_the_set_made_from_them(shared_data: Path) -> None:
    dev = shared_data / "dev"
    (problem,) = detect(dev / "21cmfast_v4_cache").problems
    assert "HaloBox" in problem
    maps = {"n_src": [dev / "nsrc_z8.397.npy"]}
    detection = detect(dev / "21cmfast_v4_cache", FileSelection(maps=maps))
    assert detection.problems == ()
    assert detection.simulation().redshifts == (8.397,)
    assert detection.simulation().box_length_cmpc == pytest.approx(152.384)
    xhii = np.load(dev / "xHII_z8.397.npy").ravel()
    np.testing.assert_array_equal(_values(detection, "xhii", 8.397), xhii)
    rho = np.load(dev / "rho_z8.397.npy").ravel()
    np.testing.assert_allclose(_values(detection, "n_igm", 8.397), rho, rtol=1e-6)


def test_a_real_cache_and_a_coeval_file_are_chosen_between_by_patterns(shared_data: Path) -> None:
    folder = shared_data / "dev" / "21cmfast_v3"
    problems = detect(folder).problems
    patterns = [re.search(r"--map '([^=]*)=([^']*)'", problem) for problem in problems]
    maps = {found[1]: [Path(found[2])] for found in patterns if found}
    assert set(maps) == {"n_igm", "xhii"}
    detection = detect(folder, FileSelection(maps=maps))
    assert detection.problems == ()
    assert detection.simulation().redshifts == (8.0, 7.0)
    assert detection.simulation().n_src_units == "1"
    assert _values(detection, "xhii", 8.0).mean() == pytest.approx(0.4847, abs=5e-5)
    assert detect(folder, FileSelection(redshifts=[7.0])).problems == ()
