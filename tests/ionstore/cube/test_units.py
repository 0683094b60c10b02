import pytest

from ionstore.cube.cosmology import Cosmology
from ionstore.cube.units import contradiction_to_frame, decide_density_frame, decide_n_src

COMOVING = {9.0: 4.05e-31, 7.5: 4.05e-31}
PROPER = {z: 4.05e-31 * (1 + z) ** 3 for z in COMOVING}


@pytest.mark.parametrize(
    ("largest", "integral", "units", "expected"),
    [
        ([0.0], True, None, ("uint8", "1")),
        ([3.0, 255.0], True, None, ("uint8", "1")),
        ([256.0, 3.0], True, None, ("uint16", "1")),
        ([65535.0], True, "1", ("uint16", "1")),
        ([65536.0], True, None, ("float32", "unknown")),
        ([3.5], False, None, ("float32", "unknown")),
        ([3.5], False, "1", ("float32", "1")),
        ([3.0], True, "grid_mass", ("float32", "grid_mass")),
        ([3e11], True, "Msun", ("float32", "Msun")),
    ],
)
def test_small_whole_numbers_are_counts_unless_said_to_be_masses(
    largest: list[float], integral: bool, units: str | None, expected: tuple[str, str]
) -> None:
    assert decide_n_src(largest, integral, units) == expected


def test_the_frame_is_the_one_whose_cosmic_mean_agrees() -> None:
    assert decide_density_frame(COMOVING, None) == "comoving"
    assert decide_density_frame(PROPER, Cosmology(h=0.7)) == "proper"
    assert decide_density_frame({9.0: 1.0, 7.5: 1.0}, None) == "unknown"
    assert decide_density_frame({9.0: PROPER[9.0], 7.5: 4e-31}, None) == "unknown"


def test_where_both_frames_agree_none_is_chosen() -> None:
    assert decide_density_frame({0.1: 4.2e-31}, None) == "unknown"
    assert contradiction_to_frame("proper", {0.1: 4.2e-31}, None) is None
    assert contradiction_to_frame("comoving", {0.1: 4.2e-31}, None) is None


def test_what_contradicts_a_frame_is_said_with_the_means() -> None:
    cosmology = Cosmology(h=0.7, omega_b=0.044)
    assert contradiction_to_frame("proper", PROPER, cosmology) is None
    assert contradiction_to_frame("comoving", COMOVING, cosmology) is None
    said = contradiction_to_frame("proper", COMOVING, cosmology)
    assert said is not None
    assert "taken as proper, although its mean fits comoving densities: it is 4.05e-31 g" in said
    assert "at redshift 9, where the cosmic mean is 4.05e-28 proper and 4.05e-31 comoving" in said
    one_of_two = contradiction_to_frame("comoving", {9.0: 4e-31, 7.5: 1.0}, cosmology)
    assert one_of_two is not None
    assert "its mean is not the cosmic one: it is 1 g/cm3 at redshift 7.5" in one_of_two
