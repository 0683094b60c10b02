"""``ionstore ingest``."""

import shlex
import sys
from pathlib import Path

import click

from ioncli import options
from ioncli.progress import progress_bar


class KeepBits(click.ParamType[tuple[str, int]]):
    """A field and the bits of its mantissa to keep, written as ``n_igm=10``."""

    name = "field=bits"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Return the field and the bits."""
        if isinstance(value, tuple):
            return value
        field, _, bits = str(value).partition("=")
        if not field or not bits.isdigit():
            self.fail(f"expected a field and a number of bits such as n_igm=10, got {value}")
        return field, int(bits)


@click.command()
@click.argument("sim", metavar="SIM", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("store", type=click.Path(path_type=Path), default="cubes.zarr")
@options.box_length
@options.hubble_constant
@options.n_src_unit
@click.option(
    "--keep-bits",
    type=KeepBits(),
    multiple=True,
    metavar="FIELD=BITS",
    help="Round a field to this many bits of its mantissa (of 23), so that it takes less space.",
)
@click.option("--overwrite", is_flag=True, help="Replace STORE, or an unfinished build of it.")
def ingest(
    sim: Path,
    store: Path,
    box_length_cmpc: float | None,
    h: float | None,
    n_src_unit: str | None,
    keep_bits: tuple[tuple[str, int], ...],
    overwrite: bool,
) -> None:
    """Copy the coeval cubes in the folder SIM into one compressed, chunked STORE.

    SIM holds rho_z8.397.npy, nsrc_z8.397.npy and xHII_z8.397.npy (or .npz) for every redshift:
    gas density in g/cm3, sources and ionized fraction on one cubic mesh. What they do not say is
    read from simulation.json beside them, if there is one; options given here win over it.

    \b
    Keys of simulation.json, each of which may be missing:
      box_length_cmpc  comoving side of the box in cMpc
      cosmology        name, h, omega_m, omega_b, sigma_8, n_s
      density_frame    "proper" or "comoving"
      n_src_units      "1" (counts), "Msun" or "grid_mass"
      seed             of the initial conditions; marks what `ionstore simulate` wrote

    An ingest that was stopped goes on where it was when the same command is run again.

    \b
    Example:
      ionstore ingest sim/ cubes.zarr --box-length 714.3 --h 0.7
    """
    from ioncli.inventory_text import inventory_lines
    from ionstore.ingest import ingest_cubes

    with options.errors_as_messages():
        try:
            with progress_bar(f"Ingesting {sim.resolve().name}") as report:
                inventory = ingest_cubes(
                    sim,
                    store,
                    box_length_cmpc=box_length_cmpc,
                    h=h,
                    n_src_unit=n_src_unit,
                    keep_bits=dict(keep_bits),
                    overwrite=overwrite,
                    command_line=shlex.join(["ionstore", *sys.argv[1:]]),
                    on_progress=report,
                    on_note=options.echo_note,
                )
        except KeyboardInterrupt:
            click.echo("Stopped; run the same command again to go on from here.", err=True)
            raise click.exceptions.Exit(130) from None
    for line in inventory_lines(inventory):
        click.echo(line)
    options.say_if_the_working_folder_is_gone()
