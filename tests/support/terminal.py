"""A terminal for commands that draw in one."""

import os
import pty
import subprocess
import sys
import termios

ENVIRONMENT = ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES")
"""Variables that change what is drawn."""


def run_in_terminal(code: str, *arguments: str, columns: int = 80) -> str:
    """Run Python code whose standard error is a terminal; return what the terminal got."""
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, columns))
    environment = {key: value for key, value in os.environ.items() if key not in ENVIRONMENT}
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        stdin=terminal,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        env={**environment, "TERM": "xterm-256color"},
    ) as process:
        os.close(terminal)
        output = b""
        while chunk := _read(main):
            output += chunk
        os.close(main)
    assert process.returncode == 0, output.decode()
    return output.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # how Linux says that the other side is closed
        return b""
