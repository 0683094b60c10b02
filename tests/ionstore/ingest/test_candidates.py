from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from ionstore.errors import SourceDataError
from ionstore.ingest.candidates import FoundFiles, file_name, find_candidates
from tests.support.toy_format import TOYS, toy_field, write_toy, write_toys


def _find(
    folder: Path,
    maps: Mapping[str, Sequence[Path]] | None = None,
    format_name: str | None = None,
) -> FoundFiles:
    return find_candidates(folder, maps or {}, format_name=format_name, readers=TOYS)


def _of(found: FoundFiles, field: str) -> list[tuple[float, str, str]]:
    return sorted(
        (one.redshift, one.name, one.quantity) for one in found.candidates if one.field == field
    )


def test_what_files_say_is_taken(tmp_path: Path) -> None:
    write_toy(
        tmp_path / "all.dat",
        toy_field("n_igm", 9.0, quantity="overdensity"),
        toy_field("xhii", 9.0),
        box=20.0,
        cosmology={"h": 0.7},
        notes=["it is a toy"],
    )
    found = _find(tmp_path)
    assert _of(found, "n_igm") == [(9.0, "all.dat", "overdensity")]
    assert _of(found, "xhii") == [(9.0, "all.dat", "ionized_fraction")]
    told = [one.file.contents for one in found.candidates]
    assert {contents.box_length_cmpc for contents in told} == {20.0}
    assert {contents.cosmology.h for contents in told if contents.cosmology} == {0.7}
    assert {one.format_name for one in found.candidates} == {"toy"}
    assert found.said == {"all.dat": ("it is a toy",)}
    assert found.notes == found.problems == found.spare == []


def test_a_mapped_folder_is_all_that_is_considered_for_its_field(tmp_path: Path) -> None:
    write_toys(tmp_path / "sim", 9.0)
    write_toys(tmp_path / "sources", 9.0, 8.0)
    found = _find(tmp_path / "sim", {"n_src": [tmp_path / "sources"]})
    outside = str(tmp_path / "sources")
    assert _of(found, "n_src") == [
        (8.0, f"{outside}/n_src_8.000.dat", "msun"),
        (9.0, f"{outside}/n_src_9.000.dat", "msun"),
    ]
    assert _of(found, "n_igm") == [(9.0, "n_igm_9.000.dat", "density")]


def test_files_that_say_no_field_are_claimed_by_a_map(tmp_path: Path) -> None:
    write_toys(tmp_path, 9.0)
    for z in (9.0, 8.0):
        write_toy(tmp_path / "maps" / f"grid_{z:.3f}.dat", toy_field(None, z))
    for field, quantity in (
        ("n_igm", "density"),
        ("n_src", "sources"),
        ("xhii", "ionized_fraction"),
        ("temperature", "as_is"),
    ):
        found = _find(tmp_path, {field: [tmp_path / "maps"]})
        assert _of(found, field) == [
            (8.0, "maps/grid_8.000.dat", quantity),
            (9.0, "maps/grid_9.000.dat", quantity),
        ]
        assert found.notes == []  # the folder is read, and its files are not ignored


def test_files_that_say_the_field_are_preferred_to_those_that_say_none(tmp_path: Path) -> None:
    write_toy(tmp_path / "maps" / "a.dat", toy_field("xhii", 9.0))
    write_toy(tmp_path / "maps" / "b.dat", toy_field(None, 9.0))
    write_toy(tmp_path / "maps" / "c.dat", toy_field(None, 8.0))
    found = _find(tmp_path, {"xhii": [tmp_path / "maps"]})
    assert _of(found, "xhii") == [(9.0, "maps/a.dat", "ionized_fraction")]


def test_masses_of_sources_can_be_mapped_as_the_sources(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "mass.dat", toy_field("src_mass", 9.0))
    found = _find(tmp_path, {"n_src": [path]})
    assert _of(found, "n_src") == [(9.0, "mass.dat", "msun")]
    assert _of(found, "src_mass") == [(9.0, "mass.dat", "msun")]


