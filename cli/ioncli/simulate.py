"""``ionstore simulate``."""

from pathlib import Path

import click

from ioncli import options
from ioncli.progress import progress_bar


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--mesh", type=click.IntRange(min=8), default=64, help="Cells along each side.")
@click.option(
    "--box-length",
    "box_length_cmpc",
    type=options.FiniteRange(min=0, min_open=True),
    default=152.0,
    help="Comoving side of the box in cMpc.",
)
@click.option(
    "--redshift",
    "redshifts",
    type=options.FiniteRange(0, 50),
    multiple=True,
    default=(8.397,),
    help="Redshift of a cube. Repeatable, for more cubes of the same box.",
)
@click.option("--seed", type=click.IntRange(min=0), default=2021, help="Seed of the box.")
@click.option(
    "--overwrite", is_flag=True, help="Replace an earlier simulation of these redshifts in OUT."
)
def simulate(
    out: Path,
    mesh: int,
    box_length_cmpc: float,
    redshifts: tuple[float, ...],
    seed: int,
    overwrite: bool,
) -> None:
    """Simulate a small box of reionization.

    A fast stand-in for trying everything without data; not for science. For every redshift, the
    folder OUT gets the gas density, the number of halos and the ionized fraction of each cell
    (rho_z8.397.npy, nsrc_z8.397.npy, xHII_z8.397.npy); simulation.json describes them.

    \b
    Example:
      ionstore simulate sim/ --mesh 64 --redshift 10.11 --redshift 8.397 --redshift 7.305
    """
    # Late, so that --help need not wait for zarr.
    from ionstore.cube.mesh import Mesh
    from ionstore.simulate.cubes import why_no_sources
    from ionstore.simulate.files import write_simulation

    box = Mesh(mesh, box_length_cmpc)
    with options.errors_as_messages(), progress_bar(f"Simulating {mesh}³ cells") as reporter:
        written = write_simulation(
            out, box, redshifts, seed=seed, overwrite=overwrite, reporter=reporter
        )
    for cube in written:
        click.echo(
            f"redshift {cube.redshift:g}: mean xHII {cube.mean_xhii_volume:.3f}, "
            f"{options.counted(cube.n_sources, 'source')}, "
            f"{cube.share_without_source:.1%} of cells without one"
        )
        for path in cube.paths:
            click.echo(f"  {path}")
    # A box that is too small or too early is allowed, but users should not take it for a fault.
    if not any(cube.n_sources for cube in written):
        click.echo(f"Nothing reionizes: {why_no_sources(box, redshifts)}.")
    click.echo(f"Next: ionstore ingest {out}")
