"""``ionstore info``."""

from pathlib import Path

import click

from ioncli import options


@click.command()
@click.argument("store", type=click.Path(path_type=Path), default="cubes.zarr")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def info(store: Path, as_json: bool) -> None:
    """Show what is in STORE.

    Box, redshifts, fields with their statistics, sizes, and source files.

    \b
    Example:
      ionstore info cubes.zarr
      ionstore info s3://bucket/cubes.zarr
      ionstore info cubes.zarr --json | jq .redshifts
    """
    # Late, so that --help need not wait for zarr.
    from ioncli.inventory_text import inventory_lines, source_lines, statistics_lines
    from ionstore.info import take_inventory
    from ionstore.store.cube_store import CubeStore

    with options.errors_as_messages():
        inventory = take_inventory(CubeStore.open(store))
    if as_json:
        click.echo(inventory.model_dump_json(indent=1))
        return
    for lines in (inventory_lines, statistics_lines, source_lines):
        for line in lines(inventory):
            click.echo(line)
        if lines is not source_lines:
            click.echo()
