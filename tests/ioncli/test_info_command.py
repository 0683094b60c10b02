import json
import re
from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result

from ioncli.main import ionstore
from ionstore.build.folder import FolderBuild
from ionstore.build.store_writer import StoredField, create_store
from ionstore.cube.description import SimulationDescription
from ionstore.cube.mesh import Array, Mesh
from ionstore.cube.statistics import FieldStatistics
from ionstore.info import take_inventory
from ionstore.ingest.ingest import ingest_cubes
from ionstore.ingest.selection import FileSelection
from ionstore.store.cube_store import CubeStore
from tests.support.three_file_sets import write_set


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(ionstore, ["info", *map(str, arguments)])


def _store(folder: Path) -> tuple[Path, dict[str, dict[str, Array]]]:
    cubes = write_set(folder / "sim", 16)
    ingest_cubes(
        folder / "sim",
        folder / "cubes.zarr",
        given=SimulationDescription(box_length_cmpc=20.0),
        command_line="made",
    )
    return folder / "cubes.zarr", cubes


def test_people_read_fields_statistics_and_sources(tmp_path: Path) -> None:
    path, cubes = _store(tmp_path)
    result = _run(path)
    assert result.exit_code == 0, result.output
    out = result.stdout
    assert "16³ cells, box 20 cMpc, cell 1.25 cMpc" in out
    mean = f"{cubes['7.500']['n_src'].mean(dtype='f8'):.5g}"
    assert re.search(rf"n_src +9 .*\n +7\.5 +{re.escape(mean)} ", out)
    assert re.search(r"xHII_z7\.500\.npy +16\.5 kB +xxh3_128:", out)
    assert "chunks of 16³ cells in shards of up to 16³" in out
    assert re.search(r"sim/xHII_z7\.500\.npy .* xhii at 7\.5\n", out)
    assert "made by: made" in out


def test_an_inventory_is_taken_of_a_store_or_its_path(tmp_path: Path) -> None:
    path, _ = _store(tmp_path)
    assert take_inventory(str(path)) == take_inventory(CubeStore.open(path))


def test_all_commands_that_made_a_store_are_shown(tmp_path: Path) -> None:
    path, _ = _store(tmp_path)
    write_set(tmp_path / "more", 16, ("6.000",))
    ingest_cubes(tmp_path / "more", path, append=True, command_line="added")
    assert "made by: made\nmade by: added\n" in _run(path).stdout
    told = json.loads(_run(path, "--json").stdout)
    assert (told["earlier_command_lines"], told["command_line"]) == (["made"], "added")


def test_programs_read_json(tmp_path: Path) -> None:
    path, cubes = _store(tmp_path)
    result = _run(path, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["mesh_cells"] == 16
    assert told["box_length_cmpc"] == 20.0
    assert told["redshifts"] == [9.0, 7.5]
    assert told["density_frame"] == "proper"
    xhii = told["fields"]["xhii"]
    assert (xhii["dtype"], xhii["units"]) == ("float32", "1")
    np.testing.assert_allclose(
        xhii["statistics"][1]["mean"], cubes["7.500"]["xhii"].mean(dtype="f8"), rtol=1e-12
    )
    assert xhii["uncompressed_bytes"] == 2 * 4 * 16**3
    on_disk = sum(file.stat().st_size for file in (path / "xhii").rglob("*") if file.is_file())
    assert xhii["stored_bytes"] == on_disk
    assert len(told["sources"]) == 6


def test_a_store_says_which_fields_it_lacks_and_what_that_means(tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 8)
    files = FileSelection(without=["n_src", "xhii"])
    ingest_cubes(tmp_path / "sim", tmp_path / "cubes.zarr", files)
    out = _run(tmp_path / "cubes.zarr").stdout
    assert "\nno n_src: serves networks that do not see it\nno xhii: can be predicted, not" in out
    assert "no n_igm" not in out
    whole, _ = _store(tmp_path / "whole")
    assert "no " not in _run(whole).stdout


def test_a_predicted_store_lacks_nothing(tmp_path: Path) -> None:
    field = StoredField("xhii_predicted", "float32", "1")
    writer = create_store(tmp_path / "predicted.zarr", Mesh(4), [9.0], [field])
    values = np.full((4, 4, 4), 0.5, "f4")
    writer.shards.write_block("xhii_predicted", 0, (0, 0, 0), values)
    writer.finalize({"xhii_predicted": [FieldStatistics.of(values)]})
    result = _run(tmp_path / "predicted.zarr")
    assert result.exit_code == 0, result.output
    assert "xhii_predicted" in result.stdout
    assert "no xhii:" not in result.stdout


def test_an_unfinished_build_says_which_command_goes_on(tmp_path: Path) -> None:
    for plan, command in (
        ({}, "ingest or edit"),
        ({"ingest": {}}, "ingest"),
        ({"prediction": {}}, "`ionmodel predict`"),
    ):
        with FolderBuild(tmp_path / "cubes.zarr") as build:
            build.begin({"uuid": "some", **plan})
            create_store(build.store_path, Mesh(4), [9.0], [StoredField("n_igm", "float32", "1")])
        for path in (tmp_path / "cubes.zarr", build.folder, build.store_path):
            result = _run(path)
            assert result.exit_code == 1
            assert f"run the same {command} again" in result.stderr, result.stderr


def test_what_is_no_store_is_named(tmp_path: Path) -> None:
    result = _run(tmp_path)
    assert result.exit_code == 1
    assert "expected a store made by ionstore" in result.stderr
    assert "Traceback" not in result.output
