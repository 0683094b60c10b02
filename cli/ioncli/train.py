"""``train``."""

import click


@click.command()
def train() -> None:
    """Do nothing yet."""
