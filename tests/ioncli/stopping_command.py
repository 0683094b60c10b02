"""The command ``ionstore``, which stops itself in mid-run: run as a script.

    python stopping_command.py MODULE CLASS METHOD CALLS ARGUMENTS...

When a method has returned a number of times, all threads stop as by SIGSTOP, until SIGCONT: what a
test changes meanwhile changes at a moment that does not depend on the machine.
"""

import itertools
import signal
import sys
from importlib import import_module
from typing import Any

from ioncli.main import ionstore


def main() -> None:
    module, owner, name, calls = sys.argv[1:5]
    sys.argv = ["ionstore", *sys.argv[5:]]
    changed = getattr(import_module(module), owner)
    original, count = getattr(changed, name), itertools.count(1)

    def method(self: object, *arguments: Any, **options: Any) -> object:
        returned = original(self, *arguments, **options)
        if next(count) == int(calls):
            signal.raise_signal(signal.SIGSTOP)
        return returned

    setattr(changed, name, method)
    ionstore()


if __name__ == "__main__":
    main()
