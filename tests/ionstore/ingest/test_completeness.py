import itertools
from pathlib import Path

import numpy as np
import pytest

from ionstore.ingest.candidates import Candidate, FoundFiles
from ionstore.ingest.completeness import (
    Candidates,
    choose_redshifts,
    group_by_cube,
    leave_out,
    leave_out_extras,
    missing_fields,
    of_different_runs,
    redshifts_too_close,
    sort_damage,
    there_twice,
)
from ionstore.ingest.scan import InspectedFile, UnreadableFile
from ionstore.ingest.selection import FileSelection
from ionstore.readers.base import FileContents
from tests.support.toy_format import UniformCube

FOLDER = Path("sim")


def _candidate(
    field: str, redshift: float, name: str, format_name: str = "toy", **told: float
) -> Candidate:
    source = UniformCube(FOLDER / name, 0.5, (4, 4, 4), np.dtype("f4"))
    file = InspectedFile(source.path, format_name, FileContents((), initial_conditions=told))
    return Candidate(field, redshift, source, "as_is", file, name)


def _truncated(
    field: str | None, redshift: float | None, is_mapped: bool = False
) -> UnreadableFile:
    sentence = "a.dat: it is truncated"
    return UnreadableFile(Path("a.dat"), sentence, field, redshift, is_mapped=is_mapped)


def _grouped(*found: tuple[str, float] | tuple[str, float, str]) -> Candidates:
    names = (one[2] if len(one) > 2 else f"{one[0]}_{one[1]:.3f}.dat" for one in found)
    return group_by_cube(
        _candidate(one[0], one[1], name) for one, name in zip(found, names, strict=True)
    )


def _complete(*redshifts: float) -> list[tuple[str, float]]:
    return list(itertools.product(("n_igm", "n_src", "xhii"), redshifts))


def _redshifts(*told: float) -> list[float]:
    grouped = group_by_cube(
        _candidate(field, z, "a.dat")
        for field, z in zip(("n_igm", "n_src", "xhii"), told, strict=False)
    )
    return sorted({z for of_field in grouped.values() for z in of_field})


def test_fields_come_in_their_order() -> None:
    grouped = _grouped(("xhii", 9.0), ("temperature", 9.0), ("n_src", 9.0), ("n_igm", 8.0))
    assert list(grouped) == ["n_igm", "n_src", "xhii", "temperature"]


@pytest.mark.parametrize(
    ("told", "cubes"),
    [
        ((9.0, 9.0), [9.0]),
        ((8.29, 8.289925), [8.289925]),  # the name of a file, and an attribute
        ((8.289925, 8.29, 8.2899), [8.289925]),
        ((8.3970, 8.3975), [8.3975]),  # half of the last of three decimals
        ((8.397, float(np.float32(8.397))), [8.397]),
        ((float(np.float32(8.397)),), [8.397]),
        ((0.1, 10.1), [0.1, 10.1]),
        ((9.0, 9.0006), [9.0, 9.0006]),
        ((9.0, 9.0004, 9.0008), [9.0004, 9.0008]),
    ],
)
def test_redshifts_within_the_rounding_of_names_are_one_cube(
    told: tuple[float, ...], cubes: list[float]
) -> None:
    assert _redshifts(*told) == cubes


def test_redshifts_too_close_to_tell_apart_are_named() -> None:
    (said,) = redshifts_too_close(FOLDER, _grouped(*_complete(9.0, 9.0007, 8.0)))
    assert "differ by more than 0.001, got 9.0 and 9.0007" in said
    assert not list(redshifts_too_close(FOLDER, _grouped(*_complete(9.0, 9.0011))))


def test_some_redshifts_can_be_chosen() -> None:
    grouped = _grouped(*_complete(9.0, 8.289925, 7.0), ("temperature", 7.0))
    chosen, problems = choose_redshifts(grouped, [8.29, 9.0, 9.0])
    assert {name: sorted(of_field) for name, of_field in chosen.items()} == {
        name: [8.289925, 9.0] for name in ("n_igm", "n_src", "xhii")
    }
    assert problems == []
    _, problems = choose_redshifts(grouped, [8.3, 9.0])
    assert problems == ["redshift 8.3 is wanted, but no file has it; found 9, 8.28993, 7"]
    assert choose_redshifts(grouped, []) == (grouped, [])
    assert choose_redshifts(_grouped(*_complete(8.3975)), [8.397])[1] == []


