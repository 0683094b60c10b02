"""``ionstore view``."""

from pathlib import Path
from typing import Literal

import click

from ioncli import options


@click.command()
@click.argument("store", type=click.Path(path_type=Path), default="cubes.zarr")
@click.option("--field", default="xhii", help="Field to show, as `ionstore info` names it.")
@click.option("--redshift", type=float, help="Redshift to show.  [default: the only one]")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="slice.png",
    help="Image file; its suffix names the format (png, pdf, svg).",
)
@click.option(
    "--axis", type=click.Choice(("x", "y", "z")), default="z", help="Axis across the slice."
)
@click.option("--index", type=int, help="Cell of the slice along that axis.  [default: the middle]")
def view(
    store: Path,
    field: str,
    redshift: float | None,
    output: Path,
    axis: Literal["x", "y", "z"],
    index: int | None,
) -> None:
    """Draw a slice through a field of STORE.

    \b
    Example:
      ionstore view cubes.zarr --field xhii --redshift 8.397 -o slice.png
    """
    from ionstore.slice_figure import draw_slice
    from ionstore.store import CubeStore

    with options.errors_as_messages():
        cubes = CubeStore.open(store)
        redshift = options.only_redshift(cubes) if redshift is None else redshift
        draw_slice(cubes, field, redshift, output, axis=axis, index=index)
    click.echo(f"Wrote {output}")
