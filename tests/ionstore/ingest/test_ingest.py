import errno
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from ionstore.build.folder import FolderBuild
from ionstore.build.shard_writer import ShardWriter
from ionstore.cube.cosmology import Cosmology
from ionstore.cube.description import SimulationDescription
from ionstore.cube.mesh import Array, Corner
from ionstore.cube.statistics import FieldStatistics
from ionstore.errors import (
    DiskSpaceError,
    SourceDataError,
    StoreDamageError,
    StoreExistsError,
    UserError,
)
from ionstore.ingest import survey
from ionstore.ingest.ingest import ingest_cubes
from ionstore.ingest.selection import FileSelection, IngestOptions
from ionstore.storage.paths import StorePath
from ionstore.store.cube_store import CubeStore
from ionstore.verify.verify import verify_store
from tests.support.three_file_sets import PREFIXES, files_of, random_cubes, write_set
from tests.support.told import Told

BOX = SimulationDescription(box_length_cmpc=20.0)
C2RAY = SimulationDescription(
    box_length_cmpc=100.0, n_box=60, cosmology=Cosmology(h=0.7, omega_m=0.27, omega_b=0.044)
)


def _close(one: FieldStatistics, other: FieldStatistics) -> None:
    assert (one.count, one.min, one.max) == (other.count, other.min, other.max)
    np.testing.assert_allclose(
        [one.mean, one.variance], [other.mean, other.variance], rtol=1e-12, atol=1e-80
    )


@pytest.mark.parametrize(("mesh", "shard"), [(8, 160), (33, 160), (45, 20), (40, 32)])
def test_the_store_holds_what_the_files_hold(tmp_path: Path, mesh: int, shard: int) -> None:
    cubes = write_set(tmp_path / "sim", mesh)
    target = tmp_path / "cubes.zarr"
    inventory = ingest_cubes(
        tmp_path / "sim",
        target,
        given=SimulationDescription(box_length_cmpc=20.0, cosmology=Cosmology(h=0.7)),
        options=IngestOptions(max_shard_cells=shard),
    )
    store = CubeStore.open(target)
    assert store.redshifts == (9.0, 7.5)
    assert store.mesh.box_length_cmpc == 20.0
    assert store.cosmology == Cosmology(h=0.7)
    assert store.frame == "proper"
    assert [str(store.dtype(name)) for name in store.field_names] == ["float32", "uint8", "float32"]
    for redshift, fields in cubes.items():
        for name, values in fields.items():
            stored = store.read_field(name, float(redshift))
            np.testing.assert_array_equal(stored, values)
            _close(store.statistics(name, float(redshift)), FieldStatistics.of(values))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cubes.zarr", "sim"]
    assert inventory.fields["n_src"].uncompressed_bytes == 2 * mesh**3
    assert not [path for path in target.rglob("*") if path.name.endswith((".partial", ".tmp"))]


def test_sources_are_recorded_with_size_and_digest(tmp_path: Path) -> None:
    write_set(tmp_path / "sim", redshifts=("9.000",))
    ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr", command_line="ionstore ingest sim")
    attributes = CubeStore.open(tmp_path / "cubes.zarr").attributes
    assert [file.name for file in attributes.sources] == [
        "nsrc_z9.000.npy",
        "rho_z9.000.npy",
        "xHII_z9.000.npy",
    ]
    assert all(file.size_bytes == 128 + 4 * 8**3 for file in attributes.sources)
    assert all(file.digest.startswith("xxh3_128:") for file in attributes.sources)
    assert attributes.command_line == "ionstore ingest sim"


@pytest.mark.parametrize("dtype", ["f8", ">f4", "f2", "i2"])
def test_other_dtypes_are_converted(tmp_path: Path, dtype: str) -> None:
    write_set(tmp_path / "sim", redshifts=("9.000",))
    rng = np.random.default_rng(3)
    xhii = rng.integers(0, 2, (8, 8, 8)).astype(dtype)
    rate = (rng.random((8, 8, 8)) * 100).astype(dtype)
    np.save(tmp_path / "sim" / "xHII_z9.000.npy", np.asfortranarray(xhii))
    np.save(tmp_path / "sim" / "irate_z9.000.npy", rate)
    ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr")
    store = CubeStore.open(tmp_path / "cubes.zarr")
    np.testing.assert_array_equal(store.read_field("xhii", 9.0), xhii.astype("f4"))
    np.testing.assert_array_equal(store.read_field("ionization_rate", 9.0), rate.astype("f4"))
    assert store.units("ionization_rate") == "s-1"


