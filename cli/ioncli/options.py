"""Options, error messages, tables, sizes and durations in words, shared by commands."""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ionstore.store.cube_store import CubeStore


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """Turn errors that a user can fix into one sentence and exit code 1."""
    from ionstore.errors import UserError

    # Nothing else is caught: any other error is a bug, and its traceback helps to report it.
    try:
        yield
    except UserError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(_os_error_in_words(error)) from error


def _os_error_in_words(error: OSError) -> str:
    # Errors that are raised in Python code have a message but no file name.
    if error.filename is None or error.strerror is None:
        return str(error)
    reason = error.strerror[:1].lower() + error.strerror[1:]
    return f"{error.filename}: {reason}; check the path and the permissions"


def echo_note(line: str) -> None:
    """Print a line that the user should read, above a progress bar if there is one."""
    # Not err=True: click would bypass the stream that keeps a live bar below the printed lines.
    click.echo(f"Note: {line}", file=sys.stderr)


class FiniteRange(click.FloatRange):
    """A range of numbers without nan and infinity."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        # nan passes every range, because all comparisons with it are false.
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"expected a finite number, got {number}", param, ctx)
        return number


@dataclass(frozen=True, slots=True)
class LengthPerH:
    """A comoving length in cMpc/h."""

    value: float

    def __str__(self) -> str:
        return f"{self.value:g}/h"


class Length(click.ParamType["float | LengthPerH"]):
    """A positive comoving length in cMpc, or in cMpc/h if written as ``500/h``."""

    name = "length"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | LengthPerH:
        """Return the number, or a length in cMpc/h."""
        if isinstance(value, LengthPerH):
            return value
        number, slash, unit = str(value).partition("/")
        if slash and unit.strip() != "h":
            self.fail(f"expected cMpc such as 714.3, or cMpc/h such as 500/h, got {value}")
        # Kept in cMpc/h, because h may come from the files of the simulation, which are read later.
        length = FiniteRange(min=0, min_open=True).convert(number.strip(), param, ctx)
        return LengthPerH(length) if slash else length


def length_in_cmpc(length: float | LengthPerH | None, h: float | None) -> float | None:
    """Return a length in cMpc; raise SourceDataError if that needs h, and h is unknown."""
    from ionstore.cube.description import length_in_cmpc

    return length_in_cmpc(length.value, h) if isinstance(length, LengthPerH) else length


box_length = click.option(
    "--box-length",
    type=Length(),
    metavar="cMpc",
    help="Comoving side of the box in cMpc, or in cMpc/h written as 500/h.",
)

hubble_constant = click.option(
    "--h",
    type=FiniteRange(min=0, min_open=True, max=10, max_open=True),
    metavar="H",
    help="Hubble constant today in 100 km/s/Mpc.",
)

matter = click.option(
    "--omega-m",
    type=FiniteRange(min=0, min_open=True, max=2, max_open=True),
    metavar="OMEGA",
    help="Density parameter of all matter today.",
)

baryons = click.option(
    "--omega-b",
    type=FiniteRange(min=0, min_open=True, max=2, max_open=True),
    metavar="OMEGA",
    help="Density parameter of baryons today.",
)

n_body_cells = click.option(
    "--n-box",
    type=click.IntRange(min=1),
    metavar="CELLS",
    help="Cells along a side of the finest N-body mesh, to convert masses in grid masses.",
)

n_src_unit = click.option(
    "--n-src-unit",
    type=click.Choice(("Msun", "grid_mass", "1")),
    help="Unit of the sources, if they are not counts.",
)


def only_redshift(store: "CubeStore") -> float:
    """Return the redshift of a store that has one; raise NotInStoreError if it has several."""
    from ionstore.errors import NotInStoreError

    if len(store.redshifts) > 1:
        there = ", ".join(f"{known:g}" for known in store.redshifts)
        raise NotInStoreError(f"--redshift must be one of {there}, got none")
    return store.redshifts[0]


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table whose columns are as wide as their longest cell."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield ("  " + "  ".join(cells)).rstrip()


def say_if_the_working_folder_is_gone() -> None:
    """Tell users whose working folder was the replaced store to enter it again."""
    # Their shell still refers to the old folder, which is deleted.
    try:
        os.getcwd()
    except FileNotFoundError:
        click.echo('The folder that you are in was replaced; enter it again: cd "$PWD"', err=True)


def counted(n: int, noun: str) -> str:
    """Return a number of things in words.

    >>> counted(3000, "cell"), counted(1, "epoch")
    ('3,000 cells', '1 epoch')
    """
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def seconds_in_words(seconds: float) -> str:
    """Return a duration in words.

    >>> seconds_in_words(48)
    '48 s'
    >>> seconds_in_words(54_000)
    '15.0 h'
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
