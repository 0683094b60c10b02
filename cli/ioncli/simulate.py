"""``simulate``."""

import click


@click.command()
def simulate() -> None:
    """Do nothing yet."""
