import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ioncli.main import ionstore
from ionstore.cube.cosmology import Cosmology
from ionstore.cube.description import SimulationDescription
from ionstore.store.cube_store import CubeStore
from tests.support.forked_commands import CommandServer, Forked
from tests.support.places import ROOT
from tests.support.stopped_commands import go_on, stopped
from tests.support.three_file_sets import files_of, write_set

COMMAND = [sys.executable, "-W", "error", "-c", "from ioncli.main import ionstore; ionstore()"]


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(ionstore, ["ingest", *map(str, arguments)])


def _stopped_after(
    commands: CommandServer, n_parts: int, *arguments: str | Path
) -> AbstractContextManager[Forked]:
    """Run an ingest until it stops itself, when some parts are done and others are not."""
    when = ("ionstore.build.parts", "PartRecords", "record", str(n_parts))
    return stopped(commands, when, "ingest", *arguments)


def _without_identity(files: dict[str, bytes]) -> dict[str, object]:
    root = json.loads(files["zarr.json"])
    del root["attributes"]["ionstore"]["uuid"]
    del root["attributes"]["ionstore"]["command_line"]
    return {**files, "zarr.json": root}


def test_a_summary_says_what_was_stored(tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 16)
    result = _run(tmp_path / "sim", tmp_path / "cubes.zarr", "--box-length", "20", "--h", "0.7")
    assert result.exit_code == 0, result.output
    out = result.stdout
    assert "16³ cells, box 20 cMpc, cell 1.25 cMpc, cosmology (h = 0.7)" in out
    assert re.search(r"n_igm +float32 +g cm-3 \(proper\)", out)
    assert re.search(r"n_src +uint8 +1 ", out)
    assert re.search(r"mean xHII by volume: 0\.3\d+ at redshift 9, 0\.3\d+ at redshift 7\.5", out)
    assert "times less" in out
    assert "100 %" in result.stderr
    assert "Note" not in result.stderr


def test_boxes_to_predict_are_ingested_when_it_is_said_what_they_lack(tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 16)
    for path in (tmp_path / "sim").glob("xHII_*"):
        path.unlink()
    store = tmp_path / "boxes.zarr"
    refused = _run(tmp_path / "sim", store)
    assert refused.exit_code == 1
    assert "xhii is missing: it is required at every redshift; " in refused.stderr
    meaning = "can be predicted, not trained on\n"
    assert refused.stderr.endswith(f"; --without xhii makes a store that {meaning}")
    assert "no xhii" not in _run(tmp_path / "sim", store, "--dry-run").stdout
    shown = _run(tmp_path / "sim", store, "--dry-run", "--without", "xhii")
    assert shown.exit_code == 0, shown.output
    assert f"\nno xhii: {meaning}" in shown.stdout
    assert not store.exists()
    made = _run(tmp_path / "sim", store, "--without", "xhii")
    assert made.exit_code == 0, made.output
    assert f"\nno xhii: {meaning}" in made.stdout
    assert "Note: xhii" not in made.stderr
    assert CubeStore.open(store).field_names == ("n_igm", "n_src")
    # A store lacks the same at all redshifts, without saying so again.
    write_set(tmp_path / "later", 16, ("6.000",))
    for arguments in (["--dry-run"], []):
        added = _run(tmp_path / "later", store, "--append", *arguments)
        assert added.exit_code == 0, added.output
        said = "Note: xhii is left out, although it is there: xHII_z6.000.npy\n"
        assert said in added.stderr


def test_a_cosmology_without_name_and_h_is_not_mentioned(tmp_path: Path) -> None:
    write_set(tmp_path / "sim")
    SimulationDescription(cosmology=Cosmology(omega_m=0.3)).write(tmp_path / "sim")
    result = _run(tmp_path / "sim", tmp_path / "cubes.zarr")
    assert f"{tmp_path / 'cubes.zarr'}: 8³ cells, box length unknown\n" in result.stdout


