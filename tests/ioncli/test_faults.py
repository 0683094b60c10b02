"""What the machine does to a command: full and read-only disks, files that change, other commands.

Real processes meet real faults. They are stopped in mid-run, so that the fault comes at the same
moment on every machine.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ioncli.main import ionstore
from ionstore.errors import StoreFormatError
from ionstore.store.cube_store import CubeStore
from tests.support.forked_commands import CommandServer
from tests.support.stopped_commands import go_on, stopped
from tests.support.three_file_sets import contents_of, files_of, write_set

pytestmark = pytest.mark.process

OLD, NEW = ("9.000", "8.000"), ("8.500", "7.000")
MESH = 40
N_PARTS = 6  # of two redshifts
BOX = ("--box-length", "20")
A_PART_IS_DONE = ("ionstore.build.parts", "PartRecords", "record", "1")
ALL_PARTS_ARE_DONE = (*A_PART_IS_DONE[:3], str(N_PARTS))
A_BLOCK_IS_READ = ("ionstore.store.cube_store", "CubeStore", "read_block", "1")
CAPABILITY_VERSION_3, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 0x20080522, 1, 2
WITHOUT_POWERS = (__name__, "give_up_powers")


@dataclass(frozen=True, slots=True)
class Simulations:
    """Two simulations, and the stores that undisturbed commands make of them.

    Parameters
    ----------
    old, new : Path
        Folders of the simulations.
    old_store : Path
        Store of the old one.
    whole : mapping of str
        For ``ingest``, ``--append`` and ``--overwrite`` the contents of the store at the end.
    """

    old: Path
    new: Path
    old_store: Path
    whole: dict[str, dict[str, object]]

    def before(self, how: str, target: Path) -> None:
        """Put the old store in its place where there is one before a command."""
        if how != "ingest":
            shutil.copytree(self.old_store, target)

    def arguments(self, how: str, target: Path) -> tuple[str, ...]:
        """Return what a command is told to make a store, append to one, or replace one."""
        sim = self.old if how == "ingest" else self.new
        return ("ingest", str(sim), str(target), *BOX, *(() if how == "ingest" else (how,)))


@pytest.fixture(scope="module")
def simulations(tmp_path_factory: pytest.TempPathFactory) -> Simulations:
    folder = tmp_path_factory.mktemp("undisturbed")
    made = Simulations(folder / "old", folder / "new", folder / "ingest", {})
    write_set(made.old, MESH, OLD)
    write_set(made.new, MESH, NEW)
    for how in ("ingest", "--append", "--overwrite"):
        made.before(how, folder / how)
        assert run_here(*made.arguments(how, folder / how)) == (0, "")
        made.whole[how] = contents_of(folder / how)
    return made


def run_here(*arguments: str | Path) -> tuple[int, str]:
    """Run a command in this process, which is quicker; return its exit code and its error."""
    result = CliRunner().invoke(ionstore, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, the_sentence(
        result.exit_code, result.stderr
    ) if result.exit_code else ""


def run(commands: CommandServer, *arguments: str | Path, before: Sequence[str] = ()) -> str:
    """Run a command that is refused; return its error."""
    command = commands.start("ionstore", [*map(str, arguments)], before=before)
    return the_sentence(*command.wait())


def give_up_powers() -> None:
    """Let this process keep to permissions, which root passes over by two capabilities."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None)
    header, sets = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    for one in range(3):  # effective, permitted, inheritable
        sets[one] &= ~(1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH)
    assert libc.capset(header, sets) == 0


def the_sentence(exit_code: int, shown: str) -> str:
    """Check that a command ended with one error in one line; return it."""
    assert exit_code in (1, 2), shown
    assert "Traceback" not in shown
    assert shown.count("Error: ") == 1, shown
    last = shown.splitlines()[-1]
    assert last.startswith("Error: "), shown
    return last


def nothing_half_opens(target: Path) -> None:
    """Check that what is built of a store does not look like one."""
    built = target.with_name(f"{target.name}.partial") / "store"
    if built.exists():
        with pytest.raises(StoreFormatError, match="still being built"):
            CubeStore.open(built)


def is_as_before(how: str, target: Path, simulations: Simulations) -> None:
    """Check that a store is the old one, bit for bit, or that there is none."""
    if how == "ingest":
        assert not target.exists()
    else:
        assert files_of(target) == files_of(simulations.old_store)
    nothing_half_opens(target)


def resumes(how: str, target: Path, simulations: Simulations) -> None:
    """Check that the same command goes on, and ends with the undisturbed store."""
    assert run_here(*simulations.arguments(how, target)) == (0, "")
    assert contents_of(target) == simulations.whole[how]
    assert not target.with_name(f"{target.name}.partial").exists()


