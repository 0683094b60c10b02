"""``ionstore edit``."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ioncli import options

if TYPE_CHECKING:
    from ionstore.store.cube_store import CubeStore


@click.command()
@click.argument("store", type=click.Path(path_type=Path), default="cubes.zarr")
@options.box_length
@options.hubble_constant
@options.matter
@options.baryons
@options.n_src_unit
@click.option(
    "--density-frame",
    type=click.Choice(("proper", "comoving")),
    help="Frame of the gas density: in g per proper or per comoving cm3.",
)
def edit(
    store: Path,
    box_length: float | options.LengthPerH | None,
    h: float | None,
    omega_m: float | None,
    omega_b: float | None,
    n_src_unit: str | None,
    density_frame: Literal["proper", "comoving"] | None,
) -> None:
    """Correct the box, cosmology or units of STORE.

    For what was unknown or wrong when STORE was made. Positions and metadata are rewritten; the
    cubes stay as they are.

    \b
    Examples:
      ionstore edit cubes.zarr --box-length 714.3 --h 0.7
      ionstore edit cubes.zarr --box-length 500/h
    """
    given = {
        "box length": box_length,
        "h": h,
        "omega_m": omega_m,
        "omega_b": omega_b,
        "unit of n_src": n_src_unit,
        "frame of n_igm": density_frame,
    }
    if all(value is None for value in given.values()):
        raise click.UsageError(
            "nothing to change: give --box-length, --h, --omega-m, --omega-b, --n-src-unit or "
            "--density-frame"
        )
    from ionstore.edit import EditReporter, edit_store

    before: dict[str, str] = {}

    class Kept(EditReporter):  # defined late: its base class comes with zarr
        def opened(self, store: "CubeStore") -> None:
            # Read now, because the edited store replaces it.
            before.update(_what_it_says(store))

        def note(self, sentence: str) -> None:
            options.echo_note(sentence)

    with options.errors_as_messages():
        edited = edit_store(
            store,
            # A function, because a length in cMpc/h may need the h that the store records.
            box_length_cmpc=lambda h_known: options.length_in_cmpc(box_length, h_known),
            h=h,
            omega_m=omega_m,
            omega_b=omega_b,
            n_src_unit=n_src_unit,
            density_frame=density_frame,
            reporter=Kept(),
        )
    after = _what_it_says(edited)
    changes = [
        f"{name} {after[name]}" + ("" if after[name] == before[name] else f" (was {before[name]})")
        for name, value in given.items()
        if value is not None
    ]
    click.echo(f"{store}: {', '.join(changes)}")
    options.say_if_the_working_folder_is_gone()


def _what_it_says(store: "CubeStore") -> dict[str, str]:
    """Return the values that can be edited, in words."""
    from ionstore.cube.cosmology import Cosmology

    box, cosmology = store.mesh.box_length_cmpc, store.cosmology or Cosmology()
    parameters = {name: getattr(cosmology, name) for name in ("h", "omega_m", "omega_b")}
    return {
        "box length": "unknown" if box is None else f"{box:g} cMpc",
        **{n: "unknown" if one is None else f"{one:g}" for n, one in parameters.items()},
        "unit of n_src": store.units("n_src") if "n_src" in store.field_names else "unknown",
        "frame of n_igm": store.frame,
    }
