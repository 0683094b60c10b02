"""``ionstore edit``."""

from pathlib import Path

import click

from ioncli import options


@click.command()
@click.argument("store", type=click.Path(path_type=Path), default="cubes.zarr")
@options.box_length
@options.hubble_constant
def edit(store: Path, box_length_cmpc: float | None, h: float | None) -> None:
    """Supply what was not known when STORE was made: the box length, the Hubble constant.

    Positions and metadata are rewritten; the cubes stay as they are.

    \b
    Example:
      ionstore edit cubes.zarr --box-length 714.3 --h 0.7
    """
    if box_length_cmpc is None and h is None:
        raise click.UsageError("nothing to change: give --box-length, --h, or both")
    from ionstore.edit import edit_store

    with options.errors_as_messages():
        edited = edit_store(store, box_length_cmpc=box_length_cmpc, h=h)
    box, cosmology = edited.mesh.box_length_cmpc, edited.cosmology
    click.echo(
        f"{store}: box length {'unknown' if box is None else f'{box:g} cMpc'}, "
        f"h {'unknown' if cosmology is None or cosmology.h is None else f'{cosmology.h:g}'}"
    )
    options.say_if_the_working_folder_is_gone()