def test_patterns_and_several_paths_name_files(tmp_path: Path) -> None:
    for kind in ("used", "all"):
        for z in (9.0, 8.0):
            write_toy(tmp_path / f"{z:.3f}-{kind}.dat", toy_field("n_src", z))
    used = [(8.0, "8.000-used.dat", "msun"), (9.0, "9.000-used.dat", "msun")]
    assert _of(_find(tmp_path, {"n_src": [tmp_path / "*-used.dat"]}), "n_src") == used
    both = [tmp_path / "9.000-used.dat", tmp_path / "*-used.dat"]
    assert _of(_find(tmp_path, {"n_src": both}), "n_src") == used


def test_a_file_whose_name_is_a_pattern_is_that_file(tmp_path: Path) -> None:
    write_toy(tmp_path / "a[1].dat", toy_field("n_src", 9.0))
    write_toy(tmp_path / "a1.dat", toy_field("n_src", 8.0))
    found = _find(tmp_path, {"n_src": [tmp_path / "a[1].dat"]})
    assert _of(found, "n_src") == [(9.0, "a[1].dat", "msun")]


def test_one_format_can_be_asked_for(tmp_path: Path) -> None:
    write_toy(tmp_path / "a.dat", toy_field("xhii", 9.0))
    write_toy(tmp_path / "a.other", toy_field("xhii", 9.0))
    assert len(_find(tmp_path).candidates) == 2
    found = _find(tmp_path, format_name="other")
    assert _of(found, "xhii") == [(9.0, "a.other", "ionized_fraction")]
    # What the user names is read whatever its format is.
    found = _find(tmp_path, {"xhii": [tmp_path / "a.dat"]}, format_name="other")
    assert _of(found, "xhii") == [(9.0, "a.dat", "ionized_fraction")]


def test_lists_of_sources_are_claimed_for_sources_alone(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "list.dat", toy_field(None, 9.0, mesh=None))
    assert _of(_find(tmp_path, {"n_src": [path]}), "n_src") == [(9.0, "list.dat", "sources")]
    (problem,) = _find(tmp_path, {"xhii": [path]}).problems
    assert "xhii was expected here, found no field" in problem


def test_a_map_that_leads_nowhere_is_a_problem_with_what_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "sim"
    write_toy(folder / "a.dat", toy_field("xhii", 9.0), notes=["nothing here is an n_src"])
    (problem,) = _find(folder, {"n_src": [folder / "a.dat"]}).problems
    assert problem == (
        f"{folder / 'a.dat'}: n_src was expected here, found xhii; a.dat: nothing here is an n_src"
    )
    write_toy(folder / "c.dat", toy_field("xhii", 9.0))
    (problem,) = _find(folder, {"n_src": [folder / "c.dat"]}).problems
    assert problem == (
        f"{folder / 'c.dat'}: n_src was expected here, found xhii; "
        f"map it with --map xhii={folder / 'c.dat'}, or rename the file if its name is wrong"
    )
    (folder / "b.dat").write_bytes(b"no mesh begins with such letters")
    (problem,) = _find(folder, {"n_src": [folder / "b.dat"]}).problems
    assert "found no field; `ionstore formats` lists what is read" in problem


def test_a_mapped_file_of_no_format_is_looked_at_as_a_truncated_mesh(tmp_path: Path) -> None:
    path = tmp_path / "mesh_8.000.raw"
    path.write_bytes(np.array([9, 9, 9], "<i4").tobytes() + bytes(4 * 9**3 - 1))
    found = _find(tmp_path, {"xhii": [path]})
    (damage,) = found.damaged
    assert (damage.field, damage.redshift, damage.is_mapped) == ("xhii", 8.0, True)
    assert "the mesh (9, 9, 9) needs 2928 bytes in float32" in damage.sentence
    assert found.problems == []


