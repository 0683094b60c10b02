"""Kill builds at random moments: run as a script, it prints what came of each kill as JSON.

    python kill_campaign.py SIM OTHER_REDSHIFTS FOLDER KILLS SEED

Processes are forked from one that has imported everything and has no threads: each begins at once,
and is killed at a moment drawn from the time that a build takes.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import dask.delayed  # noqa: F401
import xarray as xr
import zarr.codecs  # noqa: F401

from ionstore.ingest import ingest_cubes
from ionstore.store import CubeStore

CUT = {"max_shard_cells": 8, "chunk_cells": 4, "box_length_cmpc": 20.0}


def in_process(action: Callable[[], object], *, kill_after_s: float | None = None) -> int:
    """Run an action in a process of its own; return its exit status, negative if it was killed."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def contents(store: Path) -> dict[str, object]:
    """All that a store holds, but for its name for good."""
    files: dict[str, object] = {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }
    root = json.loads((store / "zarr.json").read_text())
    del root["attributes"]["ionstore"]["uuid"]
    return {**files, "zarr.json": root}


def redshifts_seen(store: Path) -> None:
    """Print the redshifts that readers see; runs in a process of its own."""
    with xr.open_zarr(store) as dataset:
        seen = dataset["redshift"].values.tolist()
        assert dataset["xhii"].isel(redshift=-1).values.max() <= 1
    assert list(CubeStore.open(store).redshifts) == seen
    store.with_suffix(".seen").write_text(json.dumps(seen))


def main() -> None:
    sim, other, folder = map(Path, sys.argv[1:4])
    n_kills, seed = map(int, sys.argv[4:])
    draw = random.Random(seed)
    first, both = folder / "first.zarr", folder / "both.zarr"
    assert in_process(lambda: ingest_cubes(sim, first, **CUT)) == 0
    shutil.copytree(first, both)
    assert in_process(lambda: ingest_cubes(other, both, append=True)) == 0
    whole = {"ingest": contents(first), "append": contents(both)}
    for kind in ("ingest", "append"):
        target = folder / "cubes.zarr"

        def build(kind: str = kind, target: Path = target) -> None:
            if kind == "ingest":
                ingest_cubes(sim, target, **CUT)
            else:
                ingest_cubes(other, target, append=True)

        def begin(kind: str = kind, target: Path = target) -> None:
            for path in (target, target.with_name("cubes.zarr.partial")):
                shutil.rmtree(path, ignore_errors=True)
            if kind == "append":
                shutil.copytree(first, target)

        began = time.perf_counter()
        begin()
        assert in_process(build) == 0
        takes_s = time.perf_counter() - began
        for _ in range(n_kills):
            begin()
            status = in_process(build, kill_after_s=draw.uniform(0, 1.1 * takes_s))
            seen: list[float] | None = None
            if target.exists():
                assert in_process(partial(redshifts_seen, target)) == 0
                seen = json.loads(target.with_suffix(".seen").read_text())
            parts = target.with_name("cubes.zarr.partial") / "parts"
            n_parts = len(list(parts.glob("*.json"))) if parts.exists() else 0
            resumed = None
            if status != 0:
                # A build that was killed after the swap finds its redshifts there already.
                resumed = in_process(build) if seen is None or kind == "append" else 0
            print(  # noqa: T201 - what came of it, for the test
                json.dumps(
                    {
                        "kind": kind,
                        "status": status,
                        "n_parts": n_parts,
                        "seen": seen,
                        "resumed": resumed,
                        "same": contents(target) == whole[kind],
                        "left": sorted(path.name for path in folder.glob("cubes.zarr.partial/*")),
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
