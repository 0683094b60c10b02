"""Print one JSON line per case of a benchmark, with the machine and the versions."""

import importlib.metadata
import json
import os
import platform
import resource
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

_PACKAGES = ("ionstore", "numpy", "numba", "numcodecs", "zarr", "torch")

_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def print_result(case: str, *, packages: Sequence[str] = (), **numbers: object) -> None:
    """Print one case, with the versions of these packages too, as far as they are installed.

    The resident peak is that of the process that prints.
    """
    line = {
        "case": case,
        **numbers,
        "peak_resident_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT / 1e6),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {cpu_name()}, {os.cpu_count()} cores",
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES}
        | {name: _version(name) for name in packages},
    }
    print(json.dumps(line), flush=True)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def median_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the median and half the range between the quartiles."""
    if len(values) < 2:
        return values[0], 0.0
    low, median, high = statistics.quantiles(values, n=4)
    return median, (high - low) / 2


def cpu_name() -> str:
    """Return what the system calls its processor."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
