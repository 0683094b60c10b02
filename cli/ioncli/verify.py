"""``ionstore verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ioncli import options
from ioncli.progress import progress_bar
from ionstore.errors import bytes_in_words

if TYPE_CHECKING:
    from ionstore.verify.damage import Damage
    from ionstore.verify.verify import Verification


@click.command()
@click.argument("store", type=click.Path(path_type=Path), default="cubes.zarr")
@click.option(
    "--sources",
    metavar="SIM",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Also compare the files in this folder with what the store recorded. Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def verify(store: Path, sources: tuple[Path, ...], as_json: bool) -> None:
    """Check that STORE is whole and intact.

    Reads every chunk, and checks statistics, coordinates and metadata. Lists all damage with its
    field, redshift and cells; the exit code is then 1. Files that are not part of the store are
    listed too; they are harmless.

    If STORE was made from several folders (--append, --map), give --sources for each of them.

    \b
    Examples:
      ionstore verify cubes.zarr --sources sim/
      ionstore verify cubes.zarr --sources sim/ --sources later_redshifts/
    """
    # Late, so that --help need not wait for zarr.
    from ionstore.store.cube_store import CubeStore
    from ionstore.verify.verify import verify_store

    with options.errors_as_messages(), progress_bar(f"Verifying {store.name}") as reporter:
        found = verify_store(CubeStore.open(store), sources=sources, reporter=reporter)
    if as_json:
        click.echo(found.model_dump_json(indent=1))
    else:
        for damage in found.damage:
            click.echo(_in_words(damage))
        for file in found.stray_files:
            click.echo(f"Stray file, not part of the store: {file}")
        click.echo(_summary(found, sources))
    if not found.is_intact:  # so that scripts and `&&` stop
        raise click.exceptions.Exit(1)


def _in_words(damage: Damage) -> str:
    """Return the place of the damage and its kind."""
    if damage.field is None:
        return f"{damage.file}: {damage.what}"
    where = damage.field
    if damage.redshift is not None:
        where += f" at redshift {damage.redshift:g}"
    if damage.start is not None and damage.shape is not None:
        where += f", block {damage.start} of shape {damage.shape}"
    return f"{where}: {damage.what} ({damage.file})"


def _summary(found: Verification, sources: tuple[Path, ...]) -> str:
    files = f" and {options.counted(found.n_source_files, 'source file')}" if sources else ""
    if found.n_not_compared:
        files += f" ({found.n_not_compared:,} more, from folders not given, not compared)"
    verdict = (
        "whole and intact"
        if found.is_intact
        else f"damaged, {options.counted(len(found.damage), 'finding')}"
    )
    return (
        f"{found.path}: {options.counted(found.n_chunks, 'chunk')} with "
        f"{bytes_in_words(found.value_bytes)} of values{files} checked in "
        f"{options.seconds_in_words(found.seconds)}: {verdict}"
    )
