"""``ionstore export``."""

from pathlib import Path

import click

from ioncli import options
from ioncli.progress import progress_bar


@click.command()
@click.argument("store", type=click.Path(path_type=Path), default="cubes.zarr")
@click.option(
    "--field",
    help="Field to write, as listed by `ionstore info`.  [default: the ionized fraction]",
)
@click.option("--redshift", type=float, help="Redshift to write.  [default: the only one]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="File to write; its suffix names the format.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file, if it exists.")
def export(
    store: Path, field: str | None, redshift: float | None, output: Path, overwrite: bool
) -> None:
    """Write a field of STORE for other codes.

    One field at one redshift goes into one file.

    \b
    Formats, by the suffix of the file:
      .npy        NumPy array [x, y, z], as stored
      .h5, .hdf5  one dataset [x, y, z] with units, redshift, box length, frame, cosmology
      .bin        C2-Ray: Fortran records, float64 for xhii and float32 for others
      .dat        pyC2Ray: three sizes, then the values in the same order and dtypes

    \b
    Example:
      ionstore export cubes.zarr --field xhii --redshift 8.397 -o xfrac3d_8.397.bin
    """
    # Late, so that --help need not wait for zarr.
    from ionstore.cube.fields import ionized_fraction_among
    from ionstore.errors import NotInStoreError
    from ionstore.export import export_field
    from ionstore.store.cube_store import CubeStore

    with options.errors_as_messages():
        cubes = CubeStore.open(store)
        redshift = options.only_redshift(cubes) if redshift is None else redshift
        # By default the simulated fraction or, in a predicted store, the predicted one.
        field = field or ionized_fraction_among(cubes.field_names)
        if field is None:
            raise NotInStoreError(
                f"--field must be one of {', '.join(cubes.field_names)}, got none"
            )
        with progress_bar(f"Writing {output.name}") as reporter:
            written = export_field(
                cubes, field, redshift, output, overwrite=overwrite, reporter=reporter
            )
    click.echo(f"Wrote {output} ({written.description})")
