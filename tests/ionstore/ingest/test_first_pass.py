"""What is refused before anything is written, though every value is in range."""

import shutil
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ionstore.errors import SourceDataError
from ionstore.ingest import first_pass
from ionstore.ingest.ingest import ingest_cubes
from ionstore.ingest.selection import FileSelection
from ionstore.store.cube_store import CubeStore
from tests.support.three_file_sets import PREFIXES

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
    ingest_cubes(simulation, tmp_path / "cubes.zarr", trust=[field])
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
def test_the_evidence_is_the_same_whichever_file_is_read_first(
    simulation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[int, ...]
) -> None:
    changed(simulation, "rho", "turned")
    changed(simulation, "nsrc", "transposed")  # no two of the three agree: all of them are suspects

    def run_in_order(function: Callable[[Any], Any], items: list[Any]) -> list[Any]:
        results = {index: function(items[index]) for index in order}
        return [results[index] for index in range(len(items))]

    monkeypatch.setattr(first_pass, "run_in_threads", run_in_order)
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
            ingest_cubes(simulation, tmp_path / "cubes.zarr", trust=[trusted])
