import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner, Result

from ioncli.main import ionstore
from ionstore.build.folder import FolderBuild
from ionstore.build.store_writer import write_attributes
from ionstore.cube.cosmology import Cosmology, mean_gas_density
from ionstore.cube.description import SimulationDescription
from ionstore.edit import EditReporter, edit_store
from ionstore.ingest.ingest import ingest_cubes
from ionstore.store.cube_store import CubeStore
from tests.support.three_file_sets import files_of, write_set
from tests.support.told import Told


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(ionstore, ["edit", *map(str, arguments)])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_set(tmp_path / "sim", 10)
    ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr")
    return tmp_path / "cubes.zarr"


def test_a_box_length_supplied_later_reaches_everything(store: Path) -> None:
    before = CubeStore.open(store)
    cubes = {name: before.read_field(name, 9.0) for name in before.field_names}
    result = _run(store, "--box-length", "25", "--h", "0.7")
    assert result.exit_code == 0, result.output
    assert result.stdout == (f"{store}: box length 25 cMpc (was unknown), h 0.7 (was unknown)\n")
    after = CubeStore.open(store)
    assert after.mesh.box_length_cmpc == 25.0
    assert after.cosmology == Cosmology(h=0.7)
    assert after.uuid == before.uuid
    assert after.attributes.statistics == before.attributes.statistics
    for name, values in cubes.items():
        np.testing.assert_array_equal(after.read_field(name, 9.0), values)
        np.testing.assert_array_equal(before.read_field(name, 9.0), values)
    for consolidated in (True, False):
        with xr.open_zarr(store, consolidated=consolidated) as dataset:
            assert dataset["y"].attrs["units"] == "cMpc"
            np.testing.assert_allclose(dataset["y"], (np.arange(10) + 0.5) * 2.5)
    assert sorted(path.name for path in store.parent.iterdir()) == ["cubes.zarr", "sim"]


@pytest.mark.parametrize("h_of_store", [True, False])
def test_a_box_length_in_cmpc_per_h_is_recorded_in_cmpc(store: Path, h_of_store: bool) -> None:
    result = _run(store, "--box-length", "14/h")
    assert result.exit_code == 1
    assert "--box-length 14/h needs h, which is unknown; give --h" in result.stderr
    if h_of_store:
        assert _run(store, "--h", "0.7").exit_code == 0
    result = _run(store, "--box-length", "14/h", *(() if h_of_store else ("--h", "0.7")))
    assert result.exit_code == 0, result.output
    assert "box length 20 cMpc (was unknown)" in result.stdout
    assert CubeStore.open(store).mesh.box_length_cmpc == 14 / 0.7


def test_the_working_folder_can_be_edited(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store)
    result = _run(".", "--box-length", "25")
    os.chdir(store)
    assert result.exit_code == 0, result.output
    assert result.stdout == ".: box length 25 cMpc (was unknown)\n"
    assert "enter it again" in result.stderr
    assert CubeStore.open(".").mesh.box_length_cmpc == 25.0
    assert sorted(path.name for path in store.parent.iterdir()) == ["cubes.zarr", "sim"]


@pytest.mark.parametrize("relative", [True, False])
def test_a_link_to_a_store_stays_a_link(store: Path, relative: bool) -> None:
    link = store.parent / "links" / "link.zarr"
    link.parent.mkdir()
    link.symlink_to(Path("..", "cubes.zarr") if relative else store)
    result = _run(link, "--box-length", "25")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{link}: ")
    assert link.is_symlink()
    assert CubeStore.open(store).mesh.box_length_cmpc == 25.0
    assert [path.name for path in link.parent.iterdir()] == ["link.zarr"]


def test_what_is_not_named_stays(store: Path) -> None:
    assert _run(store, "--box-length", "25").exit_code == 0
    assert _run(store, "--h", "0.7").exit_code == 0
    assert CubeStore.open(store).mesh.box_length_cmpc == 25.0
    assert CubeStore.open(store).cosmology == Cosmology(h=0.7)


def test_what_is_replaced_is_named(store: Path) -> None:
    assert _run(store, "--box-length", "25", "--h", "0.7").exit_code == 0
    result = _run(store, "--box-length", "30", "--h", "0.7")
    assert result.stdout == f"{store}: box length 30 cMpc (was 25 cMpc), h 0.7\n"
    result = _run(store, "--density-frame", "comoving")
    assert result.stdout == f"{store}: frame of n_igm comoving (was proper)\n"


