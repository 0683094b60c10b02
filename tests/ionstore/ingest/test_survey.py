"""What one pass over the values of a file finds, against NumPy on all of them at once."""

from pathlib import Path

import numpy as np
import pytest

from ionstore.cube.mesh import Array
from ionstore.errors import SourceDataError
from ionstore.ingest.survey import SourceSurvey, survey_source
from ionstore.readers.arrays.flat import FlatArray

N_CELLS = 70_001  # more than are looked at together, by less than as many


def surveyed(folder: Path, values: Array, field: str = "ionization_rate") -> SourceSurvey:
    path = folder / "values.raw"
    path.write_bytes(values.tobytes())
    return survey_source(field, FlatArray(path, values.shape, values.dtype))


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "uint8", "<i4", ">u2"])
@pytest.mark.parametrize("is_integral", [True, False])
def test_ranges_and_counts_are_those_of_all_values(
    tmp_path: Path, dtype: str, is_integral: bool
) -> None:
    values = np.random.default_rng(2).integers(0, 5, N_CELLS).astype(dtype)
    if values.dtype.kind == "f":
        values[::7] = -0.0
        values[-1] = 3.0 if is_integral else 2.5
    found = surveyed(tmp_path, values)
    single = values.astype("f4")
    assert (found.min, found.max) == (single.min(), single.max())
    assert found.mean == pytest.approx(single.mean(dtype="f8"), rel=1e-13)
    assert found.n_zeros == np.count_nonzero(single == 0)
    assert found.integral == (is_integral or values.dtype.kind != "f")
    assert found.n_clipped == 0


@pytest.mark.parametrize("place", [0, 65_535, 65_536, N_CELLS - 1])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_met_wherever_it_is(
    tmp_path: Path, place: int, value: float
) -> None:
    values = np.ones(N_CELLS, "f4")
    values[place] = value
    with pytest.raises(SourceDataError, match="got NaN or infinity in 1 cell; mend"):
        surveyed(tmp_path, values)


def test_nan_that_signal_are_met_without_a_warning(tmp_path: Path) -> None:
    signaling = np.array([1, 0x7FF0000000000001], "<u8").view("<f8")
    with pytest.raises(SourceDataError, match="got NaN or infinity in 1 cell; mend"):
        surveyed(tmp_path, signaling)


def test_numbers_that_float32_cannot_hold_are_named(tmp_path: Path) -> None:
    values = np.ones(N_CELLS)
    values[40_000] = 1e39
    with pytest.raises(SourceDataError, match=r"must fit float32, got 1e\+39"):
        surveyed(tmp_path, values)


def test_ionized_fractions_outside_by_rounding_are_counted(tmp_path: Path) -> None:
    values = np.full(N_CELLS, 0.5, "f4")
    values[[3, 65_536]] = -1e-7
    values[N_CELLS - 1] = 1 + 2e-7
    assert surveyed(tmp_path, values, "xhii").n_clipped == 3
    values[9] = -2e-6
    with pytest.raises(SourceDataError, match="must lie between 0 and 1"):
        surveyed(tmp_path, values, "xhii")


@pytest.mark.parametrize(
    ("field", "values", "said"),
    [
        (
            "n_igm",
            [-0.5, -0.25, 1.0, 0.0],
            "n_igm is a gas density and cannot be negative, got -0.5 to 1 with a mean of 0.062; "
            "of an overdensity give the density itself in g/cm3, 1 + overdensity times the mean; "
            "no store holds negative ones, so --trust n_igm does not help",
        ),
        ("n_igm", [-3.0, 1.0], "got -3 to 1 with a mean of -1; mend the file"),
        ("n_src", [-0.5, 1.5], "got -0.5 to 1.5 with a mean of 0.5; mend the file"),
    ],
)
def test_negative_values_are_told_with_their_range_and_mean(
    tmp_path: Path, field: str, values: list[float], said: str
) -> None:
    with pytest.raises(SourceDataError) as caught:
        surveyed(tmp_path, np.array(values, "f4"), field)
    assert str(caught.value).endswith(said)
