import pickle
from pathlib import Path

import numpy as np
import pytest

from ionstore.cube.cosmology import Cosmology
from ionstore.cube.description import SimulationDescription
from ionstore.cube.mesh import Array
from ionstore.errors import SourceDataError
from ionstore.ingest.unit_conversion import (
    ConvertedSource,
    UnitConversion,
    check_inputs,
    convert,
    inputs_needed,
    plan_conversion,
    stored_as,
)
from ionstore.readers.arrays.flat import FlatArray
from ionstore.readers.arrays.npy import open_numpy_file
from ionstore.readers.base import FieldSource, Quantity

# The box of 500 Mpc/h of C2-Ray, and the critical density for h = 1 in g/cm3 and in Msun/Mpc3.
C2RAY = SimulationDescription(
    box_length_cmpc=500 / 0.7,
    cosmology=Cosmology(h=0.7, omega_m=0.27, omega_b=0.044),
    n_box=13824,
)
CRITICAL_CGS = 1.87834e-29
CRITICAL_MSUN = 2.77536627e11


def _plan(
    field: str,
    quantity: Quantity,
    known: SimulationDescription = C2RAY,
    *,
    redshift: float = 8.7,
    mesh_cells: int = 300,
) -> UnitConversion:
    return plan_conversion(field, quantity, redshift=redshift, mesh_cells=mesh_cells, known=known)


def _array(path: Path, values: Array) -> FlatArray:
    path.write_bytes(values.tobytes())
    return FlatArray(path, values.shape, values.dtype)


def test_an_overdensity_of_zero_is_the_proper_cosmic_mean() -> None:
    plan = _plan("n_igm", "overdensity", redshift=9.0)
    mean = 0.044 * CRITICAL_CGS * 0.7**2 * 10**3
    assert plan.factor == plan.offset == pytest.approx(mean, rel=1e-4)
    assert (plan.units, plan.frame) == ("g cm-3", "proper")


def test_gas_of_the_mean_grid_mass_is_the_comoving_cosmic_mean() -> None:
    plan = _plan("n_igm", "gas_grid_mass")
    mean_of_file = (13824 / 300) ** 3
    assert plan.factor * mean_of_file == pytest.approx(4.0495e-31, rel=2e-4)
    assert plan.offset == 0
    assert (plan.units, plan.frame) == ("g cm-3", "comoving")


def test_grid_masses_of_sources_become_solar_masses() -> None:
    plan = _plan("n_src", "grid_mass")
    all_matter = 0.27 * CRITICAL_MSUN * 0.7**2 * (500 / 0.7) ** 3
    assert plan.factor * 13824**3 == pytest.approx(all_matter, rel=1e-4)
    assert plan == UnitConversion(plan.factor, 0.0, "Msun")
    assert _plan("src_mass", "grid_mass").factor == plan.factor


@pytest.mark.parametrize("unit", ["grid_mass", "1"])
def test_grid_masses_are_kept_where_another_unit_is_asked_for(unit: str) -> None:
    known = SimulationDescription(n_src_units=unit)
    assert _plan("n_src", "grid_mass", known) == UnitConversion(units=unit)


def test_the_ionized_fraction_is_what_is_not_neutral() -> None:
    assert _plan("xhii", "neutral_fraction", SimulationDescription()) == UnitConversion(
        -1.0, 1.0, "1"
    )


@pytest.mark.parametrize(
    ("field", "quantity", "known", "expected"),
    [
        ("n_igm", "density", {}, ("g cm-3", None)),
        ("n_igm", "density", {"density_frame": "comoving"}, ("g cm-3", "comoving")),
        ("n_src", "sources", {}, (None, None)),
        ("n_src", "sources", {"n_src_units": "Msun"}, ("Msun", None)),
        ("n_src", "counts", {}, ("1", None)),
        ("n_src", "msun", {}, ("Msun", None)),
        ("xhii", "ionized_fraction", {}, ("1", None)),
        ("ionization_rate", "as_is", {}, ("s-1", None)),
        ("src_mass", "msun", {}, ("Msun", None)),
        ("temperature", "as_is", {}, ("K", None)),
    ],
)
def test_other_numbers_stay_as_they_are(
    field: str, quantity: Quantity, known: dict[str, str], expected: tuple[str | None, str | None]
) -> None:
    description = SimulationDescription.model_validate(known)
    assert stored_as(field, quantity, description) == expected
    assert _plan(field, quantity, description) == UnitConversion(1.0, 0.0, *expected)


@pytest.mark.parametrize(
    ("quantity", "options"),
    [
        ("overdensity", ["--h", "--omega-b"]),
        ("gas_grid_mass", ["--h", "--omega-b", "--n-box"]),
        ("grid_mass", ["--box-length", "--h", "--omega-m", "--n-box"]),
    ],
)
def test_every_option_that_is_missing_is_named(quantity: Quantity, options: list[str]) -> None:
    field = "n_src" if quantity == "grid_mass" else "n_igm"
    with pytest.raises(SourceDataError) as caught:
        _plan(field, quantity, SimulationDescription())
    said = str(caught.value)
    assert f"give {', '.join(options[:-1])} and {options[-1]}" in said
    every = ("--box-length", "--h ", "--h,", "--omega-m", "--omega-b", "--n-box")
    named = {option.rstrip(" ,") for option in every if option in f"{said} "}
    assert named == set(options)
    assert ("--n-src-unit grid_mass" in said) is (quantity == "grid_mass")


