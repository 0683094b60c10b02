import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from ioncli.main import ionstore
from ionstore.readers import READERS


def test_every_format_is_listed_with_its_files() -> None:
    result = CliRunner().invoke(ionstore, ["formats"])
    assert result.exit_code == 0, result.output
    head, *rows = result.stdout.splitlines()
    assert head.split() == ["format", "files"]
    assert len(rows) == len(READERS)
    for reader, row in zip(READERS, rows, strict=True):
        assert re.fullmatch(rf"  {re.escape(reader.name)}  +{re.escape(reader.description)}", row)


def test_names_of_formats_are_unique_and_descriptions_are_one_line() -> None:
    assert len({reader.name for reader in READERS}) == len(READERS)
    assert not any("\n" in reader.description for reader in READERS)


@pytest.mark.process
def test_help_shows_an_example_and_waits_for_nothing() -> None:
    script = (
        "import sys; from ioncli.main import ionstore\n"
        "try: ionstore(['formats', '--help'])\n"
        "finally: print(*{'zarr', 'torch', 'numba', 'numpy', 'h5py'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "  ionstore formats\n" in done.stdout
    assert done.stdout.splitlines()[-1] == ""
