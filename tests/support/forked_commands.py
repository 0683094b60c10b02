"""Commands in processes that begin at once: forked from one that has imported all they need.

Run as a module, it is that process. It reads a line of JSON for each command and answers with the
number of its process, or, asked for the end of one, with its exit status.
"""

import gc
import json
import os
import select
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.support.places import ROOT

# The last is what the first optimizer imports.
_IMPORTED = (
    *("ionstore.ingest.ingest", "ionstore.edit", "ionstore.export"),
    *("ionmodel.training.training", "matplotlib.figure", "dask.delayed", "torch._dynamo"),
)


class Forked:
    """A command that runs, leading a process group, as in a terminal.

    Parameters
    ----------
    server : CommandServer
        What forked it.
    pid : int
        Its process.
    errors : Path
        File of what it prints as errors.
    """

    def __init__(self, server: "CommandServer", pid: int, errors: Path) -> None:
        self.pid = pid
        self._server, self._errors = server, errors
        self._end = os.pidfd_open(pid)
        self._exit_code: int | None = None

    def has_ended(self, within_s: float = 0) -> bool:
        """Tell whether it has ended, or does within some time."""
        return bool(select.select([self._end], [], [], within_s)[0])

    def wait(self, within_s: float = 60) -> tuple[int, str]:
        """Return exit code, negative if it was killed, and errors, once it has ended."""
        if self._exit_code is None:
            assert self.has_ended(within_s), self._errors.read_text()
            self._exit_code = self._server.ask({"end_of": self.pid})
        return self._exit_code, self._errors.read_text()

    def kill(self) -> None:
        """Kill it if it still runs."""
        if not self.has_ended():
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def close(self) -> None:
        """Kill it if it still runs, and forget it."""
        self.kill()
        os.close(self._end)


class CommandServer:
    """Forks commands.

    Parameters
    ----------
    folder : Path
        Where what they print is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Forked] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forked_commands"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(
        self, program: str, arguments: Sequence[str], *, before: Sequence[str] = ()
    ) -> Forked:
        """Start a program of `ioncli.main`.

        Parameters
        ----------
        program : str
            Its name.
        arguments : sequence of str
            What it is told.
        before : sequence of str, optional
            Module and function to be called first in the new process, and what with.
        """
        errors = self._folder / f"{len(self._started)}.err"
        run = [program, *arguments]
        pid = self.ask({"run": run, "before": list(before), "errors": str(errors)})
        self._started.append(Forked(self, pid, errors))
        return self._started[-1]

    def ask(self, request: dict[str, Any]) -> int:
        """Send a request, return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End all."""
        for command in self._started:
            command.close()
        self._process.communicate()


@contextmanager
def command_server(folder: Path) -> Iterator[CommandServer]:
    """Yield what forks commands; at the end all are killed that still run."""
    server = CommandServer(folder)
    try:
        yield server
    finally:
        server.close()


def _serve() -> dict[str, Any] | None:
    """Answer requests; return what to run in each process that is forked, None at the end."""
    for line in sys.stdin:
        request = json.loads(line)
        if "end_of" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["end_of"], 0)[1])
        elif (answer := os.fork()) == 0:
            os.setsid()
            errors = os.open(request["errors"], os.O_WRONLY | os.O_CREAT)
            nothing = os.open(os.devnull, os.O_RDWR)
            for ours, theirs in ((nothing, 0), (nothing, 1), (errors, 2)):
                os.dup2(ours, theirs)
            return dict(request)
        print(answer, flush=True)  # noqa: T201 - the answer
    return None


def main() -> None:
    """Import what takes long, then serve."""
    for name in _IMPORTED:
        import_module(name)
    import torch

    from ioncli import main

    torch.set_num_threads(1)
    warnings.simplefilter("error")
    gc.collect()
    gc.freeze()  # else each process copies all of this memory when it looks for garbage
    request = _serve()
    if request is not None:
        if request["before"]:
            module, function, *arguments = request["before"]
            getattr(import_module(module), function)(*arguments)
        sys.argv = request["run"]
        getattr(main, sys.argv[0])()


if __name__ == "__main__":
    main()
