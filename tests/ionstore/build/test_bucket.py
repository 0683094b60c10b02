"""Ingests into an object store: the same objects as files, whatever ends an ingest on the way."""

import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

from ioncli.main import ionstore
from ionstore.build.bucket import BucketBuild
from ionstore.build.parts import PartRecords
from ionstore.build.shard_writer import ShardWriter
from ionstore.cube.description import SimulationDescription
from ionstore.errors import (
    ObjectStoreError,
    StoreDamageError,
    StoreExistsError,
    StoreFormatError,
)
from ionstore.ingest.ingest import ingest_cubes
from ionstore.ingest.selection import FileSelection, IngestOptions
from ionstore.storage.paths import StorePath, bytes_below
from ionstore.storage.s3 import ObjectPath
from ionstore.storage.s3_lock import ObjectLock
from ionstore.store.cube_store import CubeStore
from tests.support.object_server import refused_credentials
from tests.support.three_file_sets import files_of, write_set
from tests.support.told import Told

SIZES: dict[str, Any] = {
    "given": SimulationDescription(box_length_cmpc=20.0),
    "options": IngestOptions(max_shard_cells=8, chunk_cells=4),
}


FEW_PARTS: dict[str, Any] = {  # one of each field
    **SIZES,
    "options": IngestOptions(max_shard_cells=16, chunk_cells=4),
}


@pytest.fixture
def place(server: str, request: pytest.FixtureRequest) -> ObjectPath:
    return ObjectPath("box", f"{request.node.name}/cubes.zarr")


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place for temporary folders, of which none is left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield
    assert not list(folder.iterdir())


def objects_of(place: ObjectPath) -> dict[str, bytes]:
    return {path.key.removeprefix(f"{place.key}/"): path.read_bytes() for path, _ in place.sizes()}


def without_names(root: bytes) -> Any:
    """Root metadata without what every ingest has of its own."""
    content = json.loads(root)
    for name in ("uuid", "command_line"):
        del content["attributes"]["ionstore"][name]
    return content


def check_same(place: ObjectPath, folder: Path) -> None:
    objects, files = objects_of(place), dict(files_of(folder))
    assert without_names(objects.pop("zarr.json")) == without_names(files.pop("zarr.json"))
    assert objects == files
    assert not partial(place).exists()


def partial(place: ObjectPath) -> ObjectPath:
    return place.with_name(f"{place.name}.partial")


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulations") / "sim"
    write_set(folder, 13, ("9.000",))
    return folder


@pytest.fixture(scope="module")
def expected(sim: Path) -> Path:
    """The same simulation in a folder."""
    ingest_cubes(sim, sim.with_name("cubes.zarr"), **SIZES)
    return sim.with_name("cubes.zarr")


def test_objects_hold_what_files_would(place: ObjectPath, sim: Path, expected: Path) -> None:
    inventory = ingest_cubes(sim, Path(str(place)), **SIZES)
    assert inventory.path == place
    assert inventory.stored_bytes == sum(bytes_below(expected / name) for name in inventory.fields)
    check_same(place, expected)
    store = CubeStore.open(place)
    for field in store.field_names:
        there = CubeStore.open(expected).read_field(field, 9.0)
        np.testing.assert_array_equal(store.read_field(field, 9.0), there)


def test_a_field_can_be_lacking(place: ObjectPath, sim: Path, tmp_path: Path) -> None:
    files = FileSelection(without=["n_src", "xhii"])
    ingest_cubes(sim, Path(str(place)), files, **SIZES)
    ingest_cubes(sim, tmp_path / "cubes.zarr", files, **SIZES)
    check_same(place, tmp_path / "cubes.zarr")
    assert CubeStore.open(place).field_names == ("n_igm",)


def test_the_command_ingests_into_a_bucket(place: ObjectPath, sim: Path) -> None:
    made = CliRunner().invoke(ionstore, ["ingest", str(sim), str(place)], catch_exceptions=False)
    assert made.exit_code == 0
    assert f"{place}: 13³ cells" in made.output
    again = CliRunner().invoke(ionstore, ["ingest", str(sim), str(place)])
    assert again.exit_code == 1
    assert f"{place}: already exists; choose another store or give --overwrite" in again.output
    assert "Traceback" not in again.output
    verified = CliRunner().invoke(ionstore, ["verify", str(place)], catch_exceptions=False)
    assert verified.exit_code == 0
    CubeStore.open(place).shard_path("xhii", 0, (0, 0, 0)).unlink()
    verified = CliRunner().invoke(ionstore, ["verify", str(place)])
    assert verified.exit_code == 1
    assert "is missing" in verified.output


