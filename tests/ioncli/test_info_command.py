import json
import re
from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result

from ioncli.main import ionstore
from ionstore.cube import Array
from ionstore.description import SimulationDescription
from ionstore.ingest import ingest_cubes
from tests.three_file_sets import write_set


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


def test_what_is_no_store_is_named(tmp_path: Path) -> None:
    result = _run(tmp_path)
    assert result.exit_code == 1
    assert "expected a store made by ionstore" in result.stderr
    assert "Traceback" not in result.output