def test_damaged_files_are_what_they_are_mapped_as(tmp_path: Path) -> None:
    write_toys(tmp_path / "sim", 9.0)
    write_toy(tmp_path / "sim" / "xhii_8.000.dat", damaged=True)
    for name in ("xhii_8.000.dat", "n_igm_8.000.dat", "any.dat"):
        write_toy(tmp_path / "maps" / name, damaged=True)
    write_toy(tmp_path / "maps" / "xhii_9.000.dat", toy_field("xhii", 9.0))
    found = _find(tmp_path / "sim", {"xhii": [tmp_path / "maps"]})
    assert [(one.field, one.redshift, one.is_mapped) for one in found.damaged] == [
        ("xhii", None, True),
        ("xhii", 8.0, True),
        ("xhii", 8.0, False),
    ]
    found = _find(tmp_path / "sim", {"xhii": [tmp_path / "sim" / "xhii_8.000.dat"]})
    assert [(one.field, one.is_mapped) for one in found.damaged] == [("xhii", True)]
    assert found.problems == []


def test_a_redshift_that_nothing_tells_is_a_problem_where_the_user_names_the_file(
    tmp_path: Path,
) -> None:
    path = write_toy(tmp_path / "final.dat", toy_field("xhii", None))
    found = _find(tmp_path)
    assert found.candidates == found.problems == []
    assert found.notes == [
        "final.dat: neither the file nor its name gives a redshift; put it in the name, such as "
        "xfrac_8.397.npy"
    ]
    found = _find(tmp_path, {"xhii": [path]})
    assert found.candidates == found.notes == []
    assert len(found.problems) == 1


def test_what_is_not_read_is_named_in_short(tmp_path: Path) -> None:
    write_toys(tmp_path, 9.0)
    for index in range(9):
        write_toy(tmp_path / f"map{index}.dat", toy_field(None, 9.0))
    (tmp_path / "run.npy").touch()
    (tmp_path / "README.md").touch()
    write_toy(tmp_path / "heat.dat", notes=["heating rates are not stored"])
    found = _find(tmp_path)
    assert found.notes == [
        "ignored files: map0.dat, map1.dat, map2.dat, map3.dat, map4.dat, map5.dat and 4 more"
    ]
    assert found.said == {"heat.dat": ("heating rates are not stored",)}


@pytest.mark.parametrize(
    ("maps", "format_name", "said"),
    [
        ({"n_src": ["none"]}, None, "none: expected a file, a folder or a pattern .* n_src"),
        ({"n_src": ["*.none"]}, None, "found nothing; check the path"),
        ({"rho": ["."]}, None, "a map names one of n_igm, n_src, .*, got rho"),
        ({}, "hdf5", "the format must be one of other, toy, got hdf5"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, maps: dict[str, list[str]], format_name: str | None, said: str
) -> None:
    paths = {name: [tmp_path / path for path in given] for name, given in maps.items()}
    with pytest.raises(SourceDataError, match=said):
        _find(tmp_path, paths, format_name)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceDataError, match="expected a folder"):
        _find(tmp_path / "none")


def test_names_are_those_inside_the_folder_or_as_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sim/density/a.dat", "density/a.dat", "sources/b.dat"):
        write_toy(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    sim = Path("sim")
    assert file_name(sim / "density/a.dat", sim) == "density/a.dat"
    assert file_name(Path("sources/../sim/density/a.dat"), sim) == "density/a.dat"
    assert file_name(tmp_path / "sim/density/a.dat", sim) == "density/a.dat"
    assert file_name(Path("sources/b.dat"), sim) == "sources/b.dat"
    assert file_name(Path("../elsewhere/b.dat"), sim) == "../elsewhere/b.dat"
    assert file_name(tmp_path / "sources/b.dat", sim) == str(tmp_path / "sources/b.dat")
    # Another file of the simulation has this name.
    assert file_name(Path("density/a.dat"), sim) == str(tmp_path / "density/a.dat")
