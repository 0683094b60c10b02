"""A found simulation as lines of text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ioncli.inventory_text import lacking_lines
from ioncli.options import table_lines

if TYPE_CHECKING:
    from ionstore.ingest.detect import FieldSummary, FoundSimulation

_REDSHIFTS_SHOWN = 4
_HASH = re.compile("([0-9a-f]{6})[0-9a-f]{26}")  # in the names of 21cmFAST


def detection_lines(detection: FoundSimulation) -> Iterator[str]:
    """Yield a table of what was found for each field, and what is known of the box."""
    rows = [
        (
            found.first.field,
            _redshifts(found),
            found.first.format_name,
            _files(found),
            "list" if found.array is None else _shape(found.array.shape),
            "" if found.array is None else str(found.array.dtype),
            _numbers(found),
            _stored(found),
        )
        for found in detection.summary()
    ]
    if rows:
        head = ("field", "redshifts", "format", "files", "shape", "dtype", "holds", "stored in")
        yield from table_lines(head, rows)
    if not detection.problems:
        yield from lacking_lines(detection.candidates)
    known = detection.known.values()
    words = {
        "box_length_cmpc": "box {:g} cMpc",
        "h": "h = {:g}",
        "omega_m": "omega_m = {:g}",
        "omega_b": "omega_b = {:g}",
        "n_box": "n_box = {:,}",
    }
    told = [text.format(known[name]) for name, text in words.items() if name in known]
    yield f"known: {', '.join(told) or 'neither box length nor cosmology'}"


def field_lines(detection: FoundSimulation) -> Iterator[str]:
    """Yield in one line what was found for each field, and what it becomes."""
    for found in detection.summary():
        yield (
            f"{found.first.field}: {_files(found)} ({found.first.format_name}): "
            f"{_numbers(found)} → {_stored(found)}"
        )


def _redshifts(found: FieldSummary) -> str:
    shown = [f"{redshift:g}" for redshift in found.redshifts]
    if len(shown) <= _REDSHIFTS_SHOWN:
        return ", ".join(shown)
    return f"{len(shown)} from {shown[0]} to {shown[-1]}"


def _files(found: FieldSummary) -> str:
    others = len(found.redshifts) - 1
    return _HASH.sub(r"\1…", found.first.name) + (f" and {others} more" if others else "")


def _shape(shape: tuple[int, ...]) -> str:
    cubic = len(shape) == 3 and len(set(shape)) == 1
    return f"{shape[0]}³" if cubic else "x".join(map(str, shape))


def _numbers(found: FieldSummary) -> str:
    from ionstore.ingest.unit_conversion import QUANTITY_WORDS

    return QUANTITY_WORDS[found.first.quantity]


def _stored(found: FieldSummary) -> str:
    if found.units is None:
        return "1 (counts) or unknown"
    if found.first.field != "n_igm":
        return found.units
    return f"{found.units} ({found.frame or 'frame guessed from the mean density'})"
