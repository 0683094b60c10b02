"""Scripts with loaders in processes that begin at once: forked from one that has imported all.

Run as a module, it is that process; it talks as `tests.support.forked_commands` does. A script runs
as the main module of its process, whose interpreter ends as any other. Only what is registered to
run at exit is not in the order of a process of its own: what imports register comes before.
"""

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.forked_commands import CommandServer, Forked
from tests.support.places import ROOT


class ScriptServer(CommandServer):
    """Forks scripts."""

    def __init__(self) -> None:
        self._started: list[Forked] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forked_scripts"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, script: Path, *, module: str = "", **environment: str) -> Forked:
        """Run a script, or a module of its folder, in that folder and in a session of its own.

        Files of the folder get what it prints.
        """
        for name in ("stdout", "stderr"):
            (
                script.parent / name
            ).touch()  # here: whoever looks at them may be faster than the fork
        request = {"script": str(script), "module": module, "environment": environment}
        pid = self.ask(request)
        self._started.append(Forked(self, pid, script.parent / "stderr"))
        return self._started[-1]


@contextmanager
def script_server() -> Iterator[ScriptServer]:
    """Yield a process that forks scripts; at the end all are killed that still run."""
    server = ScriptServer()
    try:
        yield server
    finally:
        server.close()


def _serve() -> tuple[Path, str] | None:
    """Answer requests; return script and module in each process that is forked, None at the end."""
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        if "end_of" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["end_of"], 0)[1])
        elif (answer := os.fork()) == 0:
            script = Path(request["script"])
            os.setsid()
            os.chdir(script.parent)
            # Inherited by the processes that it starts, not by its own entry in /proc.
            os.environ.update(request["environment"])
            for name, theirs in ((os.devnull, 0), ("stdout", 1), ("stderr", 2)):
                ours = os.open(name, os.O_RDWR)
                os.dup2(ours, theirs)
                os.close(ours)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            return script, request["module"]
        print(answer, flush=True)  # noqa: T201 - the answer
    return None


def _import_all() -> None:
    """Import what loaders need, and load their kernels."""
    for name in ("ionstore.loading.loaders", "ionstore.loading.workers"):
        import_module(name)
    fields = np.zeros((1, 2, 2, 2), np.float32)
    import_module("ionstore.loading.gather").gather_neighborhoods(fields, np.zeros((1, 3), int), 0)
    import_module("ionstore.sampling.permutation").shuffled(np.zeros(1, int), 1, key=(0,))
    # A fork takes only the thread that asks for it along.
    assert len(os.listdir("/proc/self/task")) == 1
    gc.collect()
    gc.freeze()  # else each process copies all of this memory when it looks for garbage


if __name__ == "__main__":
    _import_all()
    _asked = _serve()
    if _asked is not None and _asked[1]:
        sys.path.insert(0, str(_asked[0].parent))
        runpy._run_module_as_main(_asked[1], alter_argv=False)  # type: ignore[attr-defined]
    elif _asked is not None:
        __file__, __spec__ = str(_asked[0]), None
        exec(compile(_asked[0].read_text(), __file__, "exec"), globals())
