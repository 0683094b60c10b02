"""Redshifts added to a store: the same as a store made of all at once, or the old one as it was."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from ionstore.build.folder import FolderBuild
from ionstore.build.shard_writer import ShardWriter
from ionstore.build.store_writer import write_attributes
from ionstore.cube.cosmology import Cosmology
from ionstore.cube.description import SimulationDescription, from_values
from ionstore.edit import edit_store
from ionstore.errors import SourceDataError, StoreExistsError, StoreFormatError
from ionstore.info import take_inventory
from ionstore.ingest import survey
from ionstore.ingest.append import check_append, known_of
from ionstore.ingest.detect import detect
from ionstore.ingest.ingest import ingest_cubes
from ionstore.ingest.plan import IngestOutline, find_origins
from ionstore.ingest.selection import FileSelection, IngestOptions
from ionstore.storage.paths import StorePath
from ionstore.store.cube_store import CubeStore
from tests.support.stores import write_store
from tests.support.three_file_sets import PREFIXES, files_of, write_set
from tests.support.told import Told

BOX = SimulationDescription(box_length_cmpc=20.0)
CUT: dict[str, Any] = {"options": IngestOptions(max_shard_cells=10, chunk_cells=5)}
OLD, NEW = ("9.000", "7.500"), ("10.000", "8.000", "7.000")


def split_set(folder: Path, mesh: int = 20) -> tuple[Path, Path, Path]:
    """One simulation in two folders, and in one."""
    write_set(folder / "all", mesh, (*OLD, *NEW))
    for name, redshifts in (("old", OLD), ("new", NEW)):
        (folder / name).mkdir()
        for redshift in redshifts:
            for prefix in PREFIXES.values():
                shutil.copy2(folder / "all" / f"{prefix}_z{redshift}.npy", folder / name)
    return folder / "old", folder / "new", folder / "all"


def without_identity(folder: Path) -> dict[str, object]:
    files: dict[str, object] = dict(files_of(folder))
    root = json.loads((folder / "zarr.json").read_text())
    del root["attributes"]["ionstore"]["uuid"]
    for source in root["attributes"]["ionstore"]["sources"]:
        del source["folder"]
    return {**files, "zarr.json": root}


@pytest.mark.parametrize("links", [True, False])
def test_a_store_in_two_steps_is_the_store_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    link = os.link

    def no_links(source: Path, to: Path) -> None:
        if Path(source).name.isdigit():  # Zarr links its metadata, and cannot do without
            raise OSError(errno.EXDEV, "no links here")
        link(source, to)

    old, new, everything = split_set(tmp_path)
    target = tmp_path / "cubes.zarr"
    ingest_cubes(old, target, given=BOX, **CUT)
    shard = target / "xhii" / "c" / "0" / "0" / "0" / "1"
    before = shard.stat().st_ino
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    inventory = ingest_cubes(new, target, given=BOX, append=True)
    ingest_cubes(everything, tmp_path / "whole.zarr", given=BOX, **CUT)
    assert inventory.redshifts == (10.0, 9.0, 8.0, 7.5, 7.0)
    assert without_identity(target) == without_identity(tmp_path / "whole.zarr")
    now = target / "xhii" / "c" / "1" / "0" / "0" / "1"
    assert (now.stat().st_ino == before) == links
    assert not (tmp_path / "cubes.zarr.partial").exists()
    with xr.open_zarr(target) as dataset:
        assert dataset["redshift"].values.tolist() == [10.0, 9.0, 8.0, 7.5, 7.0]


def test_a_store_without_a_field_takes_redshifts_without_it(tmp_path: Path) -> None:
    old, new, everything = split_set(tmp_path)
    target = tmp_path / "cubes.zarr"
    files = FileSelection(without=["xhii"])
    ingest_cubes(old, target, files, given=BOX, **CUT)
    ingest_cubes(everything, tmp_path / "whole.zarr", files, given=BOX, **CUT)
    shutil.copytree(target, tmp_path / "again.zarr")
    notes: list[str] = []
    # What the store does not hold is left out with a note, and need not be there.
    ingest_cubes(new, target, append=True, reporter=Told(on_note=notes.append))
    (note,) = notes
    assert note.startswith("xhii is left out, although it is there: xHII_z10.000.npy, ")
    for path in new.glob("xHII_*"):
        path.unlink()
    ingest_cubes(new, tmp_path / "again.zarr", files, append=True)
    for path in (target, tmp_path / "again.zarr"):
        assert without_identity(path) == without_identity(tmp_path / "whole.zarr")
    for path in new.glob("nsrc_*"):
        path.unlink()
    with pytest.raises(SourceDataError, match="n_src is missing"):
        ingest_cubes(new, target, append=True)


@pytest.mark.parametrize(
    ("of_store", "of_append", "said"),
    [
        ((), {"without": ["xhii"]}, "holds xhii at its other redshifts, .* leave --without xhii"),
        (["xhii"], {"without": ["n_src"]}, "holds n_src at its other redshifts"),
        (["n_src"], {"maps": {"n_src": [Path()]}}, "lacks n_src at its other .* leave --map n_src"),
    ],
)
def test_new_redshifts_cannot_have_other_fields_than_old_ones(
    tmp_path: Path, of_store: list[str], of_append: dict[str, Any], said: str
) -> None:
    old, new, _ = split_set(tmp_path, 8)
    target = tmp_path / "cubes.zarr"
    ingest_cubes(old, target, FileSelection(without=of_store))
    before = files_of(target)
    with pytest.raises(SourceDataError, match=said):
        ingest_cubes(new, target, FileSelection(**of_append), append=True)
    assert files_of(target) == before


def test_nothing_is_added_to_a_prediction(tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 8, NEW)
    cubes = {"xhii_predicted": np.zeros((2, 8, 8, 8), "f4")}
    write_store(tmp_path / "predicted.zarr", cubes, (9.0, 7.5))
    with pytest.raises(SourceDataError, match="holds xhii_predicted, which the new redshifts lack"):
        ingest_cubes(tmp_path / "sim", tmp_path / "predicted.zarr", append=True)


def test_counts_that_no_longer_fit_are_written_anew(tmp_path: Path) -> None:
    old, new, everything = split_set(tmp_path)
    for folder in (new, everything):
        sources = np.load(folder / "nsrc_z8.000.npy")
        sources[3, 4, 5] = 300
        np.save(folder / "nsrc_z8.000.npy", sources)
    target = tmp_path / "cubes.zarr"
    ingest_cubes(old, target, given=BOX, **CUT)
    assert CubeStore.open(target).dtype("n_src") == np.uint8
    seen: list[tuple[int, int]] = []
    ingest_cubes(
        new, target, append=True, reporter=Told(on_progress=lambda *done: seen.append(done))
    )
    ingest_cubes(everything, tmp_path / "whole.zarr", given=BOX, **CUT)
    assert CubeStore.open(target).dtype("n_src") == np.uint16
    assert without_identity(target) == without_identity(tmp_path / "whole.zarr")
    assert seen[-1][0] == seen[-1][1]


def test_rounding_and_what_was_edited_goes_on(tmp_path: Path) -> None:
    old, new, _ = split_set(tmp_path, 8)
    target = tmp_path / "cubes.zarr"
    ingest_cubes(
        old,
        target,
        given=SimulationDescription(box_length_cmpc=20.0, cosmology=Cosmology(h=0.7)),
        options=IngestOptions(keep_bits={"n_igm": 8}),
    )
    ingest_cubes(new, target, append=True)
    store = CubeStore.open(target)
    assert (store.mesh.box_length_cmpc, store.keep_bits("n_igm")) == (20.0, 8)
    assert store.cosmology is not None
    assert store.cosmology.h == 0.7
    stored = store.read_field("n_igm", 8.0)
    assert (stored.view(np.uint32) % 2 ** (23 - 8) == 0).all()
    np.testing.assert_allclose(stored, np.load(new / "rho_z8.000.npy"), rtol=2**-9)
    write_set(tmp_path / "more", 8, ("6.000",))
    with pytest.raises(SourceDataError, match=r"keeps 8 bits .* leave the option out"):
        ingest_cubes(
            tmp_path / "more", target, append=True, options=IngestOptions(keep_bits={"n_igm": 5})
        )


def _other_mesh(new: Path) -> None:
    write_set(new, 9, NEW)


def _no_sources(new: Path) -> None:
    for path in new.glob("nsrc_*"):
        path.unlink()


def _masses(new: Path) -> None:
    for path in new.glob("nsrc_*"):
        np.save(path, np.load(path) * 1e9)


def _comoving(new: Path) -> None:
    for path in new.glob("rho_*"):
        np.save(path, np.load(path) / np.float32((1 + float(path.stem[5:])) ** 3))


def _there_already(new: Path) -> None:
    for prefix in PREFIXES.values():
        (new / f"{prefix}_z8.000.npy").rename(new / f"{prefix}_z9.000.npy")


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (_other_mesh, {}, "8 cells a side of .*, got 9"),
        (_no_sources, {}, "n_src is missing"),
        (_masses, {}, "n_src must have the units of .*, 1, got unknown"),
        (
            _masses,
            {"given": SimulationDescription(n_src_units="Msun")},
            "n_src must have the units of .*, 1, got Msun",
        ),
        (_comoving, {}, r"g cm-3 \(proper\), got g cm-3 \(comoving\)"),
        (_there_already, {}, "redshift 9 is in .* already; give --redshift"),
        (
            None,
            {"given": SimulationDescription(box_length_cmpc=21.0)},
            "20 cMpc of .*, got 21 cMpc",
        ),
        (None, {"given": SimulationDescription(cosmology=Cosmology(h=0.6))}, "h 0.7, got 0.6"),
        (
            None,
            {"given": SimulationDescription(cosmology=Cosmology(h=0.70001))},
            r"h 0\.7, got 0\.70001",
        ),
        (None, {"given": SimulationDescription(n_box=80)}, "the 60 cells a side of .*, got 80"),
    ],
)
def test_what_does_not_fit_the_store_is_refused_and_nothing_changes(
    tmp_path: Path, change: Callable[[Path], None] | None, options: dict[str, Any], said: str
) -> None:
    old, new, _ = split_set(tmp_path, 8)
    target = tmp_path / "cubes.zarr"
    ingest_cubes(
        old,
        target,
        given=SimulationDescription(box_length_cmpc=20.0, n_box=60, cosmology=Cosmology(h=0.7)),
    )
    before = files_of(target)
    if change is not None:
        change(new)
    with pytest.raises(SourceDataError, match=said):
        ingest_cubes(new, target, append=True, **options)
    assert files_of(target) == before
    assert not (tmp_path / "cubes.zarr.partial").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"given": SimulationDescription(box_length_cmpc=21.0)}, "20 cMpc"),
        ({"given": SimulationDescription(cosmology=Cosmology(h=0.6))}, "h 0.7"),
        ({"given": SimulationDescription(n_box=80)}, "60 cells"),
        ({"options": IngestOptions(keep_bits={"n_igm": 0})}, "between 1 and 23, got 0"),
        ({"options": IngestOptions(keep_bits={"rho": 3})}, "must name a field stored as floats"),
        ({"options": IngestOptions(keep_bits={"n_igm": 5})}, "keeps all bits in"),
        (
            {
                "files": FileSelection(redshifts=[10.0]),
                "given": SimulationDescription(box_length_cmpc=19.0),
            },
            "20 cMpc",
        ),
        (_no_sources, "n_src is missing"),
        (_other_mesh, "8 cells a side"),
        (_there_already, "in .* already"),
    ],
)
def test_what_can_be_known_is_said_before_anything_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any] | Callable[[Path], None],
    said: str,
) -> None:
    old, new, _ = split_set(tmp_path, 8)
    target = tmp_path / "cubes.zarr"
    ingest_cubes(
        old,
        target,
        given=SimulationDescription(box_length_cmpc=20.0, n_box=60, cosmology=Cosmology(h=0.7)),
    )
    if callable(options):
        options(new)
        options = {}
    monkeypatch.setattr(survey, "survey_source", lambda *_, **__: pytest.fail("reads"))
    with pytest.raises(SourceDataError, match=said):
        ingest_cubes(new, target, append=True, **options)


def test_a_cosmology_that_was_rounded_is_the_same(tmp_path: Path) -> None:
    old, new, _ = split_set(tmp_path, 8)
    ingest_cubes(
        old, tmp_path / "cubes.zarr", given=SimulationDescription(cosmology=Cosmology(h=0.7))
    )
    ingest_cubes(
        new,
        tmp_path / "cubes.zarr",
        given=SimulationDescription(cosmology=Cosmology(h=float(np.float32(0.7)))),
        append=True,
    )
    assert CubeStore.open(tmp_path / "cubes.zarr").cosmology == Cosmology(h=0.7)


def _write_grid_masses(folder: Path, redshift: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = np.full(3, 6, "<i4").tobytes()
    folder.mkdir()
    density = (1000 * (0.5 + rng.random((6, 6, 6)))).astype("<f4").tobytes(order="F")
    (folder / f"{redshift}n_all.dat").write_bytes(sizes + density)
    xhii = rng.random((6, 6, 6)).tobytes(order="F")
    (folder / f"xfrac_z{redshift}.dat").write_bytes(sizes + xhii)
    (folder / f"{redshift}-used_sources.dat").write_text("1\n1 2 3 10.0\n")


C2RAY = SimulationDescription(
    box_length_cmpc=100.0, n_box=60, cosmology=Cosmology(h=0.7, omega_m=0.27, omega_b=0.044)
)


def test_grid_masses_of_an_append_are_those_of_the_store(tmp_path: Path) -> None:
    for seed, redshift in enumerate(("8.700", "8.000")):
        _write_grid_masses(tmp_path / redshift, redshift, seed)
    target = tmp_path / "cubes.zarr"
    ingest_cubes(tmp_path / "8.700", target, given=C2RAY)
    store = CubeStore.open(target)
    grid_mass = 0.27 * 2.77536627e11 * 0.49 * (100 / 60) ** 3
    assert store.attributes.n_box == 60
    assert store.attributes.grid_mass_msun == pytest.approx(grid_mass, rel=1e-4)
    before = files_of(target)
    with pytest.raises(SourceDataError, match=r"the 60 cells a side of .*, got 80"):
        ingest_cubes(
            tmp_path / "8.000", target, append=True, given=C2RAY.model_copy(update={"n_box": 80})
        )
    assert files_of(target) == before
    # All that the store knows need not be said again.
    ingest_cubes(tmp_path / "8.000", target, append=True)
    whole = CubeStore.open(target)
    one, other = (whole.read_field("n_src", redshift)[0, 1, 2] for redshift in (8.7, 8.0))
    assert one == other == pytest.approx(10 * grid_mass, rel=1e-4)
    assert take_inventory(CubeStore.open(target)).n_box == 60


def test_grid_masses_that_an_edit_made_others_are_refused(tmp_path: Path) -> None:
    for seed, redshift in enumerate(("8.700", "8.000")):
        _write_grid_masses(tmp_path / redshift, redshift, seed)
    target = tmp_path / "cubes.zarr"
    ingest_cubes(
        tmp_path / "8.700", target, given=C2RAY.model_copy(update={"box_length_cmpc": 90.0})
    )
    edit_store(target, box_length_cmpc=100.0)
    with pytest.raises(SourceDataError, match="before an edit changed box_length_cmpc, and"):
        ingest_cubes(tmp_path / "8.000", target, append=True)
    # Edited before edits were recorded.
    attributes = CubeStore.open(target).attributes.model_copy(update={"edited": ()})
    write_attributes(target, attributes)
    with pytest.raises(SourceDataError, match=r"Msun a grid mass, got .* Msun; give the box"):
        ingest_cubes(tmp_path / "8.000", target, append=True)


def test_what_an_edit_changed_converts_no_new_redshift(tmp_path: Path) -> None:
    old, new, _ = split_set(tmp_path)
    target = tmp_path / "cubes.zarr"
    known = {"h": 0.7, "omega_m": 0.3, "omega_b": 0.044}
    given = from_values({"box_length_cmpc": 20.0, **known, "n_src_units": "1"})
    ingest_cubes(old, target, given=given, **CUT)
    edit_store(target, omega_b=0.04)
    assert CubeStore.open(target).attributes.edited == ("omega_b",)
    # Densities in g/cm3 are not converted; those in grid masses would be, and overdensities.
    outline = outline_of(new, target)
    check_append(CubeStore.open(target), outline)
    origins = tuple(one.model_copy(update={"factor": 2.0}) for one in outline.origins)
    with pytest.raises(SourceDataError, match="before an edit changed omega_b, and the new"):
        check_append(CubeStore.open(target), outline.model_copy(update={"origins": origins}))
    ingest_cubes(new, target, append=True)


def outline_of(folder: Path, target: Path) -> IngestOutline:
    store = CubeStore.open(target)
    detection = detect(folder, otherwise=known_of(store))
    names = {path: ("", path.name) for path in detection.paths()}
    origins = find_origins(detection.simulation(), names)
    return IngestOutline(origins=origins, known=detection.known, layout=store.layout, keep_bits={})


@pytest.mark.parametrize(
    ("redshift", "said"),
    [
        ("8.0005", "redshift 8.0005 is in .* already"),
        ("8.0008", r"must differ by more than 0\.001, got 8\.0008 beside 8 of"),
        ("7.9991", r"must differ by more than 0\.001, got 7\.9991 beside 8 of"),
    ],
)
def test_redshifts_that_could_be_taken_for_each_other_are_not_added(
    tmp_path: Path, redshift: str, said: str
) -> None:
    write_set(tmp_path / "old", 10, ("8.000",))
    write_set(tmp_path / "new", 10, (redshift,))
    target = tmp_path / "cubes.zarr"
    ingest_cubes(tmp_path / "old", target, given=BOX)
    with pytest.raises(SourceDataError, match=said):
        ingest_cubes(tmp_path / "new", target, append=True)
    assert CubeStore.open(target).redshifts == (8.0,)


def test_what_the_store_knows_is_not_said_to_be_unknown(tmp_path: Path) -> None:
    old, new, _ = split_set(tmp_path, 8)
    ingest_cubes(old, tmp_path / "cubes.zarr", given=BOX)
    notes: list[str] = []
    ingest_cubes(new, tmp_path / "cubes.zarr", append=True, reporter=Told(on_note=notes.append))
    assert notes == []
    # What only an edit can supply is no matter of an append.
    ingest_cubes(old, tmp_path / "other.zarr")
    ingest_cubes(new, tmp_path / "other.zarr", append=True, reporter=Told(on_note=notes.append))
    assert notes == []


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        (
            {"given": SimulationDescription(n_src_units="Msun")},
            {},
            "give --n-src-unit Msun if that is their unit",
        ),
        (
            {},
            {"given": SimulationDescription(n_src_units="Msun")},
            "ionstore edit .* --n-src-unit Msun",
        ),
        (
            {"given": SimulationDescription(n_src_units="Msun")},
            {"given": SimulationDescription(n_src_units="grid_mass")},
            "ingest into a store of their own",
        ),
    ],
)
def test_an_unknown_unit_is_to_be_said_where_it_can_be(
    tmp_path: Path, first: dict[str, Any], then: dict[str, Any], said: str
) -> None:
    old, new, _ = split_set(tmp_path, 8)
    for folder in (old, new):
        for path in folder.glob("nsrc_*"):
            np.save(path, np.load(path) + 0.5)
    ingest_cubes(old, tmp_path / "cubes.zarr", **first)
    with pytest.raises(SourceDataError, match=said):
        ingest_cubes(new, tmp_path / "cubes.zarr", append=True, **then)


@pytest.mark.parametrize(
    ("unknown", "said"),
    [
        ("old", "ionstore edit .* --density-frame proper"),
        ("new", "set density_frame to proper in simulation.json"),
    ],
)
def test_an_unknown_frame_is_to_be_said_where_it_can_be(
    tmp_path: Path, unknown: str, said: str
) -> None:
    old, new, _ = split_set(tmp_path, 8)
    for path in (tmp_path / unknown).glob("rho_*"):
        np.save(path, np.load(path) * 100)
    ingest_cubes(old, tmp_path / "cubes.zarr")
    with pytest.raises(SourceDataError, match=said):
        ingest_cubes(new, tmp_path / "cubes.zarr", append=True)


def test_clipped_and_empty_cells_of_old_redshifts_stay_counted(tmp_path: Path) -> None:
    old, new, _ = split_set(tmp_path, 8)
    for folder, redshift, n_cells in ((old, "7.500", 3), (new, "8.000", 2)):
        for prefix, value in (("xHII", 1 + 5e-7), ("rho", 0)):
            values = np.load(folder / f"{prefix}_z{redshift}.npy")
            values[0, 0, :n_cells] = value
            np.save(folder / f"{prefix}_z{redshift}.npy", values)
    ingest_cubes(old, tmp_path / "cubes.zarr")
    ingest_cubes(new, tmp_path / "cubes.zarr", append=True)
    attributes = CubeStore.open(tmp_path / "cubes.zarr").attributes
    assert attributes.redshifts == (10.0, 9.0, 8.0, 7.5, 7.0)
    assert attributes.n_clipped == {"xhii": (0, 0, 2, 3, 0)}
    assert attributes.n_zeros == {"n_igm": (0, 0, 2, 3, 0)}


def test_source_files_and_commands_of_all_steps_are_recorded(tmp_path: Path) -> None:
    target = tmp_path / "cubes.zarr"
    for redshift, step in (("9.000", "first"), ("8.000", "second"), ("7.000", "third")):
        write_set(tmp_path / step, 8, (redshift,))
        appended = step != "first"
        ingest_cubes(tmp_path / step, target, append=appended, command_line=f"ionstore {step}")
    attributes = CubeStore.open(target).attributes
    assert attributes.command_line == "ionstore third"
    assert attributes.earlier_command_lines == ("ionstore first", "ionstore second")
    recorded = {(one.folder, one.name): (one.fields, one.redshifts) for one in attributes.sources}
    assert len(recorded) == 9
    assert recorded[str(tmp_path / "second"), "nsrc_z8.000.npy"] == (("n_src",), (8.0,))


def test_files_of_a_field_that_is_left_out_are_not_recorded(tmp_path: Path) -> None:
    old, new, _ = split_set(tmp_path, 8)
    for redshift in NEW:
        np.save(new / f"irate_z{redshift}.npy", np.zeros((8, 8, 8), "f4"))
    ingest_cubes(old, tmp_path / "cubes.zarr")
    ingest_cubes(new, tmp_path / "cubes.zarr", append=True)
    names = [one.name for one in CubeStore.open(tmp_path / "cubes.zarr").attributes.sources]
    assert len(names) == 15
    assert not [name for name in names if name.startswith("irate")]


def test_there_must_be_a_store_to_add_to(tmp_path: Path) -> None:
    write_set(tmp_path / "sim")
    with pytest.raises(StoreFormatError, match="leave --append out to make one"):
        ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr", append=True)
    assert not (tmp_path / "cubes.zarr.partial").exists()


def test_an_unfinished_append_is_resumed_and_kept_from_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, everything = split_set(tmp_path)
    target = tmp_path / "cubes.zarr"
    ingest_cubes(old, target, given=BOX, **CUT)
    before = files_of(target)
    with monkeypatch.context() as patched:
        written, write_block = [], ShardWriter.write_block

        def stop(self: ShardWriter, *arguments: Any) -> StorePath:
            if len(written) == 7:
                raise KeyboardInterrupt
            written.append(1)
            return write_block(self, *arguments)

        patched.setattr(ShardWriter, "write_block", stop)
        with pytest.raises(KeyboardInterrupt):
            ingest_cubes(new, target, append=True)
    assert files_of(target) == before
    with monkeypatch.context() as patched:
        patched.setattr(survey, "survey_source", lambda *_, **__: pytest.fail("reads"))
        with pytest.raises(StoreExistsError, match="was not finished"):
            ingest_cubes(new, target, FileSelection(redshifts=[8.0]), append=True)
    notes: list[str] = []
    ingest_cubes(new, target, append=True, reporter=Told(on_note=notes.append))
    assert [note for note in notes if "resuming: 7 of 72 parts" in note]
    ingest_cubes(everything, tmp_path / "whole.zarr", given=BOX, **CUT)
    assert without_identity(target) == without_identity(tmp_path / "whole.zarr")


def test_a_swap_stopped_between_two_renames_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, _ = split_set(tmp_path, 8)
    target = tmp_path / "cubes.zarr"
    ingest_cubes(old, target, given=BOX)
    rename = os.rename

    def let_go(self: FolderBuild) -> None:  # all that is left of a process that was killed
        assert self._lock is not None
        self._lock.close()

    def stop(source: Path, to: Path) -> None:
        if Path(to) == target:
            raise KeyboardInterrupt
        rename(source, to)

    with monkeypatch.context() as patched:
        patched.setattr("ionstore.storage.files._exchange", lambda *_: False)
        patched.setattr(FolderBuild, "_leave", let_go)
        patched.setattr(os, "rename", stop)
        with pytest.raises(KeyboardInterrupt):
            ingest_cubes(new, target, append=True)
    assert not target.exists()
    ingest_cubes(new, target, append=True)
    assert CubeStore.open(target).redshifts == (10.0, 9.0, 8.0, 7.5, 7.0)
    assert not (tmp_path / "cubes.zarr.partial").exists()
