import os
from pathlib import Path

import pytest

from ionstore.cube.cosmology import PLANCK18, Cosmology
from ionstore.cube.description import SimulationDescription, describe, from_values, read_description
from ionstore.errors import SourceDataError

NOTHING = SimulationDescription()


def _describe(
    *told: SimulationDescription, given: SimulationDescription = NOTHING
) -> tuple[SimulationDescription, list[str]]:
    notes: list[str] = []
    files = [(f"file{index}", one) for index, one in enumerate(told)]
    return describe(files, given, notes.append), notes


def test_values_by_name_give_the_description_back() -> None:
    full = SimulationDescription(
        box_length_cmpc=20.0,
        cosmology=PLANCK18,
        density_frame="proper",
        n_src_units="1",
        n_box=13824,
        seed=3,
    )
    assert from_values(full.values()) == full
    assert from_values({"h": 0.7, "n_box": None}) == SimulationDescription(
        cosmology=Cosmology(h=0.7)
    )
    assert from_values({}) == NOTHING == from_values(NOTHING.values())


def test_a_description_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = SimulationDescription(cosmology=Cosmology(h=0.7, omega_b=0.044), n_box=13824)
    written.write(tmp_path)
    assert read_description(tmp_path) == written


def test_what_files_tell_is_put_together() -> None:
    known, notes = _describe(
        SimulationDescription(box_length_cmpc=20.0),
        SimulationDescription(cosmology=Cosmology(h=0.7)),
        SimulationDescription(cosmology=Cosmology(omega_b=0.044), n_box=64),
    )
    assert known == SimulationDescription(
        box_length_cmpc=20.0, cosmology=Cosmology(h=0.7, omega_b=0.044), n_box=64
    )
    assert notes == []


def test_what_is_given_wins_with_a_note() -> None:
    told = SimulationDescription(box_length_cmpc=20.0, cosmology=Cosmology("Planck18", h=0.68))
    given = SimulationDescription(
        box_length_cmpc=21.0, cosmology=Cosmology(h=0.7, omega_m=0.3), n_src_units="Msun"
    )
    known, notes = _describe(told, given=given)
    assert known == SimulationDescription(
        box_length_cmpc=21.0,
        cosmology=Cosmology("Planck18", h=0.7, omega_m=0.3),
        n_src_units="Msun",
    )
    assert notes == [
        "box length (cMpc): 21.0 as given here is used, the simulation's files say 20.0",
        "h: 0.7 as given here is used, the simulation's files say 0.68",
    ]


def test_files_that_contradict_each_other_are_refused_with_both_values() -> None:
    boxes = [SimulationDescription(box_length_cmpc=box) for box in (20.0, 20.0, 21.5)]
    with pytest.raises(
        SourceDataError,
        match=r"file0 and file2 contradict each other: box length \(cMpc\) 20\.0 and 21\.5; "
        "give --box-length",
    ):
        _describe(*boxes)
    known, notes = _describe(*boxes, given=SimulationDescription(box_length_cmpc=20.0))
    assert known.box_length_cmpc == 20.0
    assert len(notes) == 1
    tilted = [SimulationDescription(cosmology=Cosmology(n_s=n_s)) for n_s in (0.96, 0.97)]
    with pytest.raises(SourceDataError, match=r"n_s 0\.96 and 0\.97; ingest the files of one"):
        _describe(*tilted)


def test_what_is_taken_otherwise_never_wins() -> None:
    told = SimulationDescription(box_length_cmpc=20.0)
    notes: list[str] = []
    known = describe(
        [("file", told)],
        SimulationDescription(cosmology=Cosmology(h=0.7)),
        notes.append,
        otherwise=SimulationDescription(
            box_length_cmpc=21.0, cosmology=Cosmology(h=0.6, omega_m=0.3), n_box=60
        ),
    )
    assert known == SimulationDescription(
        box_length_cmpc=20.0, cosmology=Cosmology(h=0.7, omega_m=0.3), n_box=60
    )
    assert notes == []