def test_npz_sets_give_the_same_store(tmp_path: Path) -> None:
    cubes = write_set(tmp_path / "npy", 33, ("9.000",))["9.000"]
    (tmp_path / "npz").mkdir()
    np.savez_compressed(tmp_path / "npz" / "rho_z9.000.npz", cubes["n_igm"])
    np.savez(tmp_path / "npz" / "nsrc_z9.000.npz", nsrc=np.asfortranarray(cubes["n_src"]))
    with (tmp_path / "npz" / "xHII_z9.000.npz").open("wb") as file:
        np.save(file, cubes["xhii"])
    stored = []
    for kind in ("npy", "npz"):
        ingest_cubes(
            tmp_path / kind, tmp_path / f"{kind}.zarr", options=IngestOptions(max_shard_cells=32)
        )
        stored.append(
            {
                name: content
                for name, content in files_of(tmp_path / f"{kind}.zarr").items()
                if name != "zarr.json"
            }
        )
    assert stored[0] == stored[1]


def test_an_unknown_box_leaves_positions_in_cells(tmp_path: Path) -> None:
    write_set(tmp_path / "sim")
    notes: list[str] = []
    ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr", reporter=Told(on_note=notes.append))
    assert [note for note in notes if "--box-length" in note] == notes
    assert CubeStore.open(tmp_path / "cubes.zarr").mesh.box_length_cmpc is None
    with xr.open_zarr(tmp_path / "cubes.zarr") as dataset:
        assert dataset["x"].attrs["units"] == "1"
        np.testing.assert_array_equal(dataset["x"], np.arange(8) + 0.5)


def test_options_win_over_the_description(tmp_path: Path) -> None:
    write_set(tmp_path / "sim")
    SimulationDescription(
        box_length_cmpc=20.0, cosmology=Cosmology("Planck18", h=0.68, omega_b=0.05)
    ).write(tmp_path / "sim")
    notes: list[str] = []
    ingest_cubes(
        tmp_path / "sim",
        tmp_path / "cubes.zarr",
        given=SimulationDescription(box_length_cmpc=21.0),
        reporter=Told(on_note=notes.append),
    )
    store = CubeStore.open(tmp_path / "cubes.zarr")
    assert store.mesh.box_length_cmpc == 21.0
    assert store.cosmology == Cosmology("Planck18", h=0.68, omega_b=0.05)
    assert notes == [
        "box length (cMpc): 21.0 as given here is used, the simulation's files say 20.0"
    ]


def test_densities_in_no_known_frame_have_unknown_units(tmp_path: Path) -> None:
    write_set(tmp_path / "sim", redshifts=("9.000",))
    np.save(tmp_path / "sim" / "rho_z9.000.npy", np.ones((8, 8, 8)))
    notes: list[str] = []
    ingest_cubes(
        tmp_path / "sim", tmp_path / "a.zarr", given=BOX, reporter=Told(on_note=notes.append)
    )
    store = CubeStore.open(tmp_path / "a.zarr")
    assert (store.units("n_igm"), store.frame) == ("unknown", "unknown")
    assert len(notes) == 1
    assert "the unit of n_igm is unknown" in notes[0]
    SimulationDescription(density_frame="comoving").write(tmp_path / "sim")
    ingest_cubes(tmp_path / "sim", tmp_path / "b.zarr", given=BOX)
    store = CubeStore.open(tmp_path / "b.zarr")
    assert (store.units("n_igm"), store.frame) == ("g cm-3", "comoving")


