"""``ionstore view``."""

from pathlib import Path
from typing import Literal

import click

from ioncli import options


@click.command()
@click.argument("store", type=click.Path(path_type=Path), default="cubes.zarr")
@click.option(
    "--field",
    help="Field to show, as listed by `ionstore info`.  [default: xhii, or else the first field]",
)
@click.option("--redshift", type=float, help="Redshift to show.  [default: the only one]")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default="slice.png",
    help="Image file; its suffix names the format (png, pdf, svg).",
)
@click.option(
    "--axis",
    type=click.Choice(("x", "y", "z")),
    default="z",
    help="Axis perpendicular to the slice.",
)
@click.option("--index", type=int, help="Cell of the slice along that axis.  [default: the middle]")
def view(
    store: Path,
    field: str | None,
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
    # Late, so that --help need not wait for zarr.
    from ionstore.cube.fields import ionized_fraction_among
    from ionstore.store.cube_store import CubeStore
    from ionstore.view import draw_slice

    with options.errors_as_messages():
        cubes = CubeStore.open(store)
        redshift = options.only_redshift(cubes) if redshift is None else redshift
        shown = field or ionized_fraction_among(cubes.field_names) or cubes.field_names[0]
        draw_slice(cubes, shown, redshift, output, axis=axis, index=index)
    # Users who named no field need to know which one they see.
    click.echo(f"Wrote {output}" + ("" if field else f" ({shown})"))