@pytest.mark.parametrize(
    ("damage", "maps", "wanted", "is_needed"),
    [
        # As long as nothing is chosen, all files are wanted.
        (("xhii", 8.0), (), (), True),
        (("xhii", None), (), (), True),
        ((None, 8.0), (), (), True),
        ((None, None), (), (), True),
        # Names tell that a file is not wanted.
        (("xhii", 8.0), (), (9.0,), False),
        ((None, 8.0), (), (9.0,), False),
        (("xhii", 9.0), (), (9.0,), True),
        (("xhii", 9.0005), (), (9.0,), True),
        (("xhii", 8.0), (), (9.0, 8.0), True),
        (("xhii", 8.0), ("xhii",), (), False),
        (("xhii", 8.0), ("n_src",), (), True),
        # Where they do not, all that is wanted must be there without it.
        ((None, None), (), (9.0,), False),
        (("xhii", None), (), (9.0,), False),
        ((None, 9.0), (), (9.0,), False),
        ((None, None), (), (9.0, 8.0), True),
        ((None, None), (), (9.0, 7.0), True),
        ((None, None), ("xhii", "n_src"), (), True),
        ((None, None), ("xhii", "n_src", "n_igm"), (), False),
        # What the user names is not supplied by others.
        (("xhii", 8.0, True), ("xhii",), (), True),
        (("xhii", None, True), ("xhii",), (), True),
        (("xhii", 8.0, True), ("xhii",), (9.0,), False),
        (("xhii", None, True), ("xhii", "n_src", "n_igm"), (), True),
        (("xhii", None, True), ("xhii",), (9.0,), False),
    ],
)
def test_a_damaged_file_is_needed_unless_nothing_is_lost_without_it(
    damage: tuple[str | None, float | None] | tuple[str | None, float | None, bool],
    maps: tuple[str, ...],
    wanted: tuple[float, ...],
    is_needed: bool,
) -> None:
    field, redshift, *is_mapped = damage
    one = _truncated(field, redshift, *is_mapped)
    grouped, _ = choose_redshifts(_grouped(*_complete(9.0), ("n_igm", 8.0)), wanted)
    files = FileSelection(maps={name: [FOLDER] for name in maps}, redshifts=wanted)
    needed, notes = sort_damage([one], grouped, files)
    assert needed == (["a.dat: it is truncated"] if is_needed else [])
    assert notes == ([] if is_needed else ["left out: a.dat: it is truncated"])


@pytest.mark.parametrize(
    ("field", "redshift", "maps", "wanted", "is_needed"),
    [
        ("xhii", 9.0, (), (), False),
        ("xhii", None, (), (), False),
        ("n_src", 9.0, (), (), True),
        # A file of no name can be a field that is wanted, unless all are there or mapped.
        (None, 9.0, (), (), True),
        (None, None, (), (9.0,), False),
        (None, None, (), (9.0, 8.0), True),
        (None, None, ("n_igm", "n_src"), (), False),
        (None, None, ("n_igm",), (), True),
    ],
)
def test_a_damaged_file_of_a_field_that_is_left_out_is_not_needed(
    field: str | None,
    redshift: float | None,
    maps: tuple[str, ...],
    wanted: tuple[float, ...],
    is_needed: bool,
) -> None:
    one = _truncated(field, redshift)
    found = _grouped(("n_igm", 9.0), ("n_src", 9.0), ("n_igm", 8.0))
    grouped, _ = choose_redshifts(found, wanted)
    files = FileSelection(
        maps={name: [FOLDER] for name in maps}, redshifts=wanted, without=["xhii"]
    )
    needed, notes = sort_damage([one], grouped, files)
    assert needed == (["a.dat: it is truncated"] if is_needed else [])
    assert notes == ([] if is_needed else ["left out: a.dat: it is truncated"])


def test_what_is_left_out_is_named_with_its_files() -> None:
    found = [_candidate(name, z, f"{name}_{z:.0f}.dat") for name, z in _complete(9.0, 8.0)]
    assert leave_out(found, ()) == (found, [])
    kept, notes = leave_out(found, ["xhii"])
    assert kept == found[:4]
    assert notes == ["xhii is left out, although it is there: xhii_9.dat, xhii_8.dat"]
    # A file with several fields, each at two redshifts.
    together = [_candidate(name, z, "all.h5") for name, z in _complete(9.0, 8.0)]
    kept, notes = leave_out(together, ["n_src", "xhii"])
    assert kept == together[:2]
    assert notes == [
        "n_src is left out, although it is there: all.h5",
        "xhii is left out, although it is there: all.h5",
    ]


