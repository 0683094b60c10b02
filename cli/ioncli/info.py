"""``info``."""

import click


@click.command()
def info() -> None:
    """Do nothing yet."""