@pytest.mark.parametrize(
    ("values", "unit", "stored"),
    [
        (300.0, None, ("uint16", "1")),
        (0.5, None, ("float32", "unknown")),
        (0.5, "grid_mass", ("float32", "grid_mass")),
        (2.0, "Msun", ("float32", "Msun")),
    ],
)
def test_the_unit_of_sources_is_never_guessed(
    tmp_path: Path, values: float, unit: str | None, stored: tuple[str, str]
) -> None:
    write_set(tmp_path / "sim")
    np.save(tmp_path / "sim" / "nsrc_z7.500.npy", np.full((8, 8, 8), values))
    notes: list[str] = []
    ingest_cubes(
        tmp_path / "sim",
        tmp_path / "cubes.zarr",
        given=SimulationDescription(box_length_cmpc=20.0, n_src_units=unit),
        reporter=Told(on_note=notes.append),
    )
    store = CubeStore.open(tmp_path / "cubes.zarr")
    assert (str(store.dtype("n_src")), store.units("n_src")) == stored
    assert bool(notes) == (stored[1] == "unknown")


def test_statistics_are_those_of_what_is_stored(tmp_path: Path) -> None:
    cubes = write_set(tmp_path / "sim", redshifts=("9.000",))["9.000"]
    xhii = cubes["xhii"].astype("f8")
    xhii[0, 0, :3] = (1 + 5e-7, -5e-7, 1)
    np.save(tmp_path / "sim" / "xHII_z9.000.npy", xhii)
    cubes["n_igm"][1, 1, :4] = 0
    np.save(tmp_path / "sim" / "rho_z9.000.npy", cubes["n_igm"])
    inventory = ingest_cubes(
        tmp_path / "sim", tmp_path / "cubes.zarr", options=IngestOptions(keep_bits={"n_igm": 6})
    )
    store = CubeStore.open(tmp_path / "cubes.zarr")
    stored = store.read_field("xhii", 9.0)
    assert (stored[0, 0, 0], stored[0, 0, 1]) == (1, 0)
    _close(store.statistics("xhii", 9.0), FieldStatistics.of(stored))
    n_igm = store.read_field("n_igm", 9.0)
    assert (n_igm != cubes["n_igm"]).any()
    np.testing.assert_allclose(n_igm, cubes["n_igm"], rtol=2.0**-7)
    _close(store.statistics("n_igm", 9.0), FieldStatistics.of(n_igm))
    assert inventory.n_clipped == store.attributes.n_clipped == {"xhii": (2,)}
    assert inventory.n_zeros == store.attributes.n_zeros == {"n_igm": (4,)}


def test_counts_off_by_rounding_are_rounded_not_cut(tmp_path: Path) -> None:
    cubes = write_set(tmp_path / "sim", redshifts=("9.000",))["9.000"]
    counts = cubes["n_src"].astype("f8")
    np.save(tmp_path / "sim" / "nsrc_z9.000.npy", np.maximum(counts - 1e-10, 0))
    ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr")
    stored = CubeStore.open(tmp_path / "cubes.zarr").read_field("n_src", 9.0)
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, counts)