@pytest.mark.parametrize("h_by_option", [True, False])
def test_a_box_length_in_cmpc_per_h_is_recorded_in_cmpc(tmp_path: Path, h_by_option: bool) -> None:
    write_set(tmp_path / "sim")
    box, by_option = ("--box-length", "500/h"), ("--h", "0.7")
    for dry_run in (["--dry-run"], []):
        result = _run(tmp_path / "sim", tmp_path / "cubes.zarr", *box, *dry_run)
        assert result.exit_code == 1
        said = "--box-length 500/h needs h, which is unknown; give --h, or the box length in cMpc"
        assert result.stderr == f"Error: {said}\n"
    if not h_by_option:
        SimulationDescription(cosmology=Cosmology(h=0.7)).write(tmp_path / "sim")
    given = (*box, *(by_option if h_by_option else ()))
    result = _run(tmp_path / "sim", tmp_path / "cubes.zarr", *given, "--dry-run")
    assert "known: box 714.286 cMpc, h = 0.7\n" in result.stdout
    result = _run(tmp_path / "sim", tmp_path / "cubes.zarr", *given)
    assert result.exit_code == 0, result.output
    assert CubeStore.open(tmp_path / "cubes.zarr").mesh.box_length_cmpc == 500 / 0.7
    write_set(tmp_path / "more", redshifts=("6.000",))
    # The h of the store is the h of what is added to it.
    appended = (tmp_path / "more", tmp_path / "cubes.zarr", "--append", *box)
    assert "box 714.286 cMpc, h = 0.7" in _run(*appended, "--dry-run").stdout
    assert _run(*appended).exit_code == 0
    assert CubeStore.open(tmp_path / "cubes.zarr").mesh.box_length_cmpc == 500 / 0.7


def test_clipped_and_empty_cells_are_counted_in_the_summary(tmp_path: Path) -> None:
    cubes = write_set(tmp_path / "sim", redshifts=("9.000", "8.000", "7.500"))
    for redshift, n_cells in (("9.000", 3), ("7.500", 2)):
        cubes[redshift]["xhii"][0, 0, :n_cells] = 1 + 5e-7
        np.save(tmp_path / "sim" / f"xHII_z{redshift}.npy", cubes[redshift]["xhii"])
    cubes["8.000"]["n_igm"][1, 1, :4] = 0
    np.save(tmp_path / "sim" / "rho_z8.000.npy", cubes["8.000"]["n_igm"])
    result = _run(tmp_path / "sim", tmp_path / "cubes.zarr")
    assert result.exit_code == 0, result.output
    clipped = "cells of xhii clipped into its range: 3 at redshift 9, 2 at redshift 7.5\n"
    empty = "cells of n_igm that are zero: 4 at redshift 8\n"
    shown = CliRunner().invoke(ionstore, ["info", str(tmp_path / "cubes.zarr")])
    for said in (result.stdout, shown.stdout):
        assert clipped in said
        assert empty in said


def test_the_store_defaults_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "sim")
    monkeypatch.chdir(tmp_path)
    result = _run("sim")
    assert result.exit_code == 0, result.output
    assert CubeStore.open("cubes.zarr").redshifts == (9.0, 7.5)
    assert result.stderr.count("Note: ") == 1
    assert "Note: the box length is unknown" in result.stderr


def test_the_working_folder_can_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "sim")
    assert _run(tmp_path / "sim", tmp_path / "cubes.zarr").exit_code == 0
    monkeypatch.chdir(tmp_path / "cubes.zarr")
    refused = _run("../sim", ".", "--box-length", "20")
    assert refused.exit_code == 1
    assert ".: already exists" in refused.stderr
    result = _run("../sim", ".", "--box-length", "20", "--overwrite")
    os.chdir(tmp_path / "cubes.zarr")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(".: 8³ cells, box 20 cMpc")
    assert "enter it again" in result.stderr
    assert CubeStore.open(".").mesh.box_length_cmpc == 20.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cubes.zarr", "sim"]


def test_a_link_names_the_store_that_is_replaced(tmp_path: Path) -> None:
    write_set(tmp_path / "sim")
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.zarr").symlink_to(tmp_path / "disk" / "cubes.zarr")
    for options in ([], ["--box-length", "20", "--overwrite"]):
        result = _run(tmp_path / "sim", tmp_path / "link.zarr", *options)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "link.zarr").is_symlink()
    assert CubeStore.open(tmp_path / "disk" / "cubes.zarr").mesh.box_length_cmpc == 20.0
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["cubes.zarr"]


