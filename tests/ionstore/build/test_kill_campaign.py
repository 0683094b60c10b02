"""Whenever a build is killed, nothing is lost, nothing half looks whole, and it can go on."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.support.places import ROOT
from tests.support.three_file_sets import write_set

# Over a minute: each of the 100 kills takes a build, a look at the store and a resumed build.
pytestmark = [pytest.mark.process, pytest.mark.slow]

CAMPAIGN = ROOT / "tests" / "support" / "kill_campaign.py"
KILLS = 50
KILLED = -9
OLD, NEW = ["9.000", "8.000"], ["8.500"]


@pytest.fixture
def folder_in_memory(tmp_path: Path) -> Iterator[Path]:
    """A folder whose disk need not be waited for; killed processes cannot tell it from others."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_builds_killed_at_random_moments_are_whole_when_resumed(
    tmp_path: Path, folder_in_memory: Path
) -> None:
    write_set(tmp_path / "sim", 16, OLD)
    write_set(tmp_path / "other", 16, NEW)
    arguments = [tmp_path / "sim", tmp_path / "other"]
    campaigns = {}
    for kind in ("ingest", "append"):
        (folder_in_memory / kind).mkdir()
        words = [str(CAMPAIGN), kind, *arguments, folder_in_memory / kind, KILLS, 1]
        campaigns[kind] = subprocess.Popen(
            [sys.executable, *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        for kind, before, after in (
            ("ingest", None, [9.0, 8.0]),
            ("append", [9.0, 8.0], [9.0, 8.5, 8.0]),
        ):
            shown, errors = campaigns[kind].communicate(timeout=600)
            assert campaigns[kind].returncode == 0, errors
            check([json.loads(line) for line in shown.splitlines()], before, after)
    finally:
        for campaign in campaigns.values():
            campaign.kill()
            campaign.communicate()


def check(builds: list[dict[str, Any]], before: list[float] | None, after: list[float]) -> None:
    """Check what came of the builds of one kind: the redshifts seen are those before or after."""
    assert [build for build in builds if not build["same"] or build["left"]] == []
    for build in builds:
        was_killed = build["kills"][-1]["status"] == KILLED
        # What is there already is neither made nor added again.
        assert build["resumed"] == (was_killed and build["was_in_place"]), build
    runs = [run for build in builds for run in build["kills"]]
    assert all(run["seen"] in (before, after) for run in runs), runs
    kills = [run for run in runs if run["status"] == KILLED]
    # Each was resumed and compared.
    assert sum(any(run in kills for run in build["kills"]) for build in builds) >= KILLS
    # Many are killed in the midst of the parts.
    n_to_write = builds[0]["n_to_write"]
    assert sum(0 < kill["n_parts"] < n_to_write for kill in kills) >= KILLS // 5
