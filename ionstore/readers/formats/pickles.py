"""Pickles, such as the grids of BEoRN: recognized, and not read."""

import pickletools
from pathlib import Path

from ionstore.readers.base import FileContents, FileReader

_PROTO = 0x80
_PROTOCOLS = range(2, 6)
_OPCODES = frozenset(opcode.code for opcode in pickletools.opcodes)
_REASON = (
    "a pickle can run any code when it is read, so it is not read; load it with the code that "
    "wrote it, and save its arrays with numpy.save"
)


class Pickle(FileReader):
    """Recognizes pickles, and says why they are not read."""

    name = "pickle"
    description = "pickles, such as BEoRN's xHII_64_model_z07.72: not read, since they can run code"

    def inspect(self, path: Path, head: bytes) -> FileContents | None:
        """Return no field, and a note that says why."""
        # The third byte counts too: a mesh of 640 cells begins with the first two of a pickle.
        is_pickle = (
            len(head) > 2
            and head[0] == _PROTO
            and head[1] in _PROTOCOLS
            and chr(head[2]) in _OPCODES
        )
        return FileContents((), notes=(_REASON,)) if is_pickle else None