def test_options_reach_the_store(tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 12)
    SimulationDescription(box_length_cmpc=20.0).write(tmp_path / "sim")
    np.save(tmp_path / "sim" / "nsrc_z9.000.npy", np.full((12, 12, 12), 0.5))
    result = _run(
        tmp_path / "sim",
        tmp_path / "cubes.zarr",
        *("--box-length", "21", "--keep-bits", "n_igm=5", "--n-src-unit", "Msun"),
    )
    assert result.exit_code == 0, result.output
    store = CubeStore.open(tmp_path / "cubes.zarr")
    assert store.mesh.box_length_cmpc == 21.0
    assert store.units("n_src") == "Msun"
    assert (store.read_field("n_igm", 9.0).view("u4") & (2**18 - 1) == 0).all()
    assert "Note: box length (cMpc): 21.0" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["none"], 2, "does not exist"),
        (["sim", "--box-length", "0"], 2, "--box-length"),
        (["sim", "--box-length", "nan"], 2, "finite"),
        (["sim", "--box-length", "0/h"], 2, "--box-length"),
        (["sim", "--box-length", "500/H"], 2, "expected cMpc such as 714.3, or cMpc/h such as"),
        (["sim", "--box-length", "/h"], 2, "--box-length"),
        (["sim", "--h", "nan"], 2, "finite"),
        (["sim", "--keep-bits", "10"], 2, "n_igm=10"),
        (["sim", "--keep-bits", "n_src=10"], 1, "keep_bits must name a field stored as floats"),
        (["sim", "--without", "xhii", "--map", "xhii=sim"], 1, "give one of them"),
        (["sim", "--without", "n_src", "--without", "n_igm"], 1, "must hold n_igm or n_src"),
        (["sim", "--without", "temperature"], 2, "'n_igm', 'n_src', 'xhii'"),
        (["sim", "sim"], 1, "sim: already exists and is no store of ionstore"),
        (["sim", "sim", "--append"], 1, "sim: already exists and is no store of ionstore"),
        (["sim", "sim", "--overwrite"], 1, "sim: already exists and is no store of ionstore"),
        (["empty"], 1, "expected files such as"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    exit_code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "sim")
    (tmp_path / "empty").mkdir()
    result = _run(*arguments)
    assert result.exit_code == exit_code
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "sim"]


# Slow: the first test here waits for the process that forks commands, which imports torch.
def test_a_killed_ingest_goes_on_and_ends_the_same(commands: CommandServer, tmp_path: Path) -> None:
    redshifts = ("12.000", "11.000", "10.000", "9.000", "8.000", "7.000")
    write_set(tmp_path / "sim", 40, redshifts)
    options = ("--box-length", "20")
    arguments = (tmp_path / "sim", tmp_path / "cubes.zarr", *options)
    with _stopped_after(commands, 3, *arguments) as command:
        command.kill()
    assert command.wait()[0] == -signal.SIGKILL
    assert not (tmp_path / "cubes.zarr").exists()

    result = _run(*arguments)
    assert result.exit_code == 0, result.output
    assert re.search(r"Note: resuming: \d+ of 18 parts are there already", result.stderr)
    assert not (tmp_path / "cubes.zarr.partial").exists()
    assert _run(tmp_path / "sim", tmp_path / "whole.zarr", *options).exit_code == 0
    one, other = files_of(tmp_path / "cubes.zarr"), files_of(tmp_path / "whole.zarr")
    assert _without_identity(dict(one)) == _without_identity(dict(other))


@pytest.mark.process
def test_notes_stand_on_lines_of_their_own_above_a_live_bar(tmp_path: Path) -> None:
    write_set(tmp_path / "sim")
    np.save(tmp_path / "sim" / "movie.npy", np.zeros(1))
    terminal, end = os.openpty()
    process = subprocess.Popen(
        [*COMMAND, "ingest", tmp_path / "sim", tmp_path / "cubes.zarr"],
        stdout=subprocess.DEVNULL,
        stderr=end,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(end)
    shown = b""
    with suppress(OSError):  # what Linux says at the end of a terminal
        while piece := os.read(terminal, 1 << 16):
            shown += piece
    os.close(terminal)
    assert process.wait() == 0, shown
    assert b"\xe2\x94\x81" in shown  # the bar is there
    before = re.findall(rb"(.{4})Note: ", shown, re.DOTALL)
    assert len(before) == 2, shown
    assert all(bytes_.endswith((b"\x1b[2K", b"\n")) for bytes_ in before), shown


def test_an_interrupt_is_answered_in_one_sentence(commands: CommandServer, tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 16, ("10.000", "9.000", "8.000", "7.000"))
    arguments = (tmp_path / "sim", tmp_path / "cubes.zarr", "--box-length", "20")
    with _stopped_after(commands, 2, *arguments) as command:
        os.kill(command.pid, signal.SIGINT)  # seen when it goes on
        exit_code, err = go_on(command)
    assert exit_code == 130
    kept = "run the same command again, which keeps the parts that were written"
    assert err.splitlines()[-1] == f"Stopped; {kept}."
    assert "Traceback" not in err
    result = _run(*arguments)
    assert "resuming" in result.stderr


def test_an_interrupt_before_anything_was_written_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "sim")

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ionstore.ingest.survey.find_contradictions", interrupted)
    result = _run(tmp_path / "sim", tmp_path / "cubes.zarr")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "Stopped; nothing was written yet."
    assert [path.name for path in tmp_path.iterdir()] == ["sim"]


