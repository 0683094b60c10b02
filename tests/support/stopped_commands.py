"""Commands that stop themselves in mid-run, at a moment that does not depend on the machine."""

import itertools
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from tests.support.forked_commands import CommandServer, Forked


@contextmanager
def stopped(
    commands: CommandServer, when: Sequence[str], *arguments: str | Path
) -> Iterator[Forked]:
    """Run a command of ionstore until it stops itself; it is killed at the end if it still runs.

    Parameters
    ----------
    commands : CommandServer
        Starts it.
    when : sequence of four str
        Module, class, method, and after how many calls of it.
    arguments
        The command.
    """
    before = (__name__, stop_in_mid_run.__name__, *when)
    command = commands.start("ionstore", [*map(str, arguments)], before=before)
    while psutil.Process(command.pid).status() != psutil.STATUS_STOPPED:
        assert not command.has_ended(0.01), f"it could not be stopped: {command.wait()}"
    try:
        yield command
    finally:
        command.kill()


def stop_in_mid_run(module: str, owner: str, name: str, calls: str) -> None:
    """Let this process stop when a method has returned a number of times.

    All threads stop as by SIGSTOP, until SIGCONT: what a test changes meanwhile changes at a moment
    that does not depend on the machine.
    """
    changed = getattr(import_module(module), owner)
    original, count = getattr(changed, name), itertools.count(1)

    def method(self: object, *arguments: Any, **options: Any) -> object:
        returned = original(self, *arguments, **options)
        if next(count) == int(calls):
            signal.raise_signal(signal.SIGSTOP)
        return returned

    setattr(changed, name, method)


def go_on(command: Forked) -> tuple[int, str]:
    """Let a stopped command run to its end; return its exit code and what it printed as errors."""
    os.kill(command.pid, signal.SIGCONT)
    return command.wait()