def test_numbers_that_were_rounded_are_no_contradiction() -> None:
    single = 0.676599979400634765625  # 0.6766 in float32
    told = [SimulationDescription(cosmology=Cosmology(h=h)) for h in (0.6766, single)]
    known, _ = _describe(*told)
    assert known.cosmology == Cosmology(h=0.6766)


def test_baryons_are_matter_whoever_says_both() -> None:
    told = SimulationDescription(cosmology=Cosmology(omega_m=0.3, omega_b=0.3))
    assert _describe(told)[0].cosmology == told.cosmology
    with pytest.raises(SourceDataError, match=r"got 0\.3 and 0\.27; check --omega-b"):
        _describe(told, given=SimulationDescription(cosmology=Cosmology(omega_m=0.27)))


def test_two_names_of_one_cosmology_are_no_contradiction() -> None:
    told = [SimulationDescription(cosmology=Cosmology(name, h=0.7)) for name in ("A", "B")]
    known, _ = _describe(*told)
    assert known.cosmology == Cosmology("A", h=0.7)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"box_length_cmpc": 0.0}, "box length must be positive"),
        ({"box_length_cmpc": float("nan")}, "box length must be positive"),
        ({"h": 10.0}, "h must lie between 0 and 10"),
        ({"omega_m": -0.3}, "omega_m must lie between 0 and 2"),
        ({"omega_b": 44.0}, "omega_b must lie between 0 and 2"),
        ({"n_box": 0}, "n_box must be positive"),
        ({"sigma_8": -5.0}, "sigma_8 must lie between 0 and 10"),
        ({"n_s": 0.0}, "n_s must lie between 0 and 10"),
        ({"n_src_units": "kg"}, "unit of n_src must be one of Msun, grid_mass, 1, got kg"),
        ({"omega_m": 0.04, "omega_b": 0.05}, r"omega_b must not be above omega_m.*0\.05 and 0\.04"),
    ],
)
def test_values_out_of_range_are_refused_whoever_says_them(
    values: dict[str, float | str], said: str
) -> None:
    description = from_values(values)
    with pytest.raises(SourceDataError, match=said):
        _describe(description)
    with pytest.raises(SourceDataError, match=said):
        _describe(given=description)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "expected JSON"),
        ("[1, 2]", r"expected an object with keys such as box_length_cmpc, got \[1, 2\];"),
        ('{"n_box": "many"}', 'n_box must be a whole number, got "many"; mend'),
        ('{"n_box": 1.5}', "n_box must be a whole number, got 1.5; mend"),
        ('{"cosmology": 3}', "cosmology must be an object with keys such as h and omega_m, got 3"),
        ('{"cosmology": {"h": "small"}}', 'h must be a number, got "small"'),
        ('{"box_length_cmpc": true}', "box_length_cmpc must be a number, got true"),
        ('{"cosmology": {"h": true}}', "h must be a number, got true"),
        ('{"box_length_cmpc": "714"}', 'box_length_cmpc must be a number, got "714"'),
        ('{"cosmology": {"h": "0.7"}}', 'h must be a number, got "0.7"'),
        ('{"n_box": "60"}', 'n_box must be a whole number, got "60"'),
        ('{"density_frame": "its own"}', 'must be "proper" or "comoving", got "its own"'),
        ('{"n_src_units": 1}', 'n_src_units must be one of "Msun", "grid_mass", "1", got 1'),
        ('{"seed": "' + "3" * 50 + 'x"}', 'seed must be a whole number, got "3{39}…; mend'),
    ],
)
def test_a_description_that_is_none_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "simulation.json").write_text(text)
    with pytest.raises(SourceDataError, match=said) as caught:
        read_description(tmp_path)
    assert "simulation.json" in str(caught.value)


def test_a_pipe_in_place_of_a_description_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "simulation.json")
    with pytest.raises(SourceDataError, match=r"simulation\.json: expected JSON, got no file"):
        read_description(tmp_path)


def test_json_nested_without_end_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "simulation.json").write_text("[" * 150_000)
    with pytest.raises(SourceDataError, match="expected JSON"):
        read_description(tmp_path)