@pytest.mark.parametrize(
    ("keep_bits", "said"),
    [({"n_src": 3}, "stored as floats"), ({"rho": 3}, "stored as floats"), ({"xhii": 24}, "1 and")],
)
def test_only_floats_can_be_rounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_bits: dict[str, int], said: str
) -> None:
    write_set(tmp_path / "sim")
    if "n_src" not in keep_bits:  # only its values say whether it holds counts
        monkeypatch.setattr(survey, "survey_source", lambda *_, **__: pytest.fail("reads"))
    with pytest.raises(SourceDataError, match=said):
        ingest_cubes(
            tmp_path / "sim", tmp_path / "cubes.zarr", options=IngestOptions(keep_bits=keep_bits)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["sim"]


def _put(cell: float) -> Callable[[Array], Array]:
    def change(values: Array) -> Array:
        changed = values.astype("f8")
        changed[3, 2, 1] = cell
        return changed

    return change


@pytest.mark.parametrize(
    ("prefix", "change", "said"),
    [
        ("rho", _put(np.nan), "must be finite, got NaN or infinity in 1 cell;"),
        ("nsrc", _put(np.inf), "must be finite"),
        ("rho", _put(1e300), "must fit float32"),
        ("rho", _put(-1e-30), "cannot be negative.*overdensity"),
        ("rho", _put(-3.0), "cannot be negative.*fix"),
        ("nsrc", _put(-1.0), "cannot be negative"),
        ("rho", np.zeros_like, "zero everywhere"),
        ("xHII", _put(1 + 1e-5), "between 0 and 1"),
        ("xHII", _put(-1e-5), "between 0 and 1"),
        ("xHII", lambda values: values[:7, :7, :7], r"expected the shape \(8, 8, 8\)"),
        ("rho", lambda values: values[:4], r"expected a cube .*got \(4, 8, 8\)"),
        ("rho", lambda values: values[0], r"expected a cube .*got \(8, 8\)"),
        ("rho", lambda values: values[None], r"expected a cube .*got \(1, 8, 8, 8\)"),
        ("rho", lambda values: values[:0, :0, :0], r"expected a cube .*got \(0, 0, 0\)"),
        ("xHII", lambda values: values.astype("c8"), "real numbers"),
        ("xHII", lambda values: values.astype(object), "real numbers"),
    ],
)
def test_unfit_values_are_named_and_leave_nothing(
    tmp_path: Path, prefix: str, change: Callable[[Array], Array], said: str
) -> None:
    write_set(tmp_path / "sim")
    path = tmp_path / "sim" / f"{prefix}_z7.500.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(SourceDataError, match=said) as caught:
        ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr")
    assert "7.500" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["sim"]


def test_a_truncated_file_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    write_set(tmp_path / "sim")
    path = tmp_path / "sim" / "nsrc_z7.500.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SourceDataError, match="truncated"):
        ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["sim"]


@pytest.mark.parametrize("box", [0.0, -3.0, np.nan, np.inf])
def test_boxes_without_a_size_are_refused(tmp_path: Path, box: float) -> None:
    write_set(tmp_path / "sim")
    with pytest.raises(SourceDataError, match="box length must be positive"):
        ingest_cubes(
            tmp_path / "sim",
            tmp_path / "cubes.zarr",
            given=SimulationDescription(box_length_cmpc=box),
        )


def test_a_store_is_replaced_only_when_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "cubes.zarr"
    write_set(tmp_path / "a")
    write_set(tmp_path / "b", mesh=9)
    ingest_cubes(tmp_path / "a", target)
    before = files_of(target)
    with pytest.raises(StoreExistsError, match="--overwrite"):
        ingest_cubes(tmp_path / "b", target)
    np.save(tmp_path / "b" / "rho_z9.000.npy", np.zeros((9, 9, 9)))
    with pytest.raises(SourceDataError):
        ingest_cubes(tmp_path / "b", target, overwrite=True)
    assert files_of(target) == before
    write_set(tmp_path / "b", mesh=9)
    ingest_cubes(tmp_path / "b", target, overwrite=True)
    assert CubeStore.open(target).mesh.cells_per_side == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "cubes.zarr"]


def test_what_is_no_store_is_never_replaced(tmp_path: Path) -> None:
    write_set(tmp_path / "sim")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("text")
    (tmp_path / "file").write_text("text")
    for name in ("thesis", "file"):
        with pytest.raises(StoreExistsError, match="is no store of ionstore"):
            ingest_cubes(tmp_path / "sim", tmp_path / name, overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "text"
    (tmp_path / "cubes.zarr.partial").mkdir()
    (tmp_path / "cubes.zarr.partial" / "chapter.tex").write_text("text")
    with pytest.raises(StoreExistsError, match="in the way"):
        ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr")
    assert (tmp_path / "cubes.zarr.partial" / "chapter.tex").exists()


def test_a_second_build_of_a_store_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "sim")
    with (
        FolderBuild(tmp_path / "cubes.zarr"),
        pytest.raises(StoreExistsError, match="another process"),
    ):
        ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr")
    ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr")


def test_too_small_a_disk_is_noticed_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "sim", 32)
    free = type("Usage", (), {"free": 200_000})
    monkeypatch.setattr("ionstore.storage.disk_space.shutil.disk_usage", lambda path: free)
    with pytest.raises(DiskSpaceError, match=r"[0-9.]+ kB are needed, 200 kB are free"):
        ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["sim"]


def _fail_after(monkeypatch: pytest.MonkeyPatch, n_parts: int, error: BaseException) -> None:
    original = ShardWriter.write_block
    calls = iter(range(1000))

    def write_block(self: ShardWriter, *arguments: object) -> StorePath:
        if next(calls) >= n_parts:
            raise error
        return original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ShardWriter, "write_block", write_block)