def test_a_store_is_replaced_only_when_told(
    place: ObjectPath, sim: Path, expected: Path, tmp_path: Path
) -> None:
    write_set(tmp_path / "other", 5)
    ingest_cubes(tmp_path / "other", Path(str(place)), **SIZES)
    before = objects_of(place)
    with pytest.raises(StoreExistsError, match="already exists"):
        ingest_cubes(sim, Path(str(place)), **SIZES)
    with pytest.raises(StoreFormatError, match="redshifts cannot be added in an object store"):
        ingest_cubes(sim, Path(str(place)), append=True, **SIZES)
    assert objects_of(place) == before
    notes: list[str] = []
    ingest_cubes(
        sim, Path(str(place)), overwrite=True, **SIZES, reporter=Told(on_note=notes.append)
    )
    assert any("the old store is removed now" in note for note in notes)
    check_same(place, expected)


def test_what_is_no_store_is_not_replaced(place: ObjectPath, sim: Path) -> None:
    (place / "notes.txt").write_bytes(b"mine")
    for overwrite, said in (
        (False, "already exists"),
        (True, "is no store of ionstore, so it is not touched; remove it"),
    ):
        with pytest.raises(StoreExistsError, match=said):
            ingest_cubes(sim, Path(str(place)), overwrite=overwrite, **SIZES)
    assert objects_of(place) == {"notes.txt": b"mine"}
    assert not partial(place).exists()