def test_extra_fields_that_are_not_whole_are_left_out_with_the_reason() -> None:
    grouped = _grouped(
        *_complete(9.0, 8.0),
        ("temperature", 9.0),
        ("src_mass", 9.0, "srcmass_z9.000.npy"),
        *(("ionization_rate", z) for z in (9.0, 8.0)),
        ("mfp_mask", 9.0),
        ("mfp_mask", 8.0),
        ("mfp_mask", 8.0, "again_8.000.dat"),
    )
    kept, notes = leave_out_extras(grouped, ())
    assert list(kept) == ["n_igm", "n_src", "xhii", "ionization_rate"]
    assert notes == [
        "src_mass is left out: srcmass is missing at redshift 8",
        "mfp_mask is left out: at redshift 8 it is there twice, mfp_mask_8.000.dat and "
        "again_8.000.dat; choose with --map 'mfp_mask=sim/mfp_mask_*.dat'",
        "temperature is left out: it is missing at redshift 8",
    ]
    # Who maps a field wants it: what is wrong with it is a problem.
    assert "mfp_mask" in leave_out_extras(grouped, ("mfp_mask",))[0]


def test_what_is_there_twice_is_named_with_the_way_on() -> None:
    grouped = _grouped(*_complete(8.7), ("n_src", 8.7, "8.700-used.dat"))
    assert list(there_twice(FOLDER, grouped)) == [
        "sim: n_src at redshift 8.7 is there twice, n_src_8.700.dat and 8.700-used.dat; "
        "choose with --map n_src=sim/n_src_8.700.dat, or remove the others"
    ]
    assert not list(there_twice(FOLDER, _grouped(*_complete(8.7, 8.0))))


def test_a_choice_at_many_redshifts_is_a_pattern() -> None:
    again = [("n_src", z, f"{z:.3f}-used.dat") for z in (9.0, 8.0, 7.0)]
    (said,) = there_twice(FOLDER, _grouped(*again, *_complete(9.0, 8.0, 7.0)))
    assert said.startswith(
        "sim: n_src is there more than once at 3 redshifts; at redshift 9 it is there twice, "
    )
    assert "--map 'n_src=sim/*-used.dat'" in said
    hashed = [("xhii", z, f"IonizedBox_{int(z):032x}_r77.h5") for z in (9.0, 8.0)]
    (said,) = there_twice(FOLDER, _grouped(*hashed, *_complete(9.0)))
    assert "--map 'xhii=sim/IonizedBox_*_r77.h5'" in said
    tree = [("xhii", z, f"a/{z:.4f}/b/IonizedBox.h5") for z in (9.0, 8.0)]
    (said,) = there_twice(FOLDER, _grouped(*tree, *_complete(9.0)))
    assert "--map 'xhii=sim/a/*/b/IonizedBox.h5'" in said


def _told(field: str, redshift: float, **told: float) -> Candidate:
    return _candidate(field, redshift, f"{field}_{redshift:.3f}.dat", **told)


def test_fields_of_one_redshift_are_of_one_run() -> None:
    def said(**of_xhii: float) -> list[str]:
        told = [_told("n_igm", 9.0, DIM=96, random_seed=2**40), _told("n_src", 9.0)]
        return list(of_different_runs(group_by_cube([*told, _told("xhii", 9.0, **of_xhii)])))

    assert said(DIM=96, random_seed=2**40) == said(random_seed=2**40, FACTOR=3) == said() == []
    assert said(DIM=48, random_seed=2**40) == [
        "n_igm in n_igm_9.000.dat and xhii in xhii_9.000.dat are of different runs, with DIM 96 "
        "and 48; give fields of one run"
    ]
    assert "random_seed 1099511627776 and 7;" in said(DIM=96, random_seed=7)[0]
    # Boxes of other redshifts may be of their own seeds.
    apart = [_told("n_igm", 9.0, random_seed=1), _told("xhii", 8.0, random_seed=2)]
    assert list(of_different_runs(group_by_cube(apart))) == []


def test_files_of_different_formats_can_be_chosen_by_format() -> None:
    grouped = group_by_cube(
        [
            _candidate("xhii", 9.0, "a.h5", "21cmfast-v4"),
            _candidate("xhii", 9.0, "b.npy", "three-file-set"),
            _candidate("xhii", 9.0, "c.dat", "pyc2ray"),
        ]
    )
    (said,) = there_twice(FOLDER, grouped)
    assert "is there 3 times, a.h5, b.npy and c.dat" in said
    assert "or --format 21cmfast-v4 or --format three-file-set or --format pyc2ray" in said


def _missing(
    *found: tuple[str, float] | tuple[str, float, str],
    more: FoundFiles | None = None,
    required: tuple[str, ...] = ("n_igm", "n_src", "xhii"),
) -> list[str]:
    return list(missing_fields(FOLDER, _grouped(*found), more or FoundFiles(), required))


