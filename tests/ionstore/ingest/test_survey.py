"""What the first pass over the values of a simulation finds and refuses."""

import os
import pickle
import shutil
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ionstore.cube.mesh import Array
from ionstore.errors import SourceDataError
from ionstore.ingest import survey
from ionstore.ingest.ingest import ingest_cubes
from ionstore.ingest.selection import FileSelection, IngestOptions
from ionstore.ingest.survey import SourceSurvey, SurveyedSource, survey_source
from ionstore.readers.arrays.flat import FlatArray
from ionstore.store.cube_store import CubeStore
from tests.support.three_file_sets import PREFIXES

N_CELLS = 70_001  # more than are looked at together, by less than as many


def surveyed(folder: Path, values: Array, field: str = "ionization_rate") -> SourceSurvey:
    path = folder / "values.raw"
    path.write_bytes(values.tobytes())
    return survey_source(field, 8.0, FlatArray(path, values.shape, values.dtype))


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
    assert (found.values.min, found.values.max) == (single.min(), single.max())
    assert found.values.mean == pytest.approx(single.mean(dtype="f8"), rel=1e-13)
    assert found.values.n_zeros == np.count_nonzero(single == 0)
    assert found.integral == (is_integral or values.dtype.kind != "f")
    assert found.n_clipped == 0


@pytest.mark.parametrize("place", [0, 65_535, 65_536, N_CELLS - 1])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_met_wherever_it_is(
    tmp_path: Path, place: int, value: float
) -> None:
    values = np.ones(N_CELLS, "f4")
    values[place] = value
    with pytest.raises(SourceDataError, match="got NaN or infinity in 1 cell; fix"):
        surveyed(tmp_path, values)


def test_nan_that_signal_are_met_without_a_warning(tmp_path: Path) -> None:
    signaling = np.array([1, 0x7FF0000000000001], "<u8").view("<f8")
    with pytest.raises(SourceDataError, match="got NaN or infinity in 1 cell; fix"):
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
        ("n_igm", [-3.0, 1.0], "got -3 to 1 with a mean of -1; fix the file"),
        ("n_src", [-0.5, 1.5], "got -0.5 to 1.5 with a mean of 0.5; fix the file"),
    ],
)
def test_negative_values_are_told_with_their_range_and_mean(
    tmp_path: Path, field: str, values: list[float], said: str
) -> None:
    with pytest.raises(SourceDataError) as caught:
        surveyed(tmp_path, np.array(values, "f4"), field)
    assert str(caught.value).endswith(said)


WHOLE = ((0, 0, 0), (4, 4, 4))


@pytest.fixture
def source(tmp_path: Path) -> SurveyedSource:
    np.random.default_rng(0).random(64).tofile(tmp_path / "values")
    flat = FlatArray(tmp_path / "values", (4, 4, 4), np.dtype("f8"), fortran_order=True)
    return SurveyedSource(flat, survey_source("xhii", 8.0, flat))


def test_values_are_those_of_the_source_while_its_file_stays(source: SurveyedSource) -> None:
    flat = source.source
    for one in (source, pickle.loads(pickle.dumps(source)), source.absolute()):
        np.testing.assert_array_equal(one.read_block(*WHOLE), flat.read_block(*WHOLE))
        assert (one.path, one.shape, one.dtype) == (flat.path, flat.shape, flat.dtype)
        assert one.fortran_order


def test_a_source_is_absolute_with_its_survey(
    source: SurveyedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.path.parent)
    near = SurveyedSource(FlatArray(Path("values"), (4, 4, 4), np.dtype("f8")), source.survey)
    assert near.absolute().path == source.path
    assert near.absolute().survey == source.survey


@pytest.mark.parametrize("grow", [0, 1])
def test_a_file_that_was_written_since_is_refused(source: SurveyedSource, grow: int) -> None:
    path = source.path
    before = path.stat()
    path.write_bytes(path.read_bytes() + bytes(grow))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1 - grow))
    with pytest.raises(SourceDataError, match="the file changed while it was ingested"):
        source.read_block(*WHOLE)


def test_a_file_that_is_gone_is_named(source: SurveyedSource) -> None:
    source.path.unlink()
    with pytest.raises(FileNotFoundError, match="values"):
        source.read_block(*WHOLE)


MESH, REDSHIFT = 32, "8.000"


@pytest.fixture
def simulation(tmp_path: Path) -> Path:
    """Density, sources and ionized fraction that follow each other over a few cells."""
    rng = np.random.default_rng(3)
    k = 2 * np.pi * np.fft.fftfreq(MESH)
    k_squared = k[:, None, None] ** 2 + k[:, None] ** 2 + k**2
    noise = np.fft.fftn(rng.normal(size=(MESH,) * 3))
    smooth = np.fft.ifftn(noise * np.exp(-2 * k_squared)).real
    smooth /= smooth.std()
    folder = tmp_path / "sim"
    folder.mkdir()
    n_igm = np.exp(0.4 * smooth) * 3e-28
    n_src = rng.poisson(np.exp(smooth))
    xhii = 1 / (1 + np.exp(-3 * smooth))
    for prefix, values in (("rho", n_igm), ("nsrc", n_src), ("xHII", xhii)):
        np.save(folder / f"{prefix}_z{REDSHIFT}.npy", values.astype("f4"))
    return folder


