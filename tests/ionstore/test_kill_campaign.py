"""Whenever a build is killed, nothing is lost, nothing half looks whole, and it can go on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.three_file_sets import write_set

CAMPAIGN = Path(__file__).parent / "kill_campaign.py"
KILLS = 50
OLD, NEW = ["9.000", "8.000"], ["8.500", "7.000"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_builds_killed_at_random_moments_are_whole_when_resumed(tmp_path: Path) -> None:
    write_set(tmp_path / "sim", 16, OLD)
    write_set(tmp_path / "other", 16, NEW)
    (tmp_path / "stores").mkdir()
    arguments = [tmp_path / "sim", tmp_path / "other", tmp_path / "stores", KILLS, 1]
    shown = subprocess.run(
        [sys.executable, str(CAMPAIGN), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert shown.returncode == 0, shown.stderr
    kills = [json.loads(line) for line in shown.stdout.splitlines()]
    for kind, before, after in (
        ("ingest", None, [9.0, 8.0]),
        ("append", [9.0, 8.0], [9.0, 8.5, 8.0, 7.0]),
    ):
        of_kind = [kill for kill in kills if kill["kind"] == kind]
        assert len(of_kind) == KILLS
        assert {tuple(kill["seen"] or ()) for kill in of_kind} <= {
            tuple(before or ()),
            tuple(after),
        }
        assert all(kill["same"] for kill in of_kind), of_kind
        # Most are killed, and many of these in the midst of the parts.
        assert sum(kill["status"] == -9 for kill in of_kind) >= KILLS // 2
        assert sum(0 < kill["n_parts"] < 48 for kill in of_kind) >= KILLS // 10