def test_nothing_is_missing_from_what_is_whole() -> None:
    assert _missing(*_complete(9.0, 8.0)) == []
    assert _missing() == []


def test_a_missing_file_is_named_as_those_of_other_redshifts_are() -> None:
    for name, expected in (
        ("xfrac3d_{:.3f}.bin", "xfrac3d_8.000.bin"),
        ("{:.2f}/xfrac.dat", "8.00/xfrac.dat"),
        ("0.3_xfrac_z{:.1f}_64.npy", "0.3_xfrac_z8.0_64.npy"),
    ):
        found = [("xhii", 9.0, name.format(9.0)), ("n_igm", 8.0), ("n_igm", 9.0)]
        (said,) = _missing(*found, ("n_src", 8.0), ("n_src", 9.0))
        assert said == (
            f"sim: {expected} is missing: xhii is required at every redshift; add it, or move the "
            "other files of this redshift away, or take what is complete alone: --redshift 9"
        )


def test_a_field_that_is_nowhere_is_to_be_mapped() -> None:
    said = _missing(("n_igm", 9.0), ("xhii", 9.0), ("xhii", 8.0))
    assert said == [
        "sim: n_igm_8.000.dat is missing: n_igm is required at every redshift; add it, or move the "
        "other files of this redshift away",
        "sim: n_src is missing: it is required at every redshift; "
        "add it, or say where it is with --map n_src=PATH; --without n_src makes a store that "
        "serves networks that do not see it",
    ]


def test_what_a_field_that_is_nowhere_can_be_left_out_for_is_told() -> None:
    n_src, xhii = _missing(("n_igm", 9.0), ("n_igm", 8.0))
    assert n_src.endswith("; --without n_src makes a store that serves networks that do not see it")
    assert xhii.endswith("; --without xhii makes a store that can be predicted, not trained on")
    # One that is somewhere was forgotten elsewhere, and one input must be there.
    (said,) = _missing(*_complete(9.0), ("n_igm", 8.0), ("n_src", 8.0))
    assert "--without" not in said
    assert not any("--without" in said for said in _missing(("xhii", 9.0)))


def test_what_is_not_required_is_not_missed() -> None:
    found = [("n_igm", 9.0), ("n_igm", 8.0), ("n_src", 9.0)]
    assert _missing(*found, required=("n_igm",)) == []
    (said,) = _missing(*found, required=("n_igm", "n_src"))
    assert said.startswith("sim: n_src_8.000.dat is missing: n_src is required at every redshift; ")
    assert said.endswith("or take what is complete alone: --redshift 9")


def test_many_redshifts_are_named_in_short() -> None:
    density = [("n_igm", float(z)) for z in range(6, 26)]
    said = _missing(*density, ("n_src", 7.0), ("n_src", 6.0), ("xhii", 6.0), ("xhii", 7.0))
    assert len(said) == 2
    assert said[1] == (
        "sim: xhii is missing at redshift 25, 24, 23, 22, 21, 20 and 12 more (xhii_8.000.dat and "
        "so on): it is required at every redshift; add it, or move the other files of this "
        "redshift away, or take what is complete alone: --redshift 7 --redshift 6"
    )


def test_what_readers_said_about_the_field_is_told() -> None:
    cube = "HaloBox is no n_src"
    more = FoundFiles(said={"a/HaloBox.h5": (cube,), "b/HaloBox.h5": (cube, "xhii is odd")})
    (said,) = _missing(("n_igm", 9.0), ("xhii", 9.0), more=more)
    without = "; --without n_src makes a store that serves networks that do not see it"
    assert said.endswith(f"--map n_src=PATH; HaloBox is no n_src{without}")
    how = FoundFiles(said={"a": ("no n_src here; compute it, or give --map n_src=PATH",)})
    (said,) = _missing(("n_igm", 9.0), ("xhii", 9.0), more=how)
    way_on = "no n_src here; compute it, or give --map n_src=PATH"
    assert said.endswith(f"every redshift; {way_on}{without}")


def test_spare_files_of_a_like_name_are_pointed_out() -> None:
    more = FoundFiles(spare=["movie.npy", "Xfrac3d_8.000.bin"])
    found = [("xhii", 9.0, "xfrac3d_9.000.bin"), *_complete(8.0)[:2], *_complete(9.0)[:2]]
    (said,) = _missing(*found, more=more)
    assert "xfrac3d_8.000.bin is missing: " in said
    assert "; Xfrac3d_8.000.bin is there: rename it if it is the one" in said
