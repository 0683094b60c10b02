"""``edit``."""

import click


@click.command()
def edit() -> None:
    """Do nothing yet."""
