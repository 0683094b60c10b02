"""`BuildPlan`: what is written into a store, and what is taken over from another; no values."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ionstore.build.store_writer import StoredField
from ionstore.cube.cosmology import Cosmology
from ionstore.cube.description import SimulationDescription, is_same
from ionstore.cube.fields import INPUTS, REQUIRED
from ionstore.cube.mesh import REDSHIFT_ROUNDING, REDSHIFT_TOLERANCE, Mesh
from ionstore.errors import SourceDataError
from ionstore.ingest.ingest_outline import IngestOutline
from ionstore.ingest.plan import IngestPlan, OnNote
from ionstore.ingest.selection import FileSelection
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Part, plan_parts
from ionstore.store.metadata import merge_source_files

Item = TypeVar("Item")


_BOX_TOLERANCE = 1e-4  # 714.29 and 500/0.7 are one box


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What is written into a new store, and what it takes over from an old one as it is.

    Parameters
    ----------
    store : IngestPlan
        The store as it is going to be, with all redshifts.
    old_places : mapping of int to int
        Place of each redshift that is taken over in the new store, to that in the old one.
    rewritten : tuple of str
        Fields whose old values are written anew, as their dtype has to widen.
    """

    store: IngestPlan
    old_places: Mapping[int, int] = field(default_factory=dict)
    rewritten: tuple[str, ...] = ()

    def linked(self, part: Part) -> Part | None:
        """Return the part of the old store that a part is, byte by byte; None if it is written."""
        if part.redshift_index not in self.old_places or part.field in self.rewritten:
            return None
        return dataclasses.replace(part, redshift_index=self.old_places[part.redshift_index])

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts of the new store."""
        names = tuple(one.name for one in self.store.fields)
        return plan_parts(names, len(self.store.redshifts), self.store.layout)


def known_of(store: CubeStore) -> SimulationDescription:
    """Return what a store says of its simulation, for redshifts whose files leave it open."""
    return SimulationDescription(
        box_length_cmpc=store.mesh.box_length_cmpc,
        cosmology=store.cosmology,
        n_box=store.attributes.n_box,
    )


def select_for(store: CubeStore, files: FileSelection) -> FileSelection:
    """Return which files give new redshifts the fields of a store.

    Parameters
    ----------
    store : CubeStore
        The store that is there.
    files : FileSelection
        Which files the user asks for.

    Raises
    ------
    SourceDataError
        If a field of the store is to be left out, or one that it lacks is mapped.
    """
    for name in files.without:
        if name in store.field_names:
            raise SourceDataError(
                f"{store.path} holds {name} at its other redshifts, so new ones cannot lack it; "
                f"leave --without {name} out, or make a store of their own"
            )
    if not any(one.name in store.field_names for one in INPUTS):
        return files  # no store that redshifts of a simulation can be added to
    lacking = [one.name for one in REQUIRED if one.name not in store.field_names]
    for name in lacking:
        if name in files.maps:
            raise SourceDataError(
                f"{store.path} lacks {name} at its other redshifts, so new ones cannot have it; "
                f"leave --map {name} out, or make a store of their own"
            )
    return dataclasses.replace(files, without=lacking)


def check_append(store: CubeStore, outline: IngestOutline) -> None:
    """Check what can be known before any value is read: whether redshifts can be added to a store.

    Parameters
    ----------
    store : CubeStore
        The store that is there.
    outline : IngestOutline
        What is known of the ingest of the new redshifts.

    Raises
    ------
    SourceDataError
        If a redshift is in the store already, a field is missing, or mesh, box, cosmology, N-body
        mesh or rounding are others than those of the store.
    """
    _check_redshifts(store, outline)
    _check_box(store, outline)
    _merged_cosmology(store, outline.known.cosmology)
    _check_conversions(store, outline)
    there, coming = store.attributes.n_box, outline.known.n_box
    if None not in (there, coming) and there != coming:
        raise SourceDataError(
            f"the finest N-body mesh must have the {there} cells a side of {store.path}, whose "
            f"grid masses were converted with it, got {coming}"
        )
    lacking = [name for name in store.field_names if name not in outline.field_names]
    if lacking:
        raise SourceDataError(
            f"{store.path} holds {', '.join(lacking)}, which the new redshifts lack; add the "
            "files, or make a store without them"
        )
    for name in store.field_names:
        if store.dtype(name).kind == "f":
            _check_keep_bits(store, name, outline.keep_bits.get(name))


def plan_append(store: CubeStore, plan: IngestPlan, on_note: OnNote) -> BuildPlan:
    """Return how the redshifts of a planned ingest are added to a store.

    Parameters
    ----------
    store : CubeStore
        The store that is there.
    plan : IngestPlan
        What an ingest of the new redshifts alone would write, on the layout of the store.
    on_note : callable
        Told what is left out.

    Raises
    ------
    SourceDataError
        If frame, units or grid mass are others than those of the store, or for what
        `check_append` raises.
    """
    check_append(store, plan.outline)
    _check_grid_mass(store, plan.grid_mass_msun)
    coming = {one.name: one for one in plan.fields}
    for name in coming:
        if name not in store.field_names:
            on_note(f"{name} is left out: {store.path} does not hold it at its other redshifts")
    fields = tuple(_merged(store, coming[name]) for name in store.field_names)
    redshifts = tuple(sorted((*store.redshifts, *plan.redshifts), reverse=True))
    taken = [file for file in plan.sources if {*file.fields} & {*store.field_names}]
    whole = plan.model_copy(
        update={
            "redshifts": redshifts,
            "fields": fields,
            "box_length_cmpc": store.mesh.box_length_cmpc,
            "cosmology": _merged_cosmology(store, plan.cosmology),
            "n_box": plan.n_box if store.attributes.n_box is None else store.attributes.n_box,
            "grid_mass_msun": store.attributes.grid_mass_msun or plan.grid_mass_msun,
            "compression": {name: store.compression(name) for name in store.field_names},
            "sources": merge_source_files((*store.attributes.sources, *taken)),
        }
    )
    return BuildPlan(
        whole,
        {redshifts.index(redshift): place for place, redshift in enumerate(store.redshifts)},
        tuple(one.name for one in fields if one.numpy_dtype != store.dtype(one.name)),
    )


def by_redshift(plan: BuildPlan, old: Sequence[Item], new: Mapping[int, Item]) -> tuple[Item, ...]:
    """Return what is known of a field at all redshifts, in the order of the new store.

    Parameters
    ----------
    plan : BuildPlan
        What was written and what was taken over.
    old : sequence
        What the old store says, in its order.
    new : mapping of int
        What was found of new redshifts, by place in the new store.
    """
    return tuple(
        old[plan.old_places[place]] if place in plan.old_places else new[place]
        for place in range(len(plan.store.redshifts))
    )


def _check_redshifts(store: CubeStore, outline: IngestOutline) -> None:
    for redshift in outline.redshifts:
        for there in store.redshifts:
            apart = abs(redshift - there) - REDSHIFT_ROUNDING
            if apart <= REDSHIFT_TOLERANCE:
                raise SourceDataError(
                    f"redshift {redshift:g} is in {store.path} already; give --redshift for those "
                    "to add, or --overwrite to make the store anew"
                )
            if apart <= 2 * REDSHIFT_TOLERANCE:
                raise SourceDataError(
                    f"redshifts must differ by more than {2 * REDSHIFT_TOLERANCE:g}, got "
                    f"{redshift:.6g} beside {there:.6g} of {store.path}; leave it out with "
                    "--redshift for the others"
                )


def _check_conversions(store: CubeStore, outline: IngestOutline) -> None:
    """Check that what is converted now would have been converted so when the store was made."""
    edited = store.attributes.edited
    is_converted = any((one.factor, one.offset) != (1, 0) for one in outline.origins)
    if edited and is_converted:
        raise SourceDataError(
            f"{store.path} was converted before an edit changed {', '.join(edited)}, and the new "
            "redshifts would be converted with what it says now; make the store anew"
        )


def _check_box(store: CubeStore, outline: IngestOutline) -> None:
    there = store.mesh
    coming = Mesh(outline.layout.mesh_cells, outline.known.box_length_cmpc)
    if coming.cells_per_side != there.cells_per_side:
        raise SourceDataError(
            f"the mesh must have the {there.cells_per_side} cells a side of {store.path}, got "
            f"{coming.cells_per_side}"
        )
    if coming.box_length_cmpc is None or coming.box_length_cmpc == there.box_length_cmpc:
        return
    if there.box_length_cmpc is None:
        raise SourceDataError(
            f"the box is {coming.box_length_cmpc:g} cMpc, that of {store.path} is unknown; give it "
            f"first: ionstore edit {store.path} --box-length {coming.box_length_cmpc:g}"
        )
    if abs(coming.box_length_cmpc / there.box_length_cmpc - 1) > _BOX_TOLERANCE:
        raise SourceDataError(
            f"the box must have the {there.box_length_cmpc:g} cMpc of {store.path}, got "
            f"{coming.box_length_cmpc:g} cMpc"
        )


def _merged_cosmology(store: CubeStore, coming: Cosmology | None) -> Cosmology | None:
    there = store.cosmology
    if there is None or coming is None:
        return there or coming
    values = {}
    for name in ("h", "omega_m", "omega_b", "sigma_8", "n_s"):
        one, other = getattr(there, name), getattr(coming, name)
        if None not in (one, other) and not is_same(one, other):
            raise SourceDataError(
                f"the cosmology must be that of {store.path}, {name} {one:.9g}, got {other:.9g}"
            )
        values[name] = other if one is None else one
    return Cosmology(name=there.name or coming.name, **values)


def _merged(store: CubeStore, coming: StoredField) -> StoredField:
    """Return how a field is stored at all redshifts."""
    name = coming.name
    units, frame = store.units(name), store.frame if name == "n_igm" else None
    if (units, frame) != (coming.units, coming.frame):
        raise SourceDataError(
            f"{name} must have the units of {store.path}, {_in_words(units, frame)}, got "
            f"{_in_words(coming.units, coming.frame)}; {_way_on(store, coming)}"
        )
    _check_keep_bits(store, name, coming.keep_bits)
    keep_bits = store.keep_bits(name)
    dtype = max(store.dtype(name), coming.numpy_dtype, key=lambda dtype: dtype.itemsize)
    return StoredField(name, str(dtype), units, frame, keep_bits)


def _check_keep_bits(store: CubeStore, name: str, coming: int | None) -> None:
    there = store.keep_bits(name)
    if coming not in (None, there):
        raise SourceDataError(
            f"{name} keeps {there or 'all'} bits in {store.path}, got --keep-bits "
            f"{coming}; leave the option out"
        )


def _check_grid_mass(store: CubeStore, coming: float | None) -> None:
    """Check the mass of a grid mass: after an edit it may differ though all else is the same."""
    there = store.attributes.grid_mass_msun
    if there is None or coming is None:
        return
    if math.isclose(there, coming, rel_tol=4 * _BOX_TOLERANCE):
        return
    raise SourceDataError(
        f"the sources of {store.path} were converted with {there:.9g} Msun a grid mass, got "
        f"{coming:.9g} Msun; give the box length, h, omega_m and n_box that it was made with, or "
        "make it anew with those of now"
    )


def _way_on(store: CubeStore, coming: StoredField) -> str:
    """Say how units and frame of a field could become those of a store."""
    is_source = coming.name == "n_src"
    option = "--n-src-unit" if is_source else "--density-frame"
    there = store.units(coming.name) if is_source else store.frame
    here = coming.units if is_source else coming.frame
    if coming.name in ("n_src", "n_igm") and there == "unknown":
        return f"if the store has them too: ionstore edit {store.path} {option} {here}"
    if is_source and here in ("unknown", "1"):
        return f"give {option} {there} if that is their unit"
    if coming.name == "n_igm" and here == "unknown":
        return f"set density_frame to {there} in simulation.json if that is theirs"
    return "give files in the same ones, or ingest into a store of their own"


def _in_words(units: str, frame: str | None) -> str:
    return units if frame is None else f"{units} ({frame})"
