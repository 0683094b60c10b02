"""``ionstore ingest``."""

import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ioncli import options
from ioncli.progress import progress_bar

if TYPE_CHECKING:
    from ionstore.ingest import PreparedIngest


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


class FieldPath(click.ParamType[tuple[str, Path]]):
    """A field and where it lies, written as ``n_src=sim/sources``."""

    name = "field=path"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        """Return the field and the path."""
        from ionstore.cube.fields import FIELDS

        if isinstance(value, tuple):
            return value
        field, _, path = str(value).partition("=")
        if field not in FIELDS or not path:
            self.fail(
                f"expected a field and a path such as n_src=sim/sources, got {value}; "
                f"fields are {', '.join(FIELDS)}"
            )
        return field, Path(path).expanduser()


class Folder(click.Path):
    """A folder that is there."""

    def __init__(self) -> None:
        super().__init__(exists=True, path_type=Path)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Path:
        """Return the path."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.is_dir():
            self.fail(f"{path} is a file; give the folder that holds it", param, ctx)
        return path


@click.command()
@click.argument("sim", metavar="SIM", type=Folder())
@click.argument("store", type=click.Path(path_type=Path), default="cubes.zarr")
@click.option(
    "--format",
    "format_name",
    metavar="NAME",
    help="Read only files of this format in SIM, one of `ionstore formats`.",
)
@click.option(
    "--map",
    "maps",
    type=FieldPath(),
    multiple=True,
    metavar="FIELD=PATH",
    help="Take a field only from this file, folder or 'pattern*.dat'. Repeatable.",
)
@click.option(
    "--redshift",
    "redshifts",
    type=options.FiniteRange(min=0),
    multiple=True,
    metavar="Z",
    help="Take only this redshift. Repeatable.",
)
@click.option(
    "--source-column",
    "source_columns",
    type=click.IntRange(min=4),
    multiple=True,
    metavar="K",
    help="Column of masses in text lists of sources, 4 by default. Repeat it to sum columns.",
)
@click.option(
    "--without",
    multiple=True,
    type=click.Choice(("n_igm", "n_src", "xhii")),
    help="Leave out this field, such as xhii, to be predicted. Repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Show what was found; read and write no cubes.")
@options.box_length
@options.hubble_constant
@options.matter
@options.baryons
@options.n_body_cells
@options.n_src_unit
@click.option(
    "--keep-bits",
    type=KeepBits(),
    multiple=True,
    metavar="FIELD=BITS",
    help="Round a field to this many bits of its mantissa (of 23) to save space. Repeatable.",
)
@click.option(
    "--trust",
    multiple=True,
    type=click.Choice(("n_igm", "n_src", "xhii")),
    help="Take a field for what it is called, even if its values contradict it. Repeatable.",
)
@click.option("--append", is_flag=True, help="Add the redshifts of SIM to STORE.")
@click.option("--overwrite", is_flag=True, help="Replace STORE, or an unfinished build of it.")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Let the workers of this dask scheduler write; they must see the same files.",
)
def ingest(
    sim: Path,
    store: Path,
    format_name: str | None,
    maps: tuple[tuple[str, Path], ...],
    redshifts: tuple[float, ...],
    source_columns: tuple[int, ...],
    without: tuple[str, ...],
    dry_run: bool,
    box_length: float | options.LengthPerH | None,
    h: float | None,
    omega_m: float | None,
    omega_b: float | None,
    n_box: int | None,
    n_src_unit: str | None,
    keep_bits: tuple[tuple[str, int], ...],
    trust: tuple[str, ...],
    append: bool,
    overwrite: bool,
    scheduler: str | None,
) -> None:
    """Copy the coeval cubes in the folder SIM into STORE.

    SIM holds gas density, sources and ionized fraction for every redshift, on one cubic mesh, in
    any of the formats that `ionstore formats` lists; those named by --without may be missing. Takes
    the files directly in SIM, or everything below SIM if those are no cubes. What the files do not
    say is read from simulation.json in SIM, if it exists; options given here win over both.

    \b
    Keys of simulation.json, each of which may be missing:
      box_length_cmpc  comoving side of the box in cMpc
      cosmology        name, h, omega_m, omega_b, sigma_8, n_s
      density_frame    "proper" or "comoving", for densities that do not say it
      n_src_units      "1" (counts), "Msun" or "grid_mass"
      n_box            cells along a side of the finest N-body mesh
      seed             of the initial conditions; marks what `ionstore simulate` wrote

    Run the same command again to resume an ingest that was stopped: it checks the simulation once
    more and keeps the parts that were written. STORE stays what it was until the new one is whole.

    \b
    Examples:
      ionstore ingest sim/ cubes.zarr --box-length 714.3 --h 0.7
      ionstore ingest sim/ cubes.zarr --box-length 500/h --h 0.7
      ionstore ingest later_redshifts/ cubes.zarr --append
      ionstore ingest nbody/ boxes.zarr --without xhii    # boxes for `ionmodel predict`
    \b
      # C2-Ray: each field in a folder of its own, masses in grid masses
      ionstore ingest sim/ cubes.zarr --dry-run --map n_igm=sim/density \\
        --map 'n_src=sim/sources/*_wsubgrid_sources.dat' --map xhii=sim/results \\
        --box-length 714.3 --h 0.7 --omega-m 0.27 --omega-b 0.044 --n-box 13824
    """
    # Each alone replaces STORE, but only --append keeps its redshifts.
    if append and overwrite:
        raise click.UsageError("--append adds to STORE, --overwrite replaces it; give one of them")
    from ioncli.inventory_text import inventory_lines
    from ionstore.cube.description import from_values
    from ionstore.ingest import FileSelection, IngestOptions, prepare

    paths: dict[str, list[Path]] = {}
    for field, path in maps:
        paths.setdefault(field, []).append(path)
    per_h = box_length.value if isinstance(box_length, options.LengthPerH) else None
    told = {
        "box_length_cmpc": None if isinstance(box_length, options.LengthPerH) else box_length,
        "h": h,
        "omega_m": omega_m,
        "omega_b": omega_b,
        "n_box": n_box,
        "n_src_units": n_src_unit,
    }
    with options.errors_as_messages():
        prepare_now = partial(
            prepare,
            sim,
            store,
            FileSelection(format_name, paths, redshifts, source_columns, without),
            given=from_values(told),
            box_length_cmpc_h=per_h,
            append=append,
            overwrite=overwrite,
            options=IngestOptions(dict(keep_bits), trust),
        )
        if dry_run:
            _show(prepare_now())
            return
        try:
            with progress_bar(f"Ingesting {sim.resolve().name}") as reporter:
                prepared = prepare_now()
                _echo_fields(prepared)
                inventory = prepared.run(
                    reporter,
                    scheduler=scheduler,
                    command_line=shlex.join(["ionstore", *sys.argv[1:]]),
                )
        except KeyboardInterrupt:
            click.echo(f"Stopped; {_what_is_kept(store)}.", err=True)
            # 128 + SIGINT, as shells report a command that Ctrl-C ended.
            raise click.exceptions.Exit(130) from None
    for line in inventory_lines(inventory):
        click.echo(line)
    options.say_if_the_working_folder_is_gone()


def _what_is_kept(store: Path) -> str:
    from ionstore.storage.paths import parse_place
    from ionstore.store.metadata import partial_folder

    place = parse_place(store)
    if isinstance(place, Path) and not partial_folder(place).exists():
        return "nothing was written yet"
    return "run the same command again, which keeps the parts that were written"


def _echo_fields(prepared: "PreparedIngest") -> None:
    """Print what was found for each field, above a progress bar where one is shown."""
    from ioncli.found_text import field_lines

    # Of an ingest that will be refused, the reason alone.
    if not prepared.problems:
        for line in field_lines(prepared.found):
            click.echo(line, file=sys.stderr)


def _show(prepared: "PreparedIngest") -> None:
    """Print what was found and what is missing; exit with 1 where an ingest would be refused."""
    from ioncli.found_text import detection_lines

    for line in detection_lines(prepared.found):
        click.echo(line)
    for note in prepared.found.notes:
        options.echo_note(note)
    for problem in prepared.problems:
        click.echo(f"Error: {problem}", err=True)
    if prepared.problems:
        raise click.exceptions.Exit(1)
    click.echo("nothing was read or written: leave out --dry-run to ingest")
