"""``ionstore formats``."""

import click

from ioncli import options


@click.command()
def formats() -> None:
    """List the formats that can be ingested.

    In the order in which `ionstore ingest` tries them. The format follows from the content of a
    file; the redshift from its name, and the field too, if the content does not name it.

    \b
    Example:
      ionstore formats
      ionstore ingest sim/ cubes.zarr --format c2ray
    """
    # Late, so that --help need not wait for zarr.
    from ionstore.readers import READERS

    rows = [(reader.name, reader.description) for reader in READERS]
    for line in options.table_lines(("format", "files"), rows):
        click.echo(line)