def _without_identity(files: dict[str, bytes]) -> dict[str, object]:
    root = json.loads(files["zarr.json"])
    del root["attributes"]["ionstore"]["uuid"]
    return {**files, "zarr.json": root}


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DiskSpaceError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_stopped_ingest_is_resumed_bit_for_bit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    raised: type[BaseException],
) -> None:
    write_set(tmp_path / "sim", 20)
    options = {"given": BOX, "options": IngestOptions(max_shard_cells=10, chunk_cells=5)}
    ingest_cubes(tmp_path / "sim", tmp_path / "whole.zarr", **options)  # type: ignore[arg-type]
    with monkeypatch.context() as patched:
        _fail_after(patched, 7, error)
        with pytest.raises(raised):
            ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "cubes.zarr").exists()
    # What a writer that was killed can leave beside a shard and beside metadata, and a shard that
    # is not recorded.
    store = tmp_path / "cubes.zarr.partial" / "store"
    torn = store / "n_igm" / "c" / "0" / "0" / "0"
    torn.mkdir(parents=True, exist_ok=True)
    (torn / "0.abc.partial").write_bytes(b"torn")
    (store / "zarr.abc.partial").write_bytes(b"torn")
    (store / "n_igm" / "zarr.abc.partial").write_bytes(b"torn")
    unrecorded = store / "xhii" / "c" / "1" / "1" / "1"
    unrecorded.mkdir(parents=True, exist_ok=True)
    (unrecorded / "1").write_bytes(b"torn")
    notes: list[str] = []
    ingest_cubes(
        tmp_path / "sim", tmp_path / "cubes.zarr", **options, reporter=Told(on_note=notes.append)
    )  # type: ignore[arg-type]
    assert notes == ["resuming: 7 of 48 parts are there already"]
    one, other = files_of(tmp_path / "cubes.zarr"), files_of(tmp_path / "whole.zarr")
    assert _without_identity(dict(one)) == _without_identity(dict(other))
    assert not (tmp_path / "cubes.zarr.partial").exists()