def test_units_supplied_later_reach_everything(tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 10)
    for prefix in ("rho", "nsrc"):
        np.save(tmp_path / "sim" / f"{prefix}_z9.000.npy", np.full((10, 10, 10), 0.5))
    store, notes = tmp_path / "cubes.zarr", list[str]()
    ingest_cubes(
        tmp_path / "sim",
        store,
        given=SimulationDescription(box_length_cmpc=20.0),
        reporter=Told(on_note=notes.append),
    )
    before = CubeStore.open(store)
    assert (before.units("n_src"), before.units("n_igm"), before.frame) == 3 * ("unknown",)
    for option in ("--n-src-unit", "--density-frame"):
        assert any(f"`ionstore edit STORE {option}`" in note for note in notes)
    result = _run(store, "--n-src-unit", "Msun", "--density-frame", "proper")
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        f"{store}: unit of n_src Msun (was unknown), frame of n_igm proper (was unknown)\n"
    )
    after = CubeStore.open(store)
    assert (after.units("n_src"), after.units("n_igm"), after.frame) == ("Msun", "g cm-3", "proper")
    assert after.attributes == before.attributes
    np.testing.assert_array_equal(after.read_field("n_src", 9.0), before.read_field("n_src", 9.0))
    for consolidated in (True, False):
        with xr.open_zarr(store, consolidated=consolidated) as dataset:
            assert dataset["n_src"].attrs["units"] == "Msun"
            assert dataset["n_igm"].attrs["units"] == "g cm-3"
            assert dataset["n_igm"].attrs["frame"] == "proper"
            assert dataset["n_igm"].attrs["long_name"] == "gas density"


