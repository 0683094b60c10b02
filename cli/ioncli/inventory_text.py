"""Contents of a store as lines of text."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from ioncli.options import table_lines
from ionstore.errors import bytes_in_words

if TYPE_CHECKING:
    from ionstore.info import Inventory
    from ionstore.store.metadata import SourceFile


def inventory_lines(inventory: Inventory) -> Iterator[str]:
    """Yield the box, a summary of each field, and the size on disk."""
    cells = inventory.mesh_cells
    yield f"{inventory.path}: {cells}³ cells, {_box(inventory)}"
    yield from table_lines(
        ("field", "dtype", "units", "on disk", "ratio", ""),
        [
            (
                name,
                field.dtype,
                _units(inventory, name),
                bytes_in_words(field.stored_bytes),
                f"{field.ratio:.2f}",
                field.long_name,
            )
            for name, field in inventory.fields.items()
        ],
    )
    yield from lacking_lines(inventory.fields)
    xhii = inventory.fields.get("xhii")
    if xhii is not None:
        yield "mean xHII by volume: " + ", ".join(
            f"{statistics.mean:.4f} at redshift {redshift:g}"
            for redshift, statistics in zip(inventory.redshifts, xhii.statistics, strict=True)
        )
    for name, counts in inventory.n_clipped.items():
        if any(counts):
            yield f"cells of {name} clipped into its range: {_by_redshift(inventory, counts)}"
    for name, counts in inventory.n_zeros.items():
        if any(counts):
            yield f"cells of {name} that are zero: {_by_redshift(inventory, counts)}"
    source_bytes = sum(source.size_bytes for source in inventory.sources)
    yield (
        f"{bytes_in_words(inventory.uncompressed_bytes)} of values "
        f"({bytes_in_words(source_bytes)} of source files) take "
        f"{bytes_in_words(inventory.stored_bytes)} on disk, {inventory.ratio:.2f} times less"
    )


def lacking_lines(fields: Collection[str]) -> Iterator[str]:
    """Yield a line for each required field that is missing."""
    from ionstore.cube.fields import INPUTS, WITHOUT

    # Stores of predictions have no input fields, and need none.
    if any(one.name in fields for one in INPUTS):
        yield from (
            f"no {name}: {what_for}" for name, what_for in WITHOUT.items() if name not in fields
        )


def statistics_lines(inventory: Inventory) -> Iterator[str]:
    """Yield mean, standard deviation, minimum and maximum of each field at each redshift."""
    rows = [
        (
            name if index == 0 else "",  # the following rows belong to it too
            f"{redshift:g}",
            f"{statistics.mean:.5g}",
            f"{statistics.variance**0.5:.5g}",
            f"{statistics.min:.5g}",
            f"{statistics.max:.5g}",
        )
        for name, field in inventory.fields.items()
        for index, (redshift, statistics) in enumerate(
            zip(inventory.redshifts, field.statistics, strict=True)
        )
    ]
    yield from table_lines(("field", "redshift", "mean", "std", "min", "max"), rows)


def source_lines(inventory: Inventory) -> Iterator[str]:
    """Yield the origin of a store: its name, commands and source files."""
    yield f"uuid {inventory.uuid}, format {inventory.format_version}"
    yield (f"chunks of {inventory.chunk_cells}³ cells in shards of up to {inventory.shard_cells}³")
    if inventory.n_box is not None:
        mass = inventory.grid_mass_msun
        grid_mass = "" if mass is None else f", a grid mass is {mass:.5g} Msun"
        yield f"N-body mesh of {inventory.n_box:,}³ cells{grid_mass}"
    for command_line in (*inventory.earlier_command_lines, inventory.command_line):
        if command_line:
            yield f"made by: {command_line}"
    yield from table_lines(
        ("source file", "size", "digest", "holds"),
        [
            (
                os.path.join(source.folder or "", source.name),
                bytes_in_words(source.size_bytes),
                source.digest[:19] + "…",  # the algorithm and enough digits to compare by eye
                _taken_from(source),
            )
            for source in inventory.sources
        ],
    )


def _taken_from(source: SourceFile) -> str:
    if not source.fields:  # stores of earlier versions do not record them
        return ""
    redshifts = ", ".join(f"{redshift:g}" for redshift in source.redshifts)
    return f"{', '.join(source.fields)} at {redshifts}"


def _box(inventory: Inventory) -> str:
    if inventory.box_length_cmpc is None:
        box = "box length unknown"
    else:
        box = f"box {inventory.box_length_cmpc:g} cMpc, cell {inventory.cell_size_cmpc:.4g} cMpc"
    cosmology = inventory.cosmology
    if cosmology is None or not (cosmology.name or cosmology.h):
        return box
    name = cosmology.name or "cosmology"
    return box + f", {name}" + (f" (h = {cosmology.h:g})" if cosmology.h else "")


def _by_redshift(inventory: Inventory, counts: Sequence[int]) -> str:
    return ", ".join(
        f"{count:,} at redshift {redshift:g}"
        for redshift, count in zip(inventory.redshifts, counts, strict=True)
        if count
    )


def _units(inventory: Inventory, field: str) -> str:
    units = inventory.fields[field].units
    if field == "n_igm" and units != "unknown":
        return f"{units} ({inventory.density_frame})"
    return units