def test_append_and_overwrite_do_not_go_together(tmp_path: Path) -> None:
    write_set(tmp_path / "sim")
    result = _run(tmp_path / "sim", tmp_path / "cubes.zarr", "--append", "--overwrite")
    assert result.exit_code == 2
    assert "give one of them" in result.stderr


def test_a_dry_run_tells_of_a_store_that_is_there(tmp_path: Path) -> None:
    write_set(tmp_path / "sim")
    assert _run(tmp_path / "sim", tmp_path / "cubes.zarr").exit_code == 0
    result = _run(tmp_path / "sim", tmp_path / "cubes.zarr", "--dry-run")
    assert result.exit_code == 1
    assert "already exists; choose another store or give --overwrite" in result.stderr
    assert "leave out --dry-run" not in result.stdout
    again = _run(tmp_path / "sim", tmp_path / "cubes.zarr", "--dry-run", "--overwrite")
    assert again.exit_code == 0
    (tmp_path / "file.zarr").write_text("mine")
    other = _run(tmp_path / "sim", tmp_path / "file.zarr", "--dry-run", "--overwrite")
    assert "is no store of ionstore, so it is not touched" in other.stderr


def test_two_ingests_into_one_store_do_not_meet(commands: CommandServer, tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 40, ("10.000", "9.000", "8.000", "7.000"))
    with _stopped_after(commands, 1, tmp_path / "sim", tmp_path / "cubes.zarr") as command:
        second = _run(tmp_path / "sim", tmp_path / "cubes.zarr")
        exit_code, err = go_on(command)
    assert exit_code == 0, err
    assert second.exit_code == 1
    assert "another process is building or editing this store" in second.stderr
    assert CubeStore.open(tmp_path / "cubes.zarr").redshifts == (10.0, 9.0, 8.0, 7.0)


def test_every_key_of_the_description_is_documented() -> None:
    page = CliRunner().invoke(ionstore, ["ingest", "--help"]).stdout
    pages = (ROOT / "docs" / "data.md").read_text()
    for key in (*SimulationDescription.model_fields, *Cosmology.__dataclass_fields__):
        assert re.search(rf"\b{key}\b", page), key
        assert re.search(rf"`{key}`", pages), key