def test_a_killed_edit_leaves_the_store_as_it_was(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(store)
    with monkeypatch.context() as patched:
        # Nothing of an edit that dies runs: neither the swap nor the clearing away.
        patched.setattr(FolderBuild, "publish", lambda self: 1 / 0)
        patched.setattr(FolderBuild, "_leave", lambda self: self._lock.close())
        assert isinstance(_run(store, "--box-length", "25").exception, ZeroDivisionError)
    assert files_of(store) == before
    assert (store.parent / "cubes.zarr.partial" / "store").exists()
    assert _run(store, "--box-length", "26").exit_code == 0
    assert CubeStore.open(store).mesh.box_length_cmpc == 26.0
    assert not (store.parent / "cubes.zarr.partial").exists()


def test_file_systems_without_hard_links_are_copied_on(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[Path] = []
    link = os.link

    def refuse(source: str | Path, target: str | Path) -> None:
        if not Path(source).name.isdigit():  # Zarr links its metadata, and cannot do without
            return link(source, target)
        refused.append(Path(source))
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    assert _run(store, "--box-length", "25").exit_code == 0
    assert CubeStore.open(store).mesh.box_length_cmpc == 25.0
    assert any(path.parts[-6] == "xhii" for path in refused)


def test_systems_without_an_exchange_rename_twice(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ionstore.storage.files._exchange", lambda one, other: False)
    assert _run(store, "--box-length", "25").exit_code == 0
    assert CubeStore.open(store).mesh.box_length_cmpc == 25.0
    assert sorted(path.name for path in store.parent.iterdir()) == ["cubes.zarr", "sim"]


def test_an_edit_that_was_killed_between_two_renames_is_repaired_by_the_next(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(store)
    monkeypatch.setattr("ionstore.storage.files._exchange", lambda one, other: False)
    with monkeypatch.context() as patched:
        real = os.rename

        def die_at_the_second(source: Path, target: Path) -> None:
            if Path(source).name == "store":
                raise ZeroDivisionError
            real(source, target)

        patched.setattr(os, "rename", die_at_the_second)
        patched.setattr(FolderBuild, "_leave", lambda self: self._lock.close())
        assert isinstance(_run(store, "--box-length", "25").exception, ZeroDivisionError)
    assert not store.exists()
    assert "n_src is stored as counts" in _run(store, "--n-src-unit", "Msun").stderr
    assert files_of(store) == before
    assert sorted(path.name for path in store.parent.iterdir()) == ["cubes.zarr", "sim"]


def test_an_edit_sees_what_was_edited_while_it_waited_for_its_turn(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FolderBuild.__enter__

    def enter_late(self: FolderBuild) -> FolderBuild:
        with monkeypatch.context() as patched:
            patched.setattr(FolderBuild, "__enter__", real)
            assert _run(store, "--h", "0.6").exit_code == 0
        return real(self)

    monkeypatch.setattr(FolderBuild, "__enter__", enter_late)
    opened: list[CubeStore] = []

    class Kept(EditReporter):
        def opened(self, store: CubeStore) -> None:
            opened.append(store)

    edited = edit_store(str(store), box_length_cmpc=25.0, reporter=Kept())
    assert [before.mesh.box_length_cmpc for before in opened] == [None]
    assert edited.mesh.box_length_cmpc == 25.0
    assert edited.cosmology is not None
    assert edited.cosmology.h == 0.6


def test_a_full_disk_is_one_sentence_and_nothing_is_left(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_full(source: Path, target: Path, **_: bool) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(target))

    before = files_of(store)
    monkeypatch.setattr(shutil, "copyfile", run_full)
    result = _run(store, "--h", "0.7")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: {store}: the disk is full; free some space and run the same command again\n"
    )
    assert files_of(store) == before
    assert sorted(path.name for path in store.parent.iterdir()) == ["cubes.zarr", "sim"]


def test_folders_that_are_edited_can_be_written_to(store: Path) -> None:
    (store / "xhii").chmod(0o700)
    assert _run(store, "--h", "0.7").exit_code == 0
    assert (store / "xhii").stat().st_mode == (store / "n_igm").stat().st_mode


def test_a_frame_that_the_numbers_contradict_is_noted(tmp_path: Path) -> None:
    known = Cosmology(h=0.7, omega_b=0.044)
    write_set(tmp_path / "sim", 8)
    for redshift in (9.0, 7.5):
        mean = np.full((8, 8, 8), mean_gas_density(known, redshift), "f4")
        np.save(tmp_path / "sim" / f"rho_z{redshift:.3f}.npy", mean)
    store = tmp_path / "cubes.zarr"
    ingest_cubes(tmp_path / "sim", store, given=SimulationDescription(cosmology=known))
    result = _run(store, "--density-frame", "comoving")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{store}: frame of n_igm comoving (was proper)\n"
    assert result.stderr == (
        "Note: n_igm is taken as comoving, although its mean fits proper densities: it is "
        "4.05e-28 g/cm3 at redshift 9, where the cosmic mean is 4.05e-28 proper and 4.05e-31 "
        "comoving; a wrong frame is wrong by (1 + redshift)³ = 1e+03\n"
    )
    assert _run(store, "--density-frame", "proper").stderr == ""
    # What is given in the same command counts.
    told = _run(store, "--density-frame", "proper", "--omega-b", "0.4").stderr
    assert "its mean is not the cosmic one: it is 4.05e-28" in told


def test_density_parameters_supplied_later_reach_the_cosmology(store: Path) -> None:
    result = _run(store, "--omega-m", "0.27", "--omega-b", "0.044")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{store}: omega_m 0.27 (was unknown), omega_b 0.044 (was unknown)\n"
    assert CubeStore.open(store).cosmology == Cosmology(omega_m=0.27, omega_b=0.044)
    refused = _run(store, "--omega-b", "0.3")
    assert refused.exit_code == 1
    assert "omega_b must not be above omega_m" in refused.stderr
    result = _run(store, "--omega-b", "0.05", "--h", "0.7")
    assert result.stdout == f"{store}: h 0.7 (was unknown), omega_b 0.05 (was 0.044)\n"
    told = (
        "Note: omega_b was 0.044; values that were converted with it stay as they are, ingest again"
    )
    assert result.stderr.startswith(told)
    assert CubeStore.open(store).cosmology == Cosmology(h=0.7, omega_m=0.27, omega_b=0.05)


def test_what_is_no_store_gets_nothing_beside_it(tmp_path: Path) -> None:
    result = _run(tmp_path / "nowhere" / "none.zarr", "--h", "0.7")
    assert "found nothing; check the path" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("what", "command"), [("ingest", "ingest"), ("prediction", "`ionmodel predict`")]
)
def test_an_unfinished_build_is_not_thrown_away(store: Path, what: str, command: str) -> None:
    with FolderBuild(store, overwrite=True) as build:
        build.begin({"uuid": "another", what: {}})
        busy = _run(store, "--h", "0.7")
    assert "another process" in busy.stderr
    result = _run(store, "--h", "0.7")
    assert result.exit_code == 1
    assert f"was not finished; run the same {command} again, or remove" in result.stderr
    assert (store.parent / "cubes.zarr.partial" / "plan.json").exists()


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        ([], 2, "nothing to change"),
        (["--box-length", "-1"], 2, "--box-length"),
        (["--box-length", "nan"], 2, "finite"),
        (["--box-length", "inf"], 2, "finite"),
        (["--h", "inf"], 2, "--h"),
        (["--h", "nan"], 2, "--h"),
        (["--h", "10"], 2, "--h"),
        (["--omega-m", "0"], 2, "--omega-m"),
        (["--omega-b", "2"], 2, "--omega-b"),
        (["--n-src-unit", "kg"], 2, "--n-src-unit"),
        (["--n-src-unit", "Msun"], 1, "n_src is stored as counts, whose unit is 1, got Msun; if"),
        (["--density-frame", "unknown"], 2, "--density-frame"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(
    store: Path, arguments: list[str], exit_code: int, said: str
) -> None:
    before = files_of(store)
    result = _run(store, *arguments)
    assert result.exit_code == exit_code
    assert said in result.stderr
    assert files_of(store) == before


def test_what_is_no_store_is_named(tmp_path: Path) -> None:
    result = _run(tmp_path / "none.zarr", "--h", "0.7")
    assert result.exit_code == 1
    assert "found nothing" in result.stderr


def test_converted_sources_keep_their_unit(store: Path) -> None:
    attributes = CubeStore.open(store).attributes.model_copy(update={"grid_mass_msun": 5e6})
    write_attributes(store, attributes)
    result = _run(store, "--n-src-unit", "grid_mass")
    assert result.exit_code == 1
    assert "converted from grid masses to Msun when it was ingested" in result.stderr
    assert CubeStore.open(store).attributes.uuid == attributes.uuid
