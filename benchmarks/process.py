"""Run a script in a process of its own, and watch the memory of all its processes."""

import subprocess
import sys
import tempfile
from pathlib import Path

from ioncli.process_memory import PeakMemory


def peak_of_script(code: str, *arguments: str) -> int:
    """Return the peak PSS of a script and its children; a file, so that workers can import it."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "script.py"
        script.write_text(code)
        return peak_of([sys.executable, str(script), *arguments])


def peak_of(command: list[str]) -> int:
    process = subprocess.Popen(command, stdout=sys.stderr)
    with PeakMemory(process.pid, interval_s=0.05) as memory:
        status = process.wait()
    if status != 0:
        raise SystemExit(f"{' '.join(command)} ended with {status}")
    return memory.peak_bytes


def output_of_script(code: str, *arguments: str) -> str:
    """Return what a script prints; a file, so that workers can import it."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "script.py"
        script.write_text(code)
        command = [sys.executable, str(script), *arguments]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
