"""``view``."""

import click


@click.command()
def view() -> None:
    """Do nothing yet."""
