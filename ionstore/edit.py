"""`edit_store`: supply what was not known when a store was made."""

import dataclasses
import os
import shutil
from pathlib import Path

from ionstore.build import StoreBuild, full_disk_as_message
from ionstore.cosmology import Cosmology
from ionstore.errors import SourceDataError, StoreExistsError
from ionstore.grid import Mesh
from ionstore.store import CubeStore
from ionstore.store_writer import write_attributes, write_cell_centers


def edit_store(
    path: Path, *, box_length_cmpc: float | None = None, h: float | None = None
) -> CubeStore:
    """Change the box length or the Hubble constant of a store.

    Parameters
    ----------
    path : Path
        Folder of the store, or a symbolic link to it.
    box_length_cmpc : float, optional
        Comoving side of the box in cMpc; the coordinates x, y, z follow. As it was by default.
    h : float, optional
        Hubble constant today in units of 100 km/s/Mpc. As it was by default.

    Returns
    -------
    CubeStore
        The store as it is now, in its real folder where `path` is a link.

    Raises
    ------
    StoreFormatError
        If there is no complete store.
    SourceDataError
        If a value is not positive.
    StoreExistsError
        If the store is being built or edited, or an ingest into it was not finished.
    DiskSpaceError
        If the disk is full.
    OSError
        If nothing can be written beside the store.

    Notes
    -----
    The metadata are changed in a copy that shares the shards by hard links (where the file system
    has them), and the copy is swapped in: a reader sees the store before or after, never between.
    """
    for name, value in (("box length", box_length_cmpc), ("h", h)):
        if value is not None and not 0 < value < float("inf"):
            raise SourceDataError(f"the {name} must be positive, got {value}")
    store = CubeStore.open(path)
    with StoreBuild(path, overwrite=True) as build, full_disk_as_message(build.folder):
        if build.plan() is not None:
            raise StoreExistsError(
                f"{build.folder}: an ingest into this store was not finished; "
                "finish it, or remove the folder, before editing"
            )
        build.discard()
        shutil.copytree(build.place, build.store_path, copy_function=_link)
        changed = store.attributes
        if box_length_cmpc is not None:
            changed = changed.model_copy(update={"box_length_cmpc": box_length_cmpc})
            _rewrite_cell_centers(
                build.store_path, Mesh(store.mesh.cells_per_side, box_length_cmpc)
            )
        if h is not None:
            cosmology = dataclasses.replace(store.cosmology or Cosmology(), h=h)
            changed = changed.model_copy(update={"cosmology": cosmology})
        write_attributes(build.store_path, changed)
        build.publish()
    return CubeStore.open(build.place)


def _rewrite_cell_centers(path: Path, mesh: Mesh) -> None:
    import zarr

    group = zarr.open_group(path, mode="r+", zarr_format=3, use_consolidated=False)
    write_cell_centers(group, mesh)


def _link(source: str, target: str) -> None:
    # Metadata are copied: writing them in place would reach through a link into the old store.
    if os.path.basename(source) != "zarr.json":
        try:
            os.link(source, target)
        except OSError:
            pass
        else:
            return
    shutil.copy2(source, target)
