"""Progress of a long call: a bar in a terminal, lines anywhere else."""

import pytest

from ioncli.progress import progress_bar
from tests.support.terminal import ENVIRONMENT, run_in_terminal

SHOW = """
import sys
from ioncli.progress import progress_bar
with progress_bar(sys.argv[1]) as reporter:
    for done in range(5):
        reporter.progress(done, 4)
"""
LONG = "Ingesting " + "a_long_name_of_a_simulation_" * 10
ODD = "Ingesting run[bold]-{task}-:cat:"


@pytest.fixture(autouse=True)
def _no_terminal_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ENVIRONMENT:
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.process
def test_a_terminal_shows_a_bar_that_fills() -> None:
    output = run_in_terminal(SHOW, "Simulating")
    assert "\x1b[" in output
    last = output.split("\x1b[2K")[-1]  # what the line held when it was cleared no more
    assert last.startswith("Simulating")
    assert "━━━━" in last
    assert "100%" in last


@pytest.mark.process
def test_a_bar_stays_on_its_line() -> None:
    output = run_in_terminal(SHOW, "Simulating", columns=60)
    assert output.count("\n") == 1


def test_other_outputs_get_a_line_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("Simulating") as reporter:
        for done in range(1001):
            reporter.progress(done, 1000)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [f"Simulating: {10 * n} %" for n in range(11)]
    assert captured.out == ""


def test_tenths_that_were_skipped_are_not_made_up(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("Simulating") as reporter:
        for done in (0, 1, 2, 2, 3):
            reporter.progress(done, 3)
    assert capsys.readouterr().err.splitlines() == [f"Simulating: {n} %" for n in (0, 30, 60, 100)]


def test_nothing_to_do_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("Simulating") as reporter:
        reporter.progress(0, 0)
    assert capsys.readouterr().err == "Simulating: 0 %\n"


@pytest.mark.parametrize("title", [LONG, ODD], ids=["long", "odd"])
def test_lines_hold_the_whole_title_unwrapped_and_uncolored(
    title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar(title) as reporter:
        reporter.progress(1, 1)
    assert capsys.readouterr().err == f"{title}: 100 %\n"


@pytest.mark.process
def test_a_bar_shows_an_odd_title_as_it_is() -> None:
    assert ODD in run_in_terminal(SHOW, ODD)


@pytest.mark.process
def test_bars_of_later_stages_show_once_they_are_reported_to() -> None:
    code = """
import sys
from ioncli.progress import progress_bar
with progress_bar("First") as reporter:
    reporter.stage("Never")
    reporter.stage("Later")
    for done in range(3):
        reporter.progress(done, 2)
    reporter.stage("First")
    reporter.progress(1, 1)
"""
    output = run_in_terminal(code)
    assert "First" in output
    assert "Later" in output
    assert "Never" not in output
    last = output.split("\x1b[2K")[-1]
    assert last.count("First") == 1  # a stage that comes again goes on with its bar