class SmallDisk:
    """A file system of a few megabytes.

    Parameters
    ----------
    folder : Path
        Where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        """Leave not a byte free."""
        with (self.folder / "ballast").open("wb", buffering=0) as file:
            while shutil.disk_usage(self.folder).free:
                file.write(bytes(1 << 16))

    def make_room(self) -> None:
        """Undo `fill`."""
        (self.folder / "ballast").unlink()

    def remount(self, option: str) -> None:
        """Make it read-only ("ro") or not ("rw")."""
        subprocess.run(["mount", "-o", f"remount,{option}", self.folder], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(
            f"no small disk can be mounted ({mounted.stderr.strip()}): it takes root; "
            "test_ingest.py stops an ingest by the same error"
        )
    yield SmallDisk(folder)
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize(
    ("how", "when"),
    [
        ("ingest", A_PART_IS_DONE),
        ("ingest", ALL_PARTS_ARE_DONE),
        ("--append", A_PART_IS_DONE),
        ("--overwrite", A_PART_IS_DONE),
    ],
    ids=["ingest", "at the end", "append", "overwrite"],
)
def test_a_disk_that_runs_full_loses_nothing(
    commands: CommandServer,
    simulations: Simulations,
    small_disk: SmallDisk,
    how: str,
    when: Sequence[str],
) -> None:
    target = small_disk.folder / "cubes.zarr"
    simulations.before(how, target)
    with stopped(commands, when, *simulations.arguments(how, target)) as command:
        small_disk.fill()
        said = the_sentence(*go_on(command))
    assert "the disk is full; free some space and run the same command again" in said
    is_as_before(how, target, simulations)
    small_disk.make_room()
    resumes(how, target, simulations)


def test_a_disk_that_is_full_already_is_noticed(
    simulations: Simulations, small_disk: SmallDisk
) -> None:
    small_disk.fill()
    arguments = simulations.arguments("ingest", small_disk.folder / "cubes.zarr")
    exit_code, said = run_here(*arguments)
    assert exit_code == 1
    assert "free some space" in said
    assert [path.name for path in small_disk.folder.iterdir()] == ["ballast"]
    assert run_here(*arguments, "--dry-run") == (0, "")


@pytest.mark.parametrize("suffix", [".npy", ".h5"])
def test_an_export_to_a_disk_that_runs_full_leaves_the_file_as_it_was(
    commands: CommandServer, simulations: Simulations, small_disk: SmallDisk, suffix: str
) -> None:
    path = small_disk.folder / f"field{suffix}"
    path.write_bytes(b"old")
    arguments = ("export", simulations.old_store, "--redshift", "9", "-o", path, "--overwrite")
    with stopped(commands, A_BLOCK_IS_READ, *arguments) as command:
        small_disk.fill()
        said = the_sentence(*go_on(command))
    assert f"{path}: the disk is full" in said
    assert path.read_bytes() == b"old"
    assert sorted(one.name for one in small_disk.folder.iterdir()) == ["ballast", path.name]
    small_disk.make_room()
    assert run_here(*arguments) == (0, "")
    assert path.stat().st_size >= 4 * MESH**3


@pytest.mark.parametrize("how", ["ingest", "--append"])
def test_a_read_only_disk_is_named(
    commands: CommandServer, simulations: Simulations, small_disk: SmallDisk, how: str
) -> None:
    target = small_disk.folder / "cubes.zarr"
    simulations.before(how, target)
    small_disk.remount("ro")
    said = run(commands, *simulations.arguments(how, target))
    assert f"{target}.partial: read-only file system; check the path" in said
    is_as_before(how, target, simulations)
    small_disk.remount("rw")
    resumes(how, target, simulations)


def test_an_export_to_a_read_only_disk_is_refused(
    simulations: Simulations, small_disk: SmallDisk
) -> None:
    path = small_disk.folder / "field.npy"
    small_disk.remount("ro")
    exit_code, said = run_here("export", simulations.old_store, "--redshift", "9", "-o", path)
    assert exit_code == 1
    assert f"{path}: read-only file system" in said
    assert not list(small_disk.folder.iterdir())


def test_a_folder_without_permission_to_write_is_named(
    commands: CommandServer, simulations: Simulations, tmp_path: Path
) -> None:
    folder = tmp_path / "of somebody else"
    folder.mkdir()
    folder.chmod(0o555)
    target = folder / "cubes.zarr"
    said = run(commands, *simulations.arguments("ingest", target), before=WITHOUT_POWERS)
    assert f"{target}.partial: permission denied; check the path and the permissions" in said
    assert not list(folder.iterdir())


@pytest.mark.parametrize("protected", [".", "xhii/c/0"])
@pytest.mark.parametrize("how", ["--append", "--overwrite", "edit"])
def test_a_store_that_is_write_protected_is_left_alone(
    commands: CommandServer, simulations: Simulations, tmp_path: Path, how: str, protected: str
) -> None:
    target = tmp_path / "my cubes.zarr"
    simulations.before(how, target)
    command = ("edit", target, "--h", "0.7")
    (target / protected).chmod(0o555)
    said = run(
        commands,
        *(command if how == "edit" else simulations.arguments(how, target)),
        before=WITHOUT_POWERS,
    )
    assert f"{target}: this store is write-protected; " in said
    assert f"(chmod -R u+w '{target}')" in said
    is_as_before(how, target, simulations)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize(
    ("unreadable", "mode"),
    [("sim", 0o000), ("sim/rho_z9.000.npy", 0o000), ("sim/more", 0o444)],
)
def test_sources_without_permission_to_read_are_named(
    commands: CommandServer, simulations: Simulations, tmp_path: Path, unreadable: str, mode: int
) -> None:
    shutil.copytree(simulations.old, tmp_path / "sim")
    (tmp_path / "sim" / "more").mkdir()
    for path in (tmp_path / "sim").glob("xHII*"):
        path.rename(tmp_path / "sim" / "more" / path.name)
    path = tmp_path / unreadable
    path.chmod(mode)
    try:
        said = run(
            commands,
            *("ingest", tmp_path / "sim", tmp_path / "cubes.zarr", *BOX),
            before=WITHOUT_POWERS,
        )
    finally:
        path.chmod(0o755)
    assert f"{path}" in said
    # The last is what the command line itself says of the folder.
    assert "permission denied" in said.lower() or "not readable" in said
    assert [one.name for one in tmp_path.iterdir()] == ["sim"]


def _rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1] + b"more")


def _replace_by_same_size(path: Path) -> None:
    values = np.load(path)
    np.save(path.with_name("other.npy"), np.roll(values, 1, 0))
    path.with_name("other.npy").replace(path)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


CHANGED = "the file changed while it was ingested; run the same command again"
Change = Callable[[Path], None]


@pytest.mark.parametrize(
    ("change", "how", "said"),
    [
        (_rewrite, "--append", CHANGED),
        (_replace_by_same_size, "ingest", CHANGED),
        (Path.unlink, "ingest", "no such file or directory; check the path"),
        (_truncate, "--overwrite", "the file shrank while it was read; try again"),
    ],
    ids=["rewritten", "replaced", "deleted", "truncated"],
)
def test_a_source_that_changes_in_mid_run_is_named_and_nothing_of_it_stays(
    commands: CommandServer,
    simulations: Simulations,
    tmp_path: Path,
    change: Change,
    *,
    how: str,
    said: str,
) -> None:
    sim = tmp_path / "sim"
    shutil.copytree(simulations.old if how == "ingest" else simulations.new, sim)
    target = tmp_path / "cubes.zarr"
    simulations.before(how, target)
    _, _, *options = simulations.arguments(how, target)
    path = sorted(sim.glob("xHII*"))[0]  # the last that is read: not yet, when a part is done
    original = path.read_bytes()
    with stopped(commands, A_PART_IS_DONE, "ingest", sim, *options) as command:
        change(path)
        shown = the_sentence(*go_on(command))
    assert f"{path}: " in shown
    assert said in shown
    is_as_before(how, target, simulations)
    # What was read of the changed file is not taken for what the file holds now.
    path.write_bytes(original)
    assert run_here("ingest", sim, *options) == (0, "")
    assert contents_of(target) == simulations.whole[how]


@pytest.mark.parametrize(
    ("first", "second"),
    [("ingest", "ingest"), ("--append", "--append"), ("--append", "--overwrite")],
)
def test_of_two_commands_into_one_store_the_second_is_refused(
    commands: CommandServer, simulations: Simulations, tmp_path: Path, first: str, second: str
) -> None:
    target = tmp_path / "cubes.zarr"
    simulations.before(first, target)
    with stopped(commands, A_PART_IS_DONE, *simulations.arguments(first, target)) as command:
        built = files_of(tmp_path / "cubes.zarr.partial")
        exit_code, said = run_here(*simulations.arguments(second, target))
        assert exit_code == 1
        assert f"{target}: another process is building or editing this store; wait" in said
        assert files_of(tmp_path / "cubes.zarr.partial") == built
        is_as_before(first, target, simulations)
        exit_code, shown = go_on(command)
    assert exit_code == 0, shown
    assert contents_of(target) == simulations.whole[first]
    assert [one.name for one in tmp_path.iterdir()] == ["cubes.zarr"]
