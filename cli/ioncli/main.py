"""The two command groups; each command lives in a module of its own."""

import click

from ioncli import edit, export, formats, info, ingest, predict, simulate, train, verify, view

# Defaults are read from the options, so that help texts need not repeat them.
_CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(context_settings=_CONTEXT)
@click.version_option(package_name="ionstore")
def ionstore() -> None:
    """Keep simulations of cosmic reionization in one compressed, chunked store.

    \b
    Example:
      ionstore simulate sim/ && ionstore ingest sim/ cubes.zarr && ionstore info cubes.zarr
    """


@click.group(context_settings=_CONTEXT)
@click.version_option(package_name="ionstore")
def ionmodel() -> None:
    """Train networks that predict the ionized fraction of a cell from its surroundings.

    \b
    Example:
      ionmodel train --store cubes.zarr --run runs/first
      ionmodel predict --run runs/first --store cubes.zarr
    """


for command in (
    simulate.simulate,
    ingest.ingest,
    info.info,
    verify.verify,
    view.view,
    export.export,
    edit.edit,
    formats.formats,
):
    ionstore.add_command(command)
for command in (train.train, predict.predict):
    ionmodel.add_command(command)
