from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from matplotlib.image import imread

from ioncli.main import ionstore
from ionstore.store.cube_store import CubeStore
from tests.support.stores import cubes_at, write_store


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(ionstore, ["view", *map(str, arguments)])


@pytest.mark.parametrize("field", ["n_igm", "n_src", "xhii"])
def test_a_slice_is_drawn(tmp_path: Path, small_store: CubeStore, field: str) -> None:
    image = tmp_path / "slice.png"
    result = _run(small_store.path, "--field", field, "--redshift", "7.5", "-o", image)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"Wrote {image}\n"
    pixels = imread(image)
    assert min(pixels.shape[:2]) > 800
    assert pixels[..., :3].std() > 0.1


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        (("n_igm", "n_src", "xhii"), "xhii"),
        (("n_igm", "n_src"), "n_igm"),
        (("n_src",), "n_src"),
        (("xhii_predicted",), "xhii_predicted"),
    ],
)
def test_without_a_name_the_ionized_fraction_or_what_there_is_is_shown(
    tmp_path: Path, fields: tuple[str, ...], shown: str
) -> None:
    cubes = cubes_at(8, [9.0])
    cubes["xhii_predicted"] = cubes["xhii"]
    store = write_store(tmp_path / "cubes.zarr", {name: cubes[name] for name in fields}, [9.0])
    result = _run(store.path, "-o", tmp_path / "default.png")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"Wrote {tmp_path / 'default.png'} ({shown})\n"
    assert _run(store.path, "--field", shown, "-o", tmp_path / "named.png").exit_code == 0
    np.testing.assert_array_equal(imread(tmp_path / "default.png"), imread(tmp_path / "named.png"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--redshift must be one of 9, 7.5, got none"),
        (["--redshift", "8"], "redshift must be one of 9, 7.5"),
        (["--redshift", "9", "--field", "rho"], "field must be one of n_igm, n_src, xhii"),
        (["--redshift", "9", "--index", "12"], "index must be between 0 and 11, got 12"),
        (["--redshift", "9", "-o", "slice.doc"], "suffix must be one of"),
        (["--redshift", "9", "-o", "nowhere/slice.png"], "nowhere/slice.png"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_store: CubeStore,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = _run(small_store.path, *arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert "Traceback" not in result.output
