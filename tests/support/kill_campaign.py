"""Kill builds at random moments: run as a script, it prints what came of each kill as JSON.

    python kill_campaign.py KIND SIM OTHER_REDSHIFTS FOLDER KILLS SEED

KIND is "ingest", of SIM, or "append", of OTHER_REDSHIFTS to it. Processes are forked from one that
has imported and compiled everything and has no threads: each begins at once.
Half are killed at a moment drawn from the time that a build takes, which often falls before or
after the parts are written; half soon after a random number of parts is recorded. Every build that
was killed is resumed and compared; every fourth is killed once more while it is resumed.
"""

import gc
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import xarray as xr

from ionstore.cube.description import SimulationDescription
from ionstore.ingest.coarse_field import BlockMeans
from ionstore.ingest.detect import detect
from ionstore.ingest.ingest import ingest_cubes
from ionstore.ingest.plausibility import find_contradictions
from ionstore.ingest.selection import IngestOptions
from ionstore.ingest.survey import survey_source
from ionstore.store.cube_store import CubeStore

CUT: dict[str, Any] = {
    "given": SimulationDescription(box_length_cmpc=20.0),
    "options": IngestOptions(max_shard_cells=8, chunk_cells=4),
}
SOON_S = 0.01
POLL_S = 0.001
KILLED = -signal.SIGKILL


def in_process(
    action: Callable[[], object], *, until: Callable[[], Iterator[None]] | None = None
) -> int:
    """Run an action in a process of its own; return its exit status, negative if it was killed.

    It is killed when `until`, which is looked at again and again, has come to its end.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    if until is not None:
        for _ in until():
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                break
            time.sleep(POLL_S)
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
    """Write down the redshifts that readers see; runs in a process of its own."""
    with xr.open_zarr(store, chunks=None) as dataset:
        seen = dataset["redshift"].values.tolist()
        assert dataset["xhii"].isel(redshift=-1).values.max() <= 1
    assert list(CubeStore.open(store).redshifts) == seen
    store.with_suffix(".seen").write_text(json.dumps(seen))


def import_what_builds_import(sim: Path, folder: Path) -> None:
    """Import here what a first build and a first look at its store have imported elsewhere."""

    def first() -> None:
        ingest_cubes(sim, folder / "zeroth.zarr", **CUT)
        redshifts_seen(folder / "zeroth.zarr")
        (folder / "imported.json").write_text(json.dumps(sorted(sys.modules)))

    assert in_process(first) == 0
    for name in json.loads((folder / "imported.json").read_text()):
        with suppress(ImportError):  # some packages name modules of theirs as no import finds them
            import_module(name)


def compile_what_builds_compile(sim: Path) -> None:
    """Load here what is compiled once and would be loaded by every build."""
    simulation = detect(sim).simulation()
    redshift = simulation.redshifts[0]
    means = {}
    for name, sources in simulation.cubes.items():
        source = sources[redshift]
        means[name] = BlockMeans(source.shape[0], fortran_order=source.fortran_order)
        survey_source(name, simulation.redshifts[0], source, on_values=means[name].add)
    find_contradictions({name: of_field.of_blocks() for name, of_field in means.items()})


def parts_recorded(parts: Path) -> int:
    """Return how many parts of a build are done."""
    with suppress(FileNotFoundError):
        return sum(name.endswith(".json") for name in os.listdir(parts))
    return 0


def moment(draw: random.Random, parts: Path, n_parts: int, takes_s: float) -> Iterator[None]:
    """Come to an end at a random moment of a build."""
    if draw.random() < 0.5:
        later_s = draw.uniform(0, 1.1 * takes_s)
    else:
        later_s = draw.uniform(0, SOON_S)
        recorded = draw.randint(min(parts_recorded(parts) + 1, n_parts), n_parts)
        while parts_recorded(parts) < recorded:
            yield
    end = time.monotonic() + later_s
    while time.monotonic() < end:
        yield


def main() -> None:
    kind = sys.argv[1]
    sim, other, folder = map(Path, sys.argv[2:5])
    n_kills, seed = map(int, sys.argv[5:])
    draw = random.Random(seed)
    import_what_builds_import(sim, folder)
    compile_what_builds_compile(sim)
    gc.collect()
    gc.freeze()  # else each process copies all of this memory when it looks for garbage
    first, target = folder / "first.zarr", folder / "cubes.zarr"
    partial_folder = target.with_name("cubes.zarr.partial")
    assert in_process(lambda: ingest_cubes(sim, first, **CUT)) == 0
    n_old = len(list(first.glob("*/c/*/*/*/*"))) if kind == "append" else 0

    def build() -> object:
        if kind == "append":
            return ingest_cubes(other, target, append=True)
        return ingest_cubes(sim, target, **CUT)

    def begin() -> None:
        for path in (target, partial_folder):
            shutil.rmtree(path, ignore_errors=True)
        if kind == "append":
            shutil.copytree(first, target)

    begin()
    began = time.perf_counter()
    assert in_process(build) == 0
    takes_s = time.perf_counter() - began
    whole = contents(target)
    n_parts = len(list(target.glob("*/c/*/*/*/*"))) - n_old
    parts = partial_folder / "parts"
    n_killed = 0
    while n_killed < n_kills:
        begin()
        kills: list[dict[str, object]] = []
        for _ in range(2 if n_killed % 4 == 3 else 1):
            until = partial(moment, draw, parts, n_parts, takes_s)
            status = in_process(build, until=until)
            seen: list[float] | None = None
            if target.exists():
                assert in_process(partial(redshifts_seen, target)) == 0
                seen = json.loads(target.with_suffix(".seen").read_text())
            kills.append({"status": status, "n_parts": parts_recorded(parts), "seen": seen})
            is_in_place = target.exists() and contents(target) == whole
            if is_in_place:
                break
        n_killed += any(kill["status"] == KILLED for kill in kills)
        # A build that was killed behind the swap is only cleared away.
        resumed = in_process(build) if status == KILLED else 0
        print(  # noqa: T201 - what came of it, for the test
            json.dumps(
                {
                    "n_to_write": n_parts,
                    "kills": kills,
                    "resumed": resumed,
                    "was_in_place": is_in_place,
                    "same": contents(target) == whole,
                    "left": sorted(path.name for path in partial_folder.glob("*")),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