def changed(simulation: Path, prefix: str, how: str) -> None:
    path = simulation / f"{prefix}_z{REDSHIFT}.npy"
    values = np.load(path)
    np.save(
        path,
        {
            "neutral": 1 - values,
            "relative": values / values.mean(),
            "transposed": np.ascontiguousarray(values.T),
            "turned": np.ascontiguousarray(values.transpose(1, 2, 0)),
        }[how],
    )


def test_fields_that_agree_are_taken(simulation: Path, tmp_path: Path) -> None:
    ingest_cubes(simulation, tmp_path / "cubes.zarr")
    assert CubeStore.open(tmp_path / "cubes.zarr").mesh.cells_per_side == MESH


@pytest.mark.parametrize(
    ("prefix", "how", "said"),
    [
        ("xHII", "neutral", r"xHII_z8\.000\.npy: .*neutral.*--trust xhii"),
        ("rho", "transposed", r"rho_z8\.000\.npy: .*axes.*--trust n_igm"),
    ],
)
def test_a_field_that_contradicts_the_others_is_refused_unless_trusted(
    simulation: Path, tmp_path: Path, prefix: str, how: str, said: str
) -> None:
    changed(simulation, prefix, how)
    with pytest.raises(SourceDataError, match=said):
        ingest_cubes(simulation, tmp_path / "cubes.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["sim"]
    field = {"xHII": "xhii", "rho": "n_igm"}[prefix]
    ingest_cubes(simulation, tmp_path / "cubes.zarr", options=IngestOptions(trust=[field]))
    stored = CubeStore.open(tmp_path / "cubes.zarr").read_field(field, 8.0)
    np.testing.assert_array_equal(stored, np.load(simulation / f"{prefix}_z{REDSHIFT}.npy"))


@pytest.mark.parametrize(
    ("without", "what", "said"),
    [
        (
            ["xhii"],
            ("rho", "turned"),
            r"rho_z8\.000\.npy: .*axes.*--trust n_igm or --trust n_src",
        ),
        (["n_src"], ("xHII", "neutral"), r"xHII_z8\.000\.npy: .*neutral.*--trust xhii"),
        (["n_igm"], ("xHII", "neutral"), r"xHII_z8\.000\.npy: .*neutral.*--trust xhii"),
        (["n_src", "xhii"], ("rho", "relative"), r"rho_z8\.000\.npy: .*divided by its mean"),
        (["n_src", "xhii"], ("rho", "turned"), None),
    ],
)
def test_the_fields_that_there_are_are_weighed(
    simulation: Path, tmp_path: Path, without: list[str], what: tuple[str, str], said: str | None
) -> None:
    for name in without:
        (simulation / f"{PREFIXES[name]}_z{REDSHIFT}.npy").unlink()
    files = FileSelection(without=without)
    ingest_cubes(simulation, tmp_path / "agreeing.zarr", files)
    changed(simulation, *what)
    if said is None:  # there is nothing to weigh it against
        ingest_cubes(simulation, tmp_path / "cubes.zarr", files)
        return
    with pytest.raises(SourceDataError, match=said):
        ingest_cubes(simulation, tmp_path / "cubes.zarr", files)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_the_contradiction_is_the_same_whichever_file_is_read_first(
    simulation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[int, ...]
) -> None:
    changed(simulation, "rho", "turned")
    changed(simulation, "nsrc", "transposed")  # no two of the three agree: all of them are suspects

    def run_in_order(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        results = {index: function(items[index]) for index in order}
        return [results[index] for index in range(len(items))]

    monkeypatch.setattr(survey, "run_in_threads", run_in_order)
    with pytest.raises(SourceDataError, match=r"rho_z8\.000\.npy: n_igm and "):
        ingest_cubes(simulation, tmp_path / "cubes.zarr")


@pytest.mark.parametrize("others", [("9.000",), ("7.000",), ("9.000", "7.000")])
def test_each_redshift_is_weighed(simulation: Path, tmp_path: Path, others: list[str]) -> None:
    for path in list(simulation.iterdir()):
        for redshift in others:
            shutil.copy(path, path.with_name(path.name.replace(REDSHIFT, redshift)))
    changed(simulation, "xHII", "neutral")
    with pytest.raises(SourceDataError, match=r"xHII_z8\.000\.npy: .*neutral"):
        ingest_cubes(simulation, tmp_path / "cubes.zarr")


def test_a_field_that_is_trusted_hides_no_other(simulation: Path, tmp_path: Path) -> None:
    changed(simulation, "xHII", "neutral")
    changed(simulation, "rho", "transposed")
    for trusted, refused in (("xhii", "rho"), ("n_igm", "xHII")):
        with pytest.raises(SourceDataError, match=rf"{refused}_z8\.000\.npy: "):
            ingest_cubes(
                simulation, tmp_path / "cubes.zarr", options=IngestOptions(trust=[trusted])
            )