def test_what_several_files_need_is_asked_for_at_once() -> None:
    known = SimulationDescription(cosmology=Cosmology(h=0.7))
    what: list[tuple[str, str, Quantity]] = [
        ("8.7n_all.dat", "n_igm", "gas_grid_mass"),
        ("9.0n_all.dat", "n_igm", "gas_grid_mass"),
        ("sources.dat", "n_src", "grid_mass"),
        ("xfrac.bin", "xhii", "ionized_fraction"),
    ]
    with pytest.raises(SourceDataError) as caught:
        check_inputs(what, known)
    said = str(caught.value)
    assert "give --box-length, --omega-m, --omega-b and --n-box" in said
    assert "n_igm in 8.7n_all.dat is given as gas mass in grid masses" in said
    assert "n_src in sources.dat is given as mass in grid masses" in said
    assert "9.0n_all.dat" not in said
    assert "--h" not in said
    check_inputs(what, C2RAY)


def test_a_box_length_alone_is_never_needed() -> None:
    known = SimulationDescription(cosmology=C2RAY.cosmology, n_box=C2RAY.n_box)
    for quantity in ("overdensity", "gas_grid_mass", "density"):
        assert inputs_needed("n_igm", quantity, known) == ()
    assert inputs_needed("n_src", "msun", SimulationDescription()) == ()


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "i2"])
def test_blocks_and_streams_are_converted(tmp_path: Path, dtype: str) -> None:
    numbers = np.random.default_rng(0).integers(-90, 90, (3, 4, 5)).astype(dtype)
    source = ConvertedSource(_array(tmp_path / "cube", numbers), UnitConversion(3e-28, 2e-27))
    expected = (np.float64(3e-28) * numbers.astype("f8") + 2e-27).astype("f4")
    assert (source.shape, source.dtype) == ((3, 4, 5), np.float32)
    seen: list[bytes] = []
    streamed = np.concatenate(list(source.stream(seen.append)))
    assert streamed.dtype == np.float32
    np.testing.assert_array_equal(streamed, expected.ravel())
    assert b"".join(seen) == (tmp_path / "cube").read_bytes()
    block = source.read_block((1, 0, 2), (2, 3, 3))
    np.testing.assert_array_equal(block, expected[1:3, 0:3, 2:5])
    assert block.dtype == np.float32
    assert source.spool_bytes == 0
    assert pickle.loads(pickle.dumps(source)) == source


def test_one_minus_a_neutral_fraction_is_exact_to_float32(tmp_path: Path) -> None:
    neutral = np.random.default_rng(0).random((9, 9, 9), np.float32)
    neutral[0, 0, :2] = 0, 1
    plan = _plan("xhii", "neutral_fraction", SimulationDescription())
    source = convert(_array(tmp_path / "xH", neutral), plan)
    np.testing.assert_array_equal(source.read_block((0, 0, 0), (9, 9, 9)), 1 - neutral)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "u1"])
def test_what_is_spooled_is_converted_already(tmp_path: Path, order: str, dtype: str) -> None:
    numbers = np.arange(60).reshape(3, 4, 5).astype(dtype)
    np.savez_compressed(tmp_path / "cube.npz", np.asarray(numbers, order=order))  # type: ignore[call-overload]
    inner = open_numpy_file(tmp_path / "cube.npz", "rho")
    source = ConvertedSource(inner, UnitConversion(2.0, 1.0))
    assert source.spool_bytes == 4 * 60
    pieces = [piece.tobytes() for piece in source.stream(lambda piece: None)]
    (tmp_path / "spool").write_bytes(b"".join(pieces))
    spooled: FieldSource = source.from_spool(tmp_path / "spool")
    block = spooled.read_block((1, 1, 0), (2, 3, 4))
    np.testing.assert_array_equal(block, (2 * numbers + 1.0)[1:3, 1:4, 0:4])
    with pytest.raises(NotImplementedError):
        source.read_block((0, 0, 0), (1, 1, 1))


def test_a_source_that_is_not_converted_is_given_on_itself(tmp_path: Path) -> None:
    source = _array(tmp_path / "cube", np.zeros((2, 2, 2)))
    assert convert(source, UnitConversion(units="Msun")) is source
    assert isinstance(convert(source, UnitConversion(2.0)), ConvertedSource)


def test_what_leaves_float32_is_infinite_without_a_warning(tmp_path: Path) -> None:
    source = ConvertedSource(_array(tmp_path / "cube", np.ones((1, 1, 1))), UnitConversion(1e300))
    assert np.isinf(source.read_block((0, 0, 0), (1, 1, 1))).all()