@pytest.mark.parametrize(
    "without", [["xhii"], ["n_src"], ["n_src", "xhii"], ["n_igm"], ["n_igm", "xhii"]], ids="-".join
)
def test_a_store_without_a_field_is_the_whole_one_but_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: list[str]
) -> None:
    cubes = write_set(tmp_path / "sim", 20)
    cubes["9.000"]["n_igm"][3, 4, 5] = 0
    cubes["7.500"]["xhii"][3, 4, 5] = 1 + 1e-7
    for name in ("n_igm", "xhii"):
        for redshift in cubes:
            path = tmp_path / "sim" / f"{PREFIXES[name]}_z{redshift}.npy"
            np.save(path, cubes[redshift][name])
    options: dict[str, Any] = {
        "given": BOX,
        "options": IngestOptions(max_shard_cells=10, chunk_cells=5),
    }
    ingest_cubes(tmp_path / "sim", tmp_path / "whole.zarr", **options)
    expected: dict[str, Any] = {
        path: content
        for path, content in files_of(tmp_path / "whole.zarr").items()
        if path.partition("/")[0] not in without
    }
    whole = json.loads(expected.pop("zarr.json"))
    for name in without:
        del whole["consolidated_metadata"]["metadata"][name]
        for of_fields in ("statistics", "n_clipped", "n_zeros"):
            whole["attributes"]["ionstore"][of_fields].pop(name, None)
    of_store = whole["attributes"]["ionstore"]
    of_store["sources"] = [one for one in of_store["sources"] if one["fields"][0] not in without]
    del of_store["uuid"]

    files = FileSelection(without=without)
    left_out: list[str] = []
    ingest_cubes(
        *(tmp_path / "sim", tmp_path / "left_out.zarr", files),
        **options,
        reporter=Told(on_note=left_out.append),
    )
    for name in without:
        assert any(note.startswith(f"{name} is left out, although it is") for note in left_out)
        for path in (tmp_path / "sim").glob(f"{PREFIXES[name]}_*"):
            path.unlink()
    with monkeypatch.context() as patched:
        _fail_after(patched, 7, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            ingest_cubes(tmp_path / "sim", tmp_path / "lacking.zarr", files, **options)
    notes: list[str] = []
    ingest_cubes(
        tmp_path / "sim",
        tmp_path / "lacking.zarr",
        files,
        **options,
        reporter=Told(on_note=notes.append),
    )
    assert notes == [f"resuming: 7 of {16 * (3 - len(without))} parts are there already"]
    for name in ("left_out", "lacking"):
        store = CubeStore.open(tmp_path / f"{name}.zarr")
        made: dict[str, Any] = dict(files_of(tmp_path / f"{name}.zarr"))
        root = json.loads(made.pop("zarr.json"))
        del root["attributes"]["ionstore"]["uuid"]
        assert (made, root) == (expected, whole)
        assert verify_store(store, sources=[tmp_path / "sim"]).is_intact


def test_an_unfinished_build_of_another_plan_is_kept_unless_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "sim", 8)
    target, build = tmp_path / "cubes.zarr", tmp_path / "cubes.zarr.partial"
    with monkeypatch.context() as patched:
        _fail_after(patched, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            ingest_cubes(tmp_path / "sim", target, given=BOX, command_line="ionstore ingest sim")
    built = files_of(build)
    with pytest.raises(StoreExistsError, match=r"\(ionstore ingest sim\), or .* --overwrite$"):
        ingest_cubes(tmp_path / "sim", target, given=SimulationDescription(box_length_cmpc=21.0))
    before = np.load(tmp_path / "sim" / "rho_z9.000.npy")
    cubes = random_cubes(8, 9.0, seed=5)
    np.save(tmp_path / "sim" / "rho_z9.000.npy", cubes["n_igm"])
    with pytest.raises(StoreExistsError, match="other files"):
        ingest_cubes(tmp_path / "sim", target, given=BOX)
    assert files_of(build) == built

    notes: list[str] = []
    ingest_cubes(
        tmp_path / "sim", target, given=BOX, overwrite=True, reporter=Told(on_note=notes.append)
    )
    assert notes == ["an unfinished build with other files or options is discarded"]
    stored = CubeStore.open(target).read_field("n_igm", 9.0)
    np.testing.assert_array_equal(stored, cubes["n_igm"])
    assert (stored != before).any()


def test_an_unfinished_prediction_is_kept_unless_overwritten(tmp_path: Path) -> None:
    write_set(tmp_path / "sim")
    with FolderBuild(tmp_path / "cubes.zarr") as build:
        build.begin({"uuid": "some", "prediction": {}, "command_line": "ionmodel predict"})
    with pytest.raises(StoreExistsError, match=r"a prediction was not .*\(ionmodel predict\)"):
        ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr")
    assert (build.folder / "plan.json").exists()
    ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr", overwrite=True)
    assert CubeStore.open(tmp_path / "cubes.zarr").field_names == ("n_igm", "n_src", "xhii")


def _write_c2ray_set(folder: Path) -> None:
    rng = np.random.default_rng(3)
    sizes = np.full(3, 6, "<i4").tobytes()
    density = (1000 * (0.5 + rng.random((6, 6, 6)))).astype("<f4").tobytes(order="F")
    xhii = rng.random((6, 6, 6)).tobytes(order="F")
    folder.mkdir()
    (folder / "8.700n_all.dat").write_bytes(sizes + density)
    (folder / "xfrac_z8.700.dat").write_bytes(sizes + xhii)
    (folder / "8.700-used_sources.dat").write_text("2\n1 2 3 10.0 1.5\n6 6 6 20.0 2.5\n")


@pytest.mark.parametrize(
    "changed",
    [
        {"given": C2RAY.model_copy(update={"n_box": 80})},
        {"files": FileSelection(source_columns=(5,))},
    ],
)
def test_numbers_of_two_conversions_never_meet_in_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    _write_c2ray_set(tmp_path / "sim")
    options: dict[str, Any] = {"given": C2RAY}
    sizes: dict[str, Any] = {"options": IngestOptions(max_shard_cells=4, chunk_cells=2)}
    target, whole = tmp_path / "cubes.zarr", tmp_path / "whole.zarr"
    with monkeypatch.context() as patched:
        _fail_after(patched, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            ingest_cubes(tmp_path / "sim", target, **options, **sizes)  # type: ignore[arg-type]
    with pytest.raises(StoreExistsError, match="with other options was not finished"):
        ingest_cubes(tmp_path / "sim", target, **(options | changed), **sizes)
    ingest_cubes(tmp_path / "sim", target, **options, **sizes)  # type: ignore[arg-type]
    ingest_cubes(tmp_path / "sim", whole, **options, **sizes)  # type: ignore[arg-type]
    one, other = files_of(target), files_of(whole)
    assert _without_identity(dict(one)) == _without_identity(dict(other))


def test_files_that_change_their_fields_are_another_ingest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "sim", redshifts=("9.000",))
    rng = np.random.default_rng(3)
    one, other = (tmp_path / "sim" / f"{name}_9.000.npy" for name in ("one", "other"))
    for path in (one, other):
        np.save(path, rng.random((8, 8, 8)))
    maps = {"n_igm": [one], "xhii": [other]}
    with monkeypatch.context() as patched:
        _fail_after(patched, 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr", FileSelection(maps=maps))
    maps = {"n_igm": [other], "xhii": [one]}
    with pytest.raises(StoreExistsError, match="with other options was not finished"):
        ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr", FileSelection(maps=maps))


def test_a_folder_by_another_name_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "sim")
    with monkeypatch.context() as patched:
        _fail_after(patched, 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr")
    monkeypatch.chdir(tmp_path / "sim")
    notes: list[str] = []
    ingest_cubes(Path("."), Path("../cubes.zarr"), reporter=Told(on_note=notes.append))
    assert "resuming: 1 of 6 parts are there already" in notes


def test_a_build_killed_after_the_swap_is_cleared_away(tmp_path: Path) -> None:
    target = tmp_path / "cubes.zarr"
    write_set(tmp_path / "sim")
    ingest_cubes(tmp_path / "sim", target)
    old = CubeStore.open(target).uuid
    left = tmp_path / "cubes.zarr.partial"
    (left / "parts").mkdir(parents=True)
    (left / "lock").touch()
    (left / "plan.json").write_text(json.dumps({"uuid": old, "ingest": {}}))
    with pytest.raises(StoreExistsError, match="already exists"):
        ingest_cubes(tmp_path / "sim", target)
    assert not left.exists()
    assert CubeStore.open(target).uuid == old


def test_what_reads_back_wrongly_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "sim")
    original = ShardWriter.write_block

    def write_something_else(
        self: ShardWriter, field: str, index: int, start: Corner, values: Array
    ) -> StorePath:
        return original(self, field, index, start, values + 1)

    monkeypatch.setattr(ShardWriter, "write_block", write_something_else)
    with pytest.raises(StoreDamageError, match=r"read back, .* holds other values than were wri"):
        ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr")
    assert not list((tmp_path / "cubes.zarr.partial" / "parts").iterdir())


def test_what_cannot_be_read_back_is_an_error_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "sim")
    original = ShardWriter.write_block

    def flip_a_bit(self: ShardWriter, *arguments: object) -> StorePath:
        path = original(self, *arguments)  # type: ignore[arg-type]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
        return path

    monkeypatch.setattr(ShardWriter, "write_block", flip_a_bit)
    with pytest.raises(StoreDamageError, match=r"read back, .* does not match its checksum"):
        ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr")


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    write_set(tmp_path / "sim")

    def touch(done: int, total: int) -> None:
        if done == total:
            path = tmp_path / "sim" / "rho_z9.000.npy"
            path.write_bytes(path.read_bytes() + b"more")

    with pytest.raises(UserError, match="changed while it was ingested"):
        ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr", reporter=Told(on_progress=touch))
    assert not (tmp_path / "cubes.zarr").exists()


