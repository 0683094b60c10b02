"""``ingest``."""

import click


@click.command()
def ingest() -> None:
    """Do nothing yet."""
