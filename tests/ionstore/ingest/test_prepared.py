"""An ingest that is looked at before it runs."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ionstore.cube.description import SimulationDescription, from_values
from ionstore.edit import edit_store
from ionstore.errors import SourceDataError, StoreExistsError
from ionstore.ingest import FileSelection, IngestOptions, ingest_cubes, prepare
from ionstore.readers.formats.numpy_set import NumpySet
from ionstore.store.cube_store import CubeStore
from tests.support.places import DATA
from tests.support.three_file_sets import PREFIXES, contents_of, files_of, write_set
from tests.support.told import Told

BOX = SimulationDescription(box_length_cmpc=20.0)


def test_a_prepared_ingest_tells_what_it_found_and_writes_nothing(tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 6)
    before = files_of(tmp_path)
    prepared = prepare(str(tmp_path / "sim"), str(tmp_path / "cubes.zarr"), given=BOX)
    assert files_of(tmp_path) == before
    assert prepared.problems == ()
    found = {name: set(cubes) for name, cubes in prepared.found.candidates.items()}
    assert found == {name: {9.0, 7.5} for name in PREFIXES}
    assert prepared.found.known.box_length_cmpc == 20.0


def test_running_it_is_an_ingest(tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 6)
    inventory = prepare(tmp_path / "sim", tmp_path / "cubes.zarr", given=BOX).run()
    ingest_cubes(tmp_path / "sim", tmp_path / "other.zarr", given=BOX)
    assert inventory.path == tmp_path / "cubes.zarr"
    assert contents_of(tmp_path / "cubes.zarr") == contents_of(tmp_path / "other.zarr")


@pytest.mark.parametrize(
    ("change", "options", "error", "said"),
    [
        ("missing", {}, SourceDataError, "n_src"),
        ("shape", {}, SourceDataError, "expected the shape"),
        ("", {"options": IngestOptions(keep_bits={"xhii": 40})}, SourceDataError, "between 1 and"),
        ("", {"box_length_cmpc_h": 14.0}, SourceDataError, "needs h, which is unknown"),
        ("target", {}, StoreExistsError, "already exists; choose another store or give"),
    ],
)
def test_problems_are_what_running_it_would_refuse(
    tmp_path: Path, change: str, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    sim, target = tmp_path / "sim", tmp_path / "cubes.zarr"
    write_set(sim, 6)
    if change == "target":
        ingest_cubes(sim, target, given=BOX)
    elif change == "missing":
        (sim / "nsrc_z7.500.npy").unlink()
    elif change == "shape":
        np.save(sim / "xHII_z7.500.npy", np.zeros((5, 5, 5), "f4"))
    before = files_of(tmp_path)
    prepared = prepare(sim, target, **options)
    (problem,) = prepared.problems
    assert said in problem
    with pytest.raises(error) as raised:
        prepared.run()
    assert str(raised.value) == problem
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("append", [False, True])
def test_files_are_inspected_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, append: bool
) -> None:
    sim, target = tmp_path / "sim", tmp_path / "cubes.zarr"
    write_set(sim, 6)
    from_values({"box_length_cmpc": 99.0, "h": 0.5}).write(sim)
    if append:
        write_set(tmp_path / "old", 6, ("10.000",))
        ingest_cubes(tmp_path / "old", target, given=from_values({"box_length_cmpc": 28.0}))
    inspected: list[str] = []
    inspect = NumpySet.inspect

    def counted(self: NumpySet, path: Path, head: bytes) -> object:
        inspected.append(path.name)
        return inspect(self, path, head)

    monkeypatch.setattr(NumpySet, "inspect", counted)
    # The h of the length is known only from simulation.json, once files were found.
    ingest_cubes(sim, target, box_length_cmpc_h=14.0, append=append)
    assert sorted(inspected) == sorted(path.name for path in sim.glob("*.npy"))
    assert CubeStore.open(target).mesh.box_length_cmpc == 28.0


def test_a_length_per_h_wins_over_what_files_say(tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 6)
    from_values({"box_length_cmpc": 99.0, "h": 0.5}).write(tmp_path / "sim")
    notes: list[str] = []
    prepare(
        tmp_path / "sim", tmp_path / "cubes.zarr", given=from_values({"h": 0.7}),
        box_length_cmpc_h=14.0,
    ).run(Told(on_note=notes.append))  # fmt: skip
    assert CubeStore.open(tmp_path / "cubes.zarr").mesh.box_length_cmpc == pytest.approx(20.0)
    assert any("20.0 as given here is used, the simulation's files say 99" in one for one in notes)


def test_a_store_that_changed_since_is_not_added_to(tmp_path: Path) -> None:
    target = tmp_path / "cubes.zarr"
    write_set(tmp_path / "old", 6, ("10.000",))
    write_set(tmp_path / "new", 6)
    ingest_cubes(tmp_path / "old", target, given=BOX)
    prepared = prepare(tmp_path / "new", target, append=True)
    edit_store(target, h=0.7)
    before = files_of(target)
    with pytest.raises(StoreExistsError, match="another process changed this store"):
        prepared.run()
    assert files_of(tmp_path / "cubes.zarr") == before
    prepare(tmp_path / "new", target, append=True).run()
    assert CubeStore.open(target).redshifts == (10.0, 9.0, 7.5)


def test_a_store_left_beside_its_place_is_put_back_and_added_to(tmp_path: Path) -> None:
    # A kill between the two renames with which a store is swapped in without an exchange.
    target = tmp_path / "cubes.zarr"
    write_set(tmp_path / "old", 6, ("10.000",))
    write_set(tmp_path / "new", 6)
    ingest_cubes(tmp_path / "old", target, given=BOX)
    partial = tmp_path / "cubes.zarr.partial"
    partial.mkdir()
    (partial / "lock").touch()
    target.rename(partial / "replaced")
    ingest_cubes(tmp_path / "new", target, append=True)
    assert CubeStore.open(target).redshifts == (10.0, 9.0, 7.5)
    assert not partial.exists()


def test_a_build_that_an_earlier_version_began_is_finished(tmp_path: Path) -> None:
    shutil.copytree(DATA / "half_built" / "sim", tmp_path / "sim")
    shutil.copytree(DATA / "half_built" / "partial", tmp_path / "cubes.zarr.partial")
    kept = tmp_path / "cubes.zarr.partial" / "store" / "n_igm" / "c" / "0" / "0" / "0" / "0"
    inode, notes = kept.stat().st_ino, list[str]()
    ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr", reporter=Told(on_note=notes.append))
    assert "resuming: 3 of 6 parts are there already" in notes
    shard = tmp_path / "cubes.zarr" / "n_igm" / "c" / "0" / "0" / "0" / "0"
    assert shard.stat().st_ino == inode
    ingest_cubes(tmp_path / "sim", tmp_path / "whole.zarr")
    assert contents_of(tmp_path / "cubes.zarr") == contents_of(tmp_path / "whole.zarr")


def test_a_build_that_an_earlier_version_began_with_other_files_is_refused(tmp_path: Path) -> None:
    shutil.copytree(DATA / "half_built" / "sim", tmp_path / "sim")
    shutil.copytree(DATA / "half_built" / "partial", tmp_path / "cubes.zarr.partial")
    before = files_of(tmp_path)
    files = FileSelection(redshifts=[9.0])
    with pytest.raises(StoreExistsError, match="other files or with other options was not"):
        ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr", files)
    assert files_of(tmp_path) == before
    ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr", files, overwrite=True)
    assert CubeStore.open(tmp_path / "cubes.zarr").redshifts == (9.0,)