def test_progress_counts_every_value_twice(tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 12)
    calls: list[tuple[int, int]] = []
    ingest_cubes(
        tmp_path / "sim",
        tmp_path / "a.zarr",
        reporter=Told(on_progress=lambda *call: calls.append(call)),
    )
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (2 * 6 * 4 * 12**3, 2 * 6 * 4 * 12**3)


def test_real_cubes_are_stored_as_they_are(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "dev"
    notes: list[str] = []
    ingest_cubes(
        folder,
        tmp_path / "dev.zarr",
        given=SimulationDescription(box_length_cmpc=152.384),
        reporter=Told(on_note=notes.append),
    )
    store = CubeStore.open(tmp_path / "dev.zarr")
    assert store.redshifts == (10.11, 8.397, 7.305)
    assert store.frame == "proper"
    assert store.dtype("n_src") == np.uint8
    for name, prefix in (("n_igm", "rho"), ("n_src", "nsrc"), ("xhii", "xHII")):
        expected = np.load(folder / f"{prefix}_z8.397.npy")
        np.testing.assert_array_equal(store.read_field(name, 8.397), expected)
    assert store.statistics("xhii", 8.397).mean == pytest.approx(0.3739, abs=5e-5)
    assert any(note.startswith("src_mass is left out") for note in notes)


def test_real_source_masses_are_no_counts(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "dev" / "pyc2ray_rt"
    ingest_cubes(folder, tmp_path / "rt.zarr", given=SimulationDescription(n_src_units="Msun"))
    store = CubeStore.open(tmp_path / "rt.zarr")
    assert (str(store.dtype("n_src")), store.units("n_src")) == ("float32", "Msun")


def test_gas_in_grid_masses_that_is_not_that_of_the_cosmos_is_refused_unless_trusted(
    tmp_path: Path,
) -> None:
    _write_c2ray_set(tmp_path / "sim")
    target = tmp_path / "cubes.zarr"
    for n_box in (90, 45):
        wrong = C2RAY.model_copy(update={"n_box": n_box})
        with pytest.raises(SourceDataError, match=r"times the comoving cosmic mean") as caught:
            ingest_cubes(tmp_path / "sim", target, given=wrong)
        said = str(caught.value)
        assert said.startswith(f"8.700n_all.dat: with --n-box {n_box} the mean of n_igm is ")
        times = re.search(r"g/cm3, (\S+) times", said)
        assert times is not None
        assert float(times[1]) == pytest.approx((60 / n_box) ** 3, rel=0.03)
        assert "cosmic mean of 4.05e-31; --n-box 60 would fit, or give --trust n_igm" in said
        assert not target.exists()
    ingest_cubes(tmp_path / "sim", target, given=wrong, options=IngestOptions(trust=["n_igm"]))
    assert CubeStore.open(target).attributes.n_box == 45
    notes: list[str] = []
    ingest_cubes(
        tmp_path / "sim", target, given=C2RAY, overwrite=True, reporter=Told(on_note=notes.append)
    )
    assert not any("cosmic" in note for note in notes)


def test_a_mean_that_is_not_the_cosmic_one_is_noted_with_both(tmp_path: Path) -> None:
    for name, values in random_cubes(8, 9.0).items():
        folder = tmp_path / "sim"
        folder.mkdir(exist_ok=True)
        prefix = {"n_igm": "rho", "n_src": "nsrc", "xhii": "xHII"}[name]
        np.save(folder / f"{prefix}_z9.000.npy", values * (7 if name == "n_igm" else 1))
    notes: list[str] = []
    given = SimulationDescription(density_frame="proper")
    ingest_cubes(tmp_path / "sim", tmp_path / "a", given=given, reporter=Told(on_note=notes.append))
    (note,) = [note for note in notes if "cosmic" in note]
    assert "its mean is not the cosmic one: it is 3.0" in note
    assert "at redshift 9, where the cosmic mean is 4.21e-28 proper" in note


def test_redshifts_without_any_source_are_noted(tmp_path: Path) -> None:
    cubes = write_set(tmp_path / "sim", 4, ("12.000", "9.000", "10.500"))
    for redshift in ("12.000", "10.500"):
        zeros = np.zeros_like(cubes[redshift]["n_src"])
        np.save(tmp_path / "sim" / f"nsrc_z{redshift}.npy", zeros)
    notes: list[str] = []
    ingest_cubes(
        tmp_path / "sim", tmp_path / "cubes.zarr", given=BOX, reporter=Told(on_note=notes.append)
    )
    assert notes == ["n_src is zero in every cell at redshift 12, 10.5"]