def test_bad_input_leaves_nothing(place: ObjectPath, sim: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(sim, tmp_path / "damaged")
    (damaged / "rho_z9.000.npy").write_bytes(b"none")
    with pytest.raises(ValueError, match="rho_z9"):
        ingest_cubes(damaged, Path(str(place)), **SIZES)
    assert not place.exists()
    assert not partial(place).exists()


def test_what_reads_back_differently_is_noticed(
    place: ObjectPath, sim: Path, expected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ShardWriter.write_block

    def damaging(self: ShardWriter, field: str, *rest: Any) -> StorePath:
        path = real(self, field, *rest)
        if field == "n_src":
            content = bytearray(path.read_bytes())
            content[len(content) // 3] ^= 1
            path.write_bytes(bytes(content))
        return path

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "write_block", damaging)
        with pytest.raises(StoreDamageError, match=f"{place}/n_src/c/"):
            ingest_cubes(sim, Path(str(place)), **SIZES)
    with pytest.raises(StoreFormatError, match="found one that is being built"):
        CubeStore.open(place)
    ingest_cubes(sim, Path(str(place)), **SIZES)
    check_same(place, expected)


CHANGES = ("write_bytes", "create", "unlink", "remove_below")

STOPS = """
import os, sys
from pathlib import Path
from ionstore.cube.description import SimulationDescription
from ionstore.ingest import IngestOptions, ingest_cubes
from ionstore.storage.s3 import ObjectPath

left, signal = int(sys.argv[3]), int(sys.argv[4])
def counted(real):
    def call(*arguments):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal)
        return real(*arguments)
    return call
for name in sys.argv[5:]:
    setattr(ObjectPath, name, counted(getattr(ObjectPath, name)))
ingest_cubes(
    Path(sys.argv[1]), Path(sys.argv[2]), given=SimulationDescription(box_length_cmpc=20.0),
    options=IngestOptions(max_shard_cells=8, chunk_cells=4),
)
"""


def start_until(
    place: ObjectPath, sim: Path, change: int, signal_number: int
) -> subprocess.Popen[bytes]:
    """Ingest in a process that gets a signal before it changes the bucket for the nth time."""
    arguments = [str(sim), str(place), str(change), str(int(signal_number)), *CHANGES]
    return subprocess.Popen([sys.executable, "-c", STOPS, *arguments])


@pytest.fixture(scope="module")
def n_changes(server: str, sim: Path) -> int:
    """How often an undisturbed ingest changes the bucket."""
    counted: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            real = getattr(ObjectPath, name)

            def call(*arguments: Any, real: Any = real, name: str = name) -> Any:
                counted.append(name)
                return real(*arguments)

            patch.setattr(ObjectPath, name, call)
        ingest_cubes(sim, Path("s3://box/undisturbed.zarr"), **SIZES)
    return len(counted)


# The last ten changes come after the root is put.
@pytest.mark.parametrize("change", [7, 30, 65, -11, -8])
def test_a_killed_ingest_goes_on_and_ends_the_same(
    place: ObjectPath, sim: Path, expected: Path, n_changes: int, change: int
) -> None:
    with start_until(place, sim, change % n_changes, signal.SIGKILL) as process:
        pass
    assert process.returncode == -signal.SIGKILL
    shutil.rmtree(next(Path(tempfile.gettempdir()).iterdir()))
    if change == -8:  # all that is left to do is to clear the records away
        CubeStore.open(place)
        with pytest.raises(StoreExistsError, match="already exists"):
            ingest_cubes(sim, Path(str(place)), **SIZES)
    else:
        with pytest.raises(StoreFormatError):
            CubeStore.open(place)
        notes: list[str] = []
        ingest_cubes(sim, Path(str(place)), **SIZES, reporter=Told(on_note=notes.append))
        assert (change != 7) == any(note.startswith("resuming: ") for note in notes)
    check_same(place, expected)


def test_other_options_do_not_resume(
    place: ObjectPath, sim: Path, expected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after_parts(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        ingest_cubes(sim, Path(str(place)), options=IngestOptions(max_shard_cells=8, chunk_cells=4))
    monkeypatch.undo()
    with pytest.raises(StoreExistsError, match=f"{partial(place)}: an ingest of other files or"):
        ingest_cubes(sim, Path(str(place)), **SIZES)
    ingest_cubes(sim, Path(str(place)), overwrite=True, **SIZES)
    check_same(place, expected)


def interrupt_after_parts(monkeypatch: pytest.MonkeyPatch, n_parts: int) -> None:
    real, written = ShardWriter.write_block, []

    def write(self: ShardWriter, *rest: Any) -> StorePath:
        written.append(rest)
        if len(written) > n_parts:
            raise KeyboardInterrupt
        return real(self, *rest)

    monkeypatch.setattr(ShardWriter, "write_block", write)


def test_of_two_ingests_at_once_the_second_is_refused(
    place: ObjectPath, sim: Path, expected: Path
) -> None:
    with start_until(place, sim, 30, signal.SIGSTOP) as process:
        wait_until_stopped(process)
        said = f"{place}: process {process.pid} on {socket.gethostname()} has been building"
        with pytest.raises(StoreExistsError, match=re.escape(said)):
            ingest_cubes(sim, Path(str(place)), overwrite=True, **SIZES)
        process.send_signal(signal.SIGCONT)
    assert process.returncode == 0
    check_same(place, expected)


def wait_until_stopped(process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)


def lock_of(place: ObjectPath, **content: Any) -> ObjectPath:
    """A lock that somebody left below the key of a store."""
    lock = partial(place) / "lock"
    lock.write_bytes(json.dumps(content).encode())
    return lock


def test_a_lock_of_another_machine_is_taken_over_when_it_is_silent(
    place: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = lock_of(place, host="node 7", pid=os.getpid(), since="noon")
    said = f"process {os.getpid()} on node 7 has been building this store since noon; wait for it"
    with pytest.raises(StoreExistsError, match=said), BucketBuild(place):
        pass
    assert json.loads(lock.read_bytes())["host"] == "node 7"
    monkeypatch.setattr("ionstore.storage.s3_lock.STALE_S", -1.0)
    with BucketBuild(place):
        assert json.loads(lock.read_bytes())["host"] == socket.gethostname()
    assert not partial(place).exists()


def test_a_lock_that_cannot_be_read_is_waited_for(
    place: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    (partial(place) / "lock").write_bytes(b"?")
    with pytest.raises(StoreExistsError, match="process 0 on an unknown host"), BucketBuild(place):
        pass
    monkeypatch.setattr("ionstore.storage.s3_lock.STALE_S", -1.0)
    with BucketBuild(place):
        pass


def test_a_lock_is_kept_alive_until_another_takes_it(
    place: ObjectPath, sim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ionstore.storage.s3_lock.REFRESH_S", 0.02)
    path = partial(place) / "lock"
    with ObjectLock(path, place) as lock:
        first = path.read_bytes()
        end = time.monotonic() + 20
        while path.read_bytes() == first:
            assert time.monotonic() < end
        lock.check()
        lock_of(place, host="node 7")
        with pytest.raises(StoreExistsError, match="another one took the store over"):
            lock.check()
    assert json.loads(path.read_bytes()) == {"host": "node 7"}


def test_who_has_lost_the_lock_makes_no_store(
    place: ObjectPath, sim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = BucketBuild.publish

    def publish(self: BucketBuild) -> None:
        lock_of(place, host="node 7")
        real(self)

    monkeypatch.setattr(BucketBuild, "publish", publish)
    with pytest.raises(StoreExistsError, match="another one took the store over"):
        ingest_cubes(sim, Path(str(place)), **SIZES)
    assert not (place / "zarr.json").exists()
    assert json.loads((partial(place) / "lock").read_bytes()) == {"host": "node 7"}


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (BucketBuild, "begin"),
        (BucketBuild, "shard_writer"),
        (ShardWriter, "write_block"),
        (PartRecords, "record"),
        (PartRecords, "result"),
        (BucketBuild, "publish"),
    ],
)
def test_who_was_silent_spoils_nothing_of_who_took_over(
    place: ObjectPath, sim: Path, monkeypatch: pytest.MonkeyPatch, owner: type, step: str
) -> None:
    made: list[dict[str, bytes]] = []
    real = getattr(owner, step)

    def after_another(*arguments: Any) -> Any:
        if not made:
            made.append({})  # this one goes on from here
            made[0] = take_over(place, sim)
        return real(*arguments)

    monkeypatch.setattr(owner, step, after_another)
    with pytest.raises(StoreExistsError, match=r"took the store over|another process is at"):
        ingest_cubes(sim, Path(str(place)), **FEW_PARTS)
    assert objects_of(place) == made[0]
    assert not partial(place).exists()


OTHER_BITS = {"n_igm": 9, "xhii": 7}


def take_over(place: ObjectPath, sim: Path) -> dict[str, bytes]:
    """Ingest other values into a store that is being built by a process that seems silent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ionstore.storage.s3_lock.STALE_S", -1.0)
        ingest_cubes(
            sim,
            Path(str(place)),
            overwrite=True,
            **FEW_PARTS | {"options": replace(FEW_PARTS["options"], keep_bits=OTHER_BITS)},
        )
    return objects_of(place)


def test_who_has_lost_the_lock_leaves_all_to_who_has_it(place: ObjectPath) -> None:
    record = partial(place) / "parts" / "one.json"
    with BucketBuild(place) as build:
        lock_of(place, host="node 7")
        record.write_bytes(b"{}")
        with pytest.raises(StoreExistsError, match="another one took the store over"):
            build.check()
    assert record.exists()
    assert json.loads((partial(place) / "lock").read_bytes()) == {"host": "node 7"}


def test_a_claim_holds_for_other_processes_until_the_lock_changes_hands(place: ObjectPath) -> None:
    with ObjectLock(partial(place) / "lock", place) as lock:
        claim = pickle.loads(pickle.dumps(lock.claim))
        lock.check()
        claim.check()
        lock_of(place, host="node 7")
        with pytest.raises(StoreExistsError, match="another one took the store over"):
            claim.check()
        (partial(place) / "lock").unlink()
        with pytest.raises(StoreExistsError, match="another one took the store over"):
            claim.check()


def test_a_sign_of_life_whose_answer_was_lost_does_not_lose_the_lock(place: ObjectPath) -> None:
    path = partial(place) / "lock"
    with ObjectLock(path, place) as lock:
        path.write_bytes(path.read_bytes() + b" ")
        lock.check()
        lock.check()
    assert not path.exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_server_that_does_not_answer_costs_no_build(
    place: ObjectPath, sim: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    interrupt_after_parts(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        ingest_cubes(sim, Path(str(place)), **SIZES)
    monkeypatch.undo()
    before = objects_of(partial(place)) | objects_of(place)
    real = ObjectPath.read_bytes

    def read_bytes(self: ObjectPath) -> bytes:
        if self.name == "plan.json":
            raise ObjectStoreError(f"{self}: the server is tired")
        return real(self)

    monkeypatch.setattr(ObjectPath, "read_bytes", read_bytes)
    with pytest.raises(ObjectStoreError, match="tired"):
        ingest_cubes(sim, Path(str(place)), overwrite=overwrite, **SIZES)
    monkeypatch.undo()
    assert objects_of(partial(place)) | objects_of(place) == before


def test_what_the_object_store_refuses_is_a_sentence(server: str, sim: Path) -> None:
    with refused_credentials(server):
        result = CliRunner().invoke(ionstore, ["ingest", str(sim), "s3://box/refused.zarr"])
        assert result.exit_code == 1
        assert "refuses the credentials" in result.output
    result = CliRunner().invoke(ionstore, ["ingest", str(sim), "s3://bax/cubes.zarr"])
    assert result.exit_code == 1
    assert "there is no bucket bax" in result.output
    assert "Traceback" not in result.output