@pytest.mark.process
@pytest.mark.parametrize("command", ["ingest", "info", "view", "edit"])
def test_help_shows_an_example_and_waits_for_nothing(command: str) -> None:
    script = (
        "import sys; from ioncli.main import ionstore\n"
        f"try: ionstore(['{command}', '--help'])\n"
        "finally: print(*{'zarr', 'torch', 'numba', 'numpy', 'dask'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert f"  ionstore {command} " in done.stdout
    assert done.stdout.splitlines()[-1] == ""


def test_a_dry_run_shows_what_was_found_and_writes_nothing(tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 16)
    (tmp_path / "sim" / "movie.npy").write_bytes((tmp_path / "sim" / "rho_z9.000.npy").read_bytes())
    result = _run(tmp_path / "sim", tmp_path / "cubes.zarr", "--dry-run", "--h", "0.7")
    assert result.exit_code == 0, result.output
    head, n_igm, n_src, xhii, known, end = result.stdout.splitlines()
    assert head.split()[:3] == ["field", "redshifts", "format"]
    found = r"9, 7\.5 +three-file-set +{}_z9\.000\.npy and 1 more +16³ +float32 +{} +{}"
    density = found.format(
        "rho", "gas density in g/cm3", r"g cm-3 \(frame guessed from the mean density\)"
    )
    sources = found.format("nsrc", "sources, unit unknown", r"1 \(counts\) or unknown")
    assert re.fullmatch(rf" +n_igm +{density}", n_igm)
    assert re.fullmatch(rf" +n_src +{sources}", n_src)
    assert re.fullmatch(rf" +xhii +{found.format('xHII', 'ionized fraction', '1')}", xhii)
    assert known == "known: h = 0.7"
    assert end == "nothing was read or written: leave out --dry-run to ingest"
    assert result.stderr == "Note: ignored files: movie.npy\n"
    assert [path.name for path in tmp_path.iterdir()] == ["sim"]


def test_a_dry_run_says_all_that_an_ingest_would_be_refused_for(tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 4)
    (tmp_path / "sim" / "rho_z7.500.npy").unlink()
    shutil.copy(tmp_path / "sim" / "xHII_z9.000.npy", tmp_path / "sim" / "xHII_z9.0.npy")
    result = _run(tmp_path / "sim", tmp_path / "cubes.zarr", "--dry-run")
    assert result.exit_code == 1
    assert result.stdout.count("three-file-set") == 4
    twice, missing = result.stderr.splitlines()
    assert twice.startswith("Error: ")
    assert "xhii at redshift 9 is there twice" in twice
    assert "Error: " in missing
    assert "rho_z7.500.npy is missing" in missing
    refused = _run(tmp_path / "sim", tmp_path / "cubes.zarr")
    assert (refused.exit_code, refused.stderr) == (1, f"{twice}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["sim"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--append"], "redshift 9 is in .* already"),
        (["--append", "--redshift", "6", "--box-length", "21"], "20 cMpc of .*, got 21 cMpc"),
        (["--append", "--redshift", "6", "--h", "0.6"], "h 0.7, got 0.6"),
        (["--redshift", "6", "--keep-bits", "n_igm=0"], "between 1 and 23, got 0"),
    ],
)
def test_a_dry_run_sees_what_does_not_fit_the_store(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    write_set(tmp_path / "sim", 4, ("9.000", "6.000"))
    given = ("--box-length", "20", "--h", "0.7")
    store = tmp_path / "cubes.zarr"
    assert _run(tmp_path / "sim", store, *given, "--redshift", "9").exit_code == 0
    result = _run(tmp_path / "sim", store, "--dry-run", *arguments)
    assert result.exit_code == 1
    assert re.search(said, result.stderr)
    fitting = _run(tmp_path / "sim", store, "--dry-run", "--append", "--redshift", "6")
    assert fitting.exit_code == 0, fitting.output


def test_a_dry_run_sees_meshes_that_differ(tmp_path: Path) -> None:
    cubes = write_set(tmp_path / "sim", 4)
    np.save(tmp_path / "sim" / "xHII_z9.000.npy", cubes["9.000"]["xhii"][:3, :3, :3])
    result = _run(tmp_path / "sim", tmp_path / "cubes.zarr", "--dry-run")
    assert result.exit_code == 1
    assert "expected the shape (4, 4, 4)" in result.stderr
    assert "Traceback" not in result.output


def test_an_ingest_says_in_a_line_what_each_field_is_made_of(tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 16)
    result = _run(tmp_path / "sim", tmp_path / "cubes.zarr", "--box-length", "20")
    assert result.stderr.splitlines()[:3] == [
        "n_igm: rho_z9.000.npy and 1 more (three-file-set): gas density in g/cm3 → "
        "g cm-3 (frame guessed from the mean density)",
        "n_src: nsrc_z9.000.npy and 1 more (three-file-set): sources, unit unknown → "
        "1 (counts) or unknown",
        "xhii: xHII_z9.000.npy and 1 more (three-file-set): ionized fraction → 1",
    ]


def test_a_file_in_place_of_the_folder_is_answered_with_the_way_on(tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 4)
    path = tmp_path / "sim" / "rho_z9.000.npy"
    result = _run(path, tmp_path / "cubes.zarr")
    assert result.exit_code == 2
    assert f"{path} is a file; give the folder that holds it" in " ".join(result.stderr.split())


def test_fields_are_taken_from_where_the_user_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "sim", 4)
    other = write_set(tmp_path / "other", 4, ("9.000", "8.000"))
    monkeypatch.chdir(tmp_path)
    result = _run("sim", *("--map", "n_src=other/nsrc*.npy", "--redshift", "9"))
    assert result.exit_code == 0, result.output
    store = CubeStore.open("cubes.zarr")
    assert store.redshifts == (9.0,)
    np.testing.assert_array_equal(store.read_field("n_src", 9.0), other["9.000"]["n_src"])
    recorded = [(one.folder, one.name, one.fields) for one in store.attributes.sources]
    assert recorded == [
        ("other", "nsrc_z9.000.npy", ("n_src",)),
        ("sim", "rho_z9.000.npy", ("n_igm",)),
        ("sim", "xHII_z9.000.npy", ("xhii",)),
    ]


