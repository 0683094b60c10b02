"""`edit_store`: correct the box, cosmology and units of a store."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ionstore.build.folder import FolderBuild
from ionstore.build.store_writer import write_attributes, write_cell_centers
from ionstore.cube.cosmology import Cosmology
from ionstore.cube.description import check_known
from ionstore.cube.fields import N_IGM, N_SRC
from ionstore.cube.mesh import Mesh
from ionstore.cube.units import N_SRC_UNITS, KnownFrame, contradiction_to_frame
from ionstore.errors import SourceDataError, StoreExistsError, StoreFormatError
from ionstore.reporter import Reporter
from ionstore.storage.disk_space import full_disk_as_message
from ionstore.storage.files import link_or_copy
from ionstore.storage.paths import parse_place
from ionstore.storage.s3 import ObjectPath
from ionstore.store.cube_store import CubeStore
from ionstore.store.metadata import ROOT_METADATA, how_to_finish, partial_folder


class EditReporter(Reporter):
    """Receive what `edit_store` reports; this one ignores it."""

    def opened(self, store: CubeStore) -> None:
        """Receive the store as it is before the edit."""


SILENT = EditReporter()


def edit_store(
    path: str | os.PathLike[str],
    *,
    box_length_cmpc: float | Callable[[float | None], float | None] | None = None,
    h: float | None = None,
    omega_m: float | None = None,
    omega_b: float | None = None,
    n_src_unit: str | None = None,
    density_frame: KnownFrame | None = None,
    reporter: EditReporter = SILENT,
) -> CubeStore:
    """Change what a store records about its values; the values stay.

    Parameters
    ----------
    path : str or Path
        Folder of the store, or a symbolic link to it.
    box_length_cmpc : float or callable, optional
        Comoving side of the box in cMpc, or a function that returns it for h (None if unknown).
        The coordinates x, y, z follow. Unchanged by default, as all that follows.
    h : float, optional
        Hubble constant today in units of 100 km/s/Mpc.
    omega_m, omega_b : float, optional
        Density parameters of matter and of baryons today.
    n_src_unit : str, optional
        Unit of sources that are not stored as counts, one of `ionstore.cube.units.N_SRC_UNITS`.
    density_frame : {"proper", "comoving"}, optional
        Frame of the gas density, whose unit is then g/cm3.
    reporter : EditReporter
        Receives the store as it is before the edit, and notes: if the mean gas density contradicts
        the frame, and if stored values were converted with a number that is changed.

    Returns
    -------
    CubeStore
        The store as it is now, in its real folder where `path` is a link.

    Raises
    ------
    StoreFormatError
        If there is no complete store, or it is in an object store.
    SourceDataError
        If a value is not positive, or the unit is not one that the stored sources can have.
    NotInStoreError
        If the store does not hold the field.
    StoreExistsError
        If the store is being built or edited, a build of it was not finished, or it is
        write-protected.
    DiskSpaceError
        If the disk is full.
    OSError
        If nothing can be written beside the store.

    Notes
    -----
    The metadata are changed in a copy that shares the shards by hard links (where the file system
    has them), and the copy is swapped in: a reader sees the store before or after, never between.
    """
    parameters = _without_nones(h=h, omega_m=omega_m, omega_b=omega_b)
    for name, value in parameters.items():
        _check_positive(name, value)
    place = parse_place(path)
    if isinstance(place, ObjectPath):
        raise StoreFormatError(
            f"{place}: only a store in a folder can be edited; edit a copy, or ingest again "
            "with what is known now"
        )
    if not partial_folder(place).exists():
        CubeStore.open(place)  # raises before a build is made beside a folder that is no store
    # The store is read inside the build, because entering it restores a store that an earlier edit,
    # killed between two renames, had moved away.
    with (
        full_disk_as_message(place, resumes=False),
        FolderBuild(place, overwrite=True) as build,
    ):
        store = CubeStore.open(place)
        reporter.opened(store)
        if build.plan() is not None:
            raise StoreExistsError(
                f"{build.folder}: a build of this store was not finished; "
                f"{how_to_finish(build.folder)}, or remove the folder, before editing"
            )
        cosmology = _with_parameters(store.cosmology, parameters)
        if callable(box_length_cmpc):
            box_length_cmpc = box_length_cmpc(cosmology.h if cosmology else None)
        if box_length_cmpc is not None:
            _check_positive("box length", box_length_cmpc)
        attributes = {}
        if n_src_unit is not None:
            attributes[N_SRC.name] = {"units": _checked_unit(store, n_src_unit)}
        if density_frame is not None:
            _check_frame(store, density_frame, cosmology, reporter)
            attributes[N_IGM.name] = {"units": N_IGM.units, "frame": density_frame}
        build.discard()
        _link_tree(build.place, build.store_path)
        edited = _changed(store, {**parameters, "box_length_cmpc": box_length_cmpc})
        for name, before in edited.items():
            reporter.note(
                f"{name} was {before:g}; values that were converted with it stay as they are, "
                "ingest again to convert them anew"
            )
        changed = store.attributes.model_copy(
            update={
                "cosmology": cosmology,
                "edited": tuple(sorted({*store.attributes.edited, *edited})),
            }
        )
        if box_length_cmpc is not None:
            changed = changed.model_copy(update={"box_length_cmpc": box_length_cmpc})
            _rewrite_cell_centers(
                build.store_path, Mesh(store.mesh.cells_per_side, box_length_cmpc)
            )
        _update_fields(build.store_path, attributes)
        write_attributes(build.store_path, changed)
        build.publish()
    return CubeStore.open(build.place)


def _without_nones(**values: float | None) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _with_parameters(
    cosmology: Cosmology | None, parameters: Mapping[str, Any]
) -> Cosmology | None:
    """Return a cosmology with some parameters changed, checked against each other."""
    if not parameters:
        return cosmology
    changed = dataclasses.replace(cosmology or Cosmology(), **parameters)
    known = dataclasses.asdict(changed)
    check_known({key: value for key, value in known.items() if key != "name"})
    return changed


def _check_frame(
    store: CubeStore, frame: KnownFrame, cosmology: Cosmology | None, reporter: Reporter
) -> None:
    """Report a contradiction of the mean densities to a frame; the user may know better."""
    store.units(N_IGM.name)  # raises where there is no density
    means = {redshift: store.statistics(N_IGM.name, redshift).mean for redshift in store.redshifts}
    contradiction = contradiction_to_frame(frame, means, cosmology)
    if contradiction is not None:
        reporter.note(contradiction)


def _changed(store: CubeStore, given: Mapping[str, float | None]) -> dict[str, float]:
    """Return the earlier values of known parameters that the edit changes."""
    known = {"box_length_cmpc": store.mesh.box_length_cmpc}
    if store.cosmology is not None:
        known |= dataclasses.asdict(store.cosmology)
    return {
        name: before
        for name, value in given.items()
        if value is not None and (before := known.get(name)) is not None and before != value
    }


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise SourceDataError(f"the {name} must be positive, got {value}")


def _checked_unit(store: CubeStore, unit: str) -> str:
    if unit not in N_SRC_UNITS:
        units = ", ".join(N_SRC_UNITS)
        raise SourceDataError(f"the unit of n_src must be one of {units}, got {unit}")
    if store.attributes.grid_mass_msun is not None and unit != "Msun":
        raise SourceDataError(
            f"{store.path}: n_src was converted from grid masses to Msun when it was ingested, so "
            f"its unit is Msun, got {unit}; ingest the simulation again with --n-src-unit {unit}"
        )
    if store.dtype(N_SRC.name).kind == "u" and unit != "1":
        raise SourceDataError(
            f"{store.path}: n_src is stored as counts, whose unit is 1, got {unit}; if they "
            f"are not counts, ingest the simulation again with --n-src-unit {unit}"
        )
    return unit


def _update_fields(path: Path, attributes: Mapping[str, Mapping[str, str]]) -> None:
    """Change attributes of arrays; the caller then consolidates the metadata."""
    import zarr

    for name, changed in attributes.items():
        zarr.open_array(path / name, mode="r+", zarr_format=3).attrs.update(changed)


def _rewrite_cell_centers(path: Path, mesh: Mesh) -> None:
    import zarr

    group = zarr.open_group(path, mode="r+", zarr_format=3, use_consolidated=False)
    write_cell_centers(group, mesh)


def _link_tree(source: Path, target: Path) -> None:
    """Copy a store for an edit: shards are shared, permissions are not kept."""
    target.mkdir()
    for path in source.iterdir():
        if path.is_dir():
            _link_tree(path, target / path.name)
        # Metadata are copied: a write in place would reach the old store through a hard link.
        elif path.name == ROOT_METADATA:
            shutil.copyfile(path, target / path.name)
        else:
            link_or_copy(path, target / path.name)
