"""``ionstore formats``."""

import click

from ioncli import options


@click.command()
def formats() -> None:
    """List the formats that `ionstore ingest` reads, in the order in which a file is tried.

    The content of a file tells its format; its name tells the redshift, and the field where the
    content does not.

    \b
    Example:
      ionstore formats
      ionstore ingest sim/ cubes.zarr --format c2ray
    """
    from ionstore.readers import READERS

    rows = [(reader.name, reader.description) for reader in READERS]
    for line in options.table_lines(("format", "files"), rows):
        click.echo(line)
