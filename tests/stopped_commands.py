"""Commands that stop themselves in mid-run, at a moment that does not depend on the machine."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SCRIPT = Path(__file__).parent / "ioncli" / "stopping_command.py"


@contextmanager
def stopped(when: Sequence[str], *arguments: str | Path) -> Iterator["subprocess.Popen[str]"]:
    """Run a command of ionstore until it stops itself; it is killed at the end if it still runs.

    Parameters
    ----------
    when : sequence of four str
        Module, class, method, and after how many calls of it.
    arguments
        The command.
    """
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(SCRIPT), *when, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            state = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            assert state is not None
            assert state.si_code == os.CLD_STOPPED, "it ended before it could be stopped"
            yield process
        finally:
            process.kill()
