"""Check and plan that redshifts are added to a store; no values are read."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from ionstore.build.base import Build
from ionstore.build.store_writer import StoredField
from ionstore.cube.cosmology import Cosmology
from ionstore.cube.description import SimulationDescription, is_same
from ionstore.cube.fields import INPUTS, REQUIRED
from ionstore.cube.mesh import REDSHIFT_ROUNDING, REDSHIFT_TOLERANCE, Mesh
from ionstore.errors import SourceDataError, StoreFormatError
from ionstore.ingest.plan import IngestOutline, IngestPlan
from ionstore.ingest.selection import FileSelection
from ionstore.reporter import Reporter
from ionstore.store.cube_store import CubeStore
from ionstore.store.metadata import merge_source_files

Item = TypeVar("Item")

_BOX_TOLERANCE = 1e-4  # 714.29 and 500/0.7 are one box


def find_old(build: Build) -> CubeStore:
    """Open the store that redshifts are added to, before its build is entered."""
    build.check_target()  # names what is there if it is no store at all
    try:
        return open_old(build)
    except StoreFormatError:
        if not build.folder.exists():
            raise
        # A kill between the two renames of a swap leaves the store beside its place, and entering
        # the build puts it back.
        with build:
            return open_old(build)


def open_old(build: Build) -> CubeStore:
    """Open the store that redshifts are added to."""
    try:
        return CubeStore.open(build.place)
    except StoreFormatError as error:
        raise StoreFormatError(
            f"{build.target}: there is no complete store to add redshifts to; leave --append out "
            "to make one"
        ) from error


def known_of(store: CubeStore) -> SimulationDescription:
    """Return what a store says about its simulation, for redshifts whose files do not say it."""
    return SimulationDescription(
        box_length_cmpc=store.mesh.box_length_cmpc,
        cosmology=store.cosmology,
        n_box=store.attributes.n_box,
    )


def select_for(store: CubeStore, files: FileSelection) -> FileSelection:
    """Return which files give new redshifts the fields of a store."""
    for name in files.without:
        if name in store.field_names:
            raise SourceDataError(
                f"{store.path} holds {name} at its other redshifts, so new ones cannot lack it; "
                f"leave --without {name} out, or make a store of their own"
            )
    if not any(one.name in store.field_names for one in INPUTS):
        return files  # a store of predictions, to which no redshifts of a simulation can be added
    lacking = [one.name for one in REQUIRED if one.name not in store.field_names]
    for name in lacking:
        if name in files.maps:
            raise SourceDataError(
                f"{store.path} lacks {name} at its other redshifts, so new ones cannot have it; "
                f"leave --map {name} out, or make a store of their own"
            )
    # New redshifts need not have what the store lacks.
    return replace(files, without=lacking)


def check_append(store: CubeStore, outline: IngestOutline) -> None:
    """Check whether redshifts can be added to a store, as far as is known before reading values."""
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


def plan_append(store: CubeStore, plan: IngestPlan, reporter: Reporter) -> IngestPlan:
    """Return the plan of a store with its old redshifts and those of a plan on the same layout."""
    _check_grid_mass(store, plan.grid_mass_msun)
    coming = {one.name: one for one in plan.fields}
    for name in coming:
        if name not in store.field_names:
            reporter.note(
                f"{name} is left out: {store.path} does not hold it at its other redshifts"
            )
    fields = tuple(_merged(store, coming[name]) for name in store.field_names)
    redshifts = tuple(sorted((*store.redshifts, *plan.redshifts), reverse=True))
    # Files of fields that the store does not hold leave no trace in it.
    taken = [file for file in plan.sources if {*file.fields} & {*store.field_names}]
    return plan.model_copy(
        update={
            "redshifts": redshifts,
            "fields": fields,
            "box_length_cmpc": store.mesh.box_length_cmpc,
            "cosmology": _merged_cosmology(store, plan.cosmology),
            "n_box": plan.n_box if store.attributes.n_box is None else store.attributes.n_box,
            "grid_mass_msun": store.attributes.grid_mass_msun or plan.grid_mass_msun,
            "compression": {name: store.compression(name) for name in store.field_names},
            "sources": merge_source_files((*store.attributes.sources, *taken)),
            "old_places": {
                redshifts.index(old): place for place, old in enumerate(store.redshifts)
            },
            "rewritten": tuple(
                one.name for one in fields if one.numpy_dtype != store.dtype(one.name)
            ),
        }
    )


def by_redshift(plan: IngestPlan, old: Sequence[Item], new: Mapping[int, Item]) -> tuple[Item, ...]:
    """Return what is known of a field at all redshifts of a store.

    `old` is in the order of the old store, `new` by redshift index of the new one.
    """
    return tuple(
        old[plan.old_places[place]] if place in plan.old_places else new[place]
        for place in range(len(plan.redshifts))
    )


def _check_redshifts(store: CubeStore, outline: IngestOutline) -> None:
    for redshift in outline.redshifts:
        for there in store.redshifts:
            # Rounding of float64 must not make two redshifts differ.
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
    # Counts widen from uint8 to uint16, or to float32; old values are then written anew.
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