def test_a_folder_of_c2ray_is_ingested_in_units_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    grid_masses, xhii = rng.lognormal(size=(2, 6, 6, 6))
    sizes = np.full(3, 6, "<i4").tobytes()
    for folder in ("density", "sources", "results"):
        (tmp_path / "sim" / folder).mkdir(parents=True)
    values = (grid_masses / grid_masses.mean() * (60 / 6) ** 3).astype("<f4")
    (tmp_path / "sim/density/8.700n_all.dat").write_bytes(sizes + values.tobytes(order="F"))
    xhii = xhii / xhii.max()
    (tmp_path / "sim/results/xfrac_z8.700.dat").write_bytes(sizes + xhii.tobytes(order="F"))
    for name in ("all", "used"):
        path = tmp_path / f"sim/sources/8.700-{name}_sources.dat"
        path.write_text("2\n1 2 3 10.0 1.5\n6 6 6 20.0 2.5\n")
    monkeypatch.chdir(tmp_path)
    refused = _run("sim")
    assert refused.exit_code == 1
    assert "n_src at redshift 8.7 is there twice" in refused.stderr
    chosen = ("--map", "n_src=sim/sources/*-used_sources.dat", "--source-column", "5")
    refused = _run("sim", *chosen)
    assert refused.exit_code == 1
    assert "give --box-length, --h, --omega-m, --omega-b and --n-box" in refused.stderr
    known = ("--box-length", "100", "--h", "0.7", "--omega-m", "0.27", "--omega-b", "0.044")
    result = _run("sim", *chosen, *known, "--n-box", "60")
    assert result.exit_code == 0, result.output
    store = CubeStore.open("cubes.zarr")
    assert (store.frame, store.units("n_src"), store.redshifts) == ("comoving", "Msun", (8.7,))
    critical = 1.87834e-29 * 0.49
    expected = values.astype("f8") * critical * 0.044 * (6 / 60) ** 3
    np.testing.assert_allclose(store.read_field("n_igm", 8.7), expected, rtol=1e-4)
    np.testing.assert_array_equal(store.read_field("xhii", 8.7), xhii.astype("f4"))
    n_src = store.read_field("n_src", 8.7)
    grid_mass = 0.27 * 2.77536627e11 * 0.49 * (100 / 60) ** 3
    assert n_src[0, 1, 2] == pytest.approx(1.5 * grid_mass, rel=1e-4)
    assert n_src[5, 5, 5] == pytest.approx(2.5 * grid_mass, rel=1e-4)
    assert np.count_nonzero(n_src) == 2
    assert [file.name for file in store.attributes.sources] == [
        "density/8.700n_all.dat",
        "results/xfrac_z8.700.dat",
        "sources/8.700-used_sources.dat",
    ]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["--map", "n_src"], 2, "n_src=sim/sources"),
        (["--map", "rho=sim"], 2, "fields are n_igm, n_src, xhii"),
        (["--map", "n_src=none"], 1, "none: expected a file, a folder or a pattern"),
        (["--map", "n_src=sim/rho_z9.000.npy"], 1, "n_src was expected here, found n_igm"),
        (["--format", "hdf5"], 1, "the format must be one of 21cmfast-v4, "),
        (["--format", "c2ray"], 1, "(its format is three-file-set, which --format leaves out)"),
        (["--redshift", "nan"], 2, "finite"),
        (["--redshift", "3"], 1, "redshift 3 is wanted, but no file has it; found 9, 7.5"),
        (["--source-column", "3"], 2, "--source-column"),
        (["--omega-m", "0"], 2, "--omega-m"),
        (["--omega-b", "44"], 2, "--omega-b"),
        (["--n-box", "0"], 2, "--n-box"),
    ],
)
def test_wrong_choices_are_answered_in_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    exit_code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "sim", 4)
    for dry_run in ([], ["--dry-run"]):
        result = _run("sim", *arguments, *dry_run)
        assert result.exit_code == exit_code
        assert said in result.stderr
        assert "Traceback" not in result.output
        assert [path.name for path in tmp_path.iterdir()] == ["sim"]
