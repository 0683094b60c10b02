import inspect
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ioncli.main import ionstore
from ioncli.simulate import simulate
from ionstore.simulate.cubes import (
    DEFAULT_REDSHIFTS,
    DEFAULT_SEED,
    MAX_REDSHIFT,
    MIN_CELLS_PER_SIDE,
)
from ionstore.simulate.files import write_simulation


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(ionstore, ["simulate", *map(str, arguments)])


def test_command_writes_cubes_and_sums_them_up(tmp_path: Path) -> None:
    out = tmp_path / "sim"
    result = _run(
        out, "--mesh", 9, "--box-length", 20, "--redshift", 7, "--redshift", 8.397, "--seed", 4
    )
    assert result.exit_code == 0, result.output
    assert np.load(out / "rho_z8.397.npy").shape == (9, 9, 9)
    lines = result.stdout.splitlines()
    assert lines[0].startswith("redshift 8.397: mean xHII 0.")
    assert "sources" in lines[0]
    assert "% of cells without one" in lines[0]
    assert str(out / "nsrc_z7.000.npy") in result.stdout
    assert lines[-1] == f"Next: ionstore ingest {out}"
    assert "100 %" in result.stderr


def test_default_is_one_cube_of_64_cells_a_side(tmp_path: Path) -> None:
    result = _run(tmp_path / "sim")
    assert result.exit_code == 0, result.output
    assert np.load(tmp_path / "sim" / "xHII_z8.397.npy").shape == (64, 64, 64)
    assert len(list((tmp_path / "sim").iterdir())) == 4


def test_a_folder_in_use_is_refused_in_one_sentence(tmp_path: Path) -> None:
    arguments = (tmp_path / "sim", "--mesh", "8", "--box-length", "20")
    assert _run(*arguments).exit_code == 0
    again = _run(*arguments)
    assert again.exit_code == 1
    assert "not empty" in again.stderr
    assert "Traceback" not in again.output
    assert _run(*arguments, "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mesh", "7"], "'--mesh'"),
        (["--box-length", "0"], "'--box-length'"),
        (["--box-length", "nan"], "finite"),
        (["--box-length", "inf"], "finite"),
        (["--redshift", "-1"], "'--redshift'"),
        (["--redshift", "nan"], "finite"),
        (["--seed", "-1"], "'--seed'"),
    ],
)
def test_bad_values_are_refused_in_one_sentence(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    result = _run(tmp_path / "sim", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "sim").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--redshift", "8.3970", "--redshift", "8.3971"], "would both be written as"),
        (["--mesh", "16", "--box-length", "1e8"], "at most 1000 cMpc wide, got 6.25e+06"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_one_sentence(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    result = _run(tmp_path / "sim", *arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "sim").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--box-length", "0.001"], "no halo fits"),
        (["--box-length", "20", "--redshift", "50", "--redshift", "45"], "by redshift 45"),
    ],
)
def test_a_box_that_does_not_reionize_is_said_to(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    result = _run(tmp_path / "sim", "--mesh", "8", *arguments)
    assert result.exit_code == 0, result.output
    line = result.stdout.splitlines()[-2]
    assert line.startswith("Nothing reionizes: ")
    assert said in line
    usual = _run(tmp_path / "usual", "--mesh", "8", "--box-length", "20")
    assert "Nothing reionizes" not in usual.stdout


def test_a_mistake_in_the_library_is_not_blamed_on_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("ionstore.simulate.files.simulate_cubes", fail)
    result = _run(tmp_path / "sim", "--mesh", "8")
    assert isinstance(result.exception, ValueError)


def test_defaults_are_those_of_the_library() -> None:
    options = {option.name: option for option in simulate.params}
    assert options["redshifts"].default == DEFAULT_REDSHIFTS
    assert options["seed"].default == DEFAULT_SEED
    assert inspect.signature(write_simulation).parameters["seed"].default == DEFAULT_SEED
    assert options["mesh"].type.min == MIN_CELLS_PER_SIDE  # type: ignore[attr-defined]
    assert options["redshifts"].type.max == MAX_REDSHIFT  # type: ignore[attr-defined]


def test_help_shows_an_example() -> None:
    result = _run("--help")
    assert "ionstore simulate sim/" in result.output
