"""Begin a run, or resume one: its folder, configuration and stores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from ionmodel.config.keys import DEFAULT_PRESET, over_preset, read_preset
from ionmodel.config.training_config import TrainingConfig, make_config
from ionmodel.errors import RunFolderError
from ionmodel.runs.folder import (
    RunFolder,
    begun_config,
    check_begun,
    check_new,
    default_run_folder,
    open_trained_stores,
    resumed_config,
)
from ionmodel.runs.splits import fit_to_mesh
from ionstore.store.cube_store import CubeStore, StoreLike, open_stores

DEFAULT_STORE = Path("cubes.zarr")


@dataclass(frozen=True, slots=True)
class BegunRun:
    """Configuration, stores and folder of a run, and notes for the user."""

    config: TrainingConfig
    stores: tuple[CubeStore, ...]
    run: RunFolder
    notes: tuple[str, ...]


def begin_run(
    store: StoreLike | Sequence[StoreLike] | None,
    path: str | PathLike[str] | None,
    given: Mapping[str, Any],
    *,
    resume: bool = False,
) -> BegunRun:
    """Return the run that a user asks for, with given keys (also ``preset``); writes nothing."""
    if path is None and resume:
        raise RunFolderError("resuming needs the folder of a run; name it with --run")
    if path is not None:
        (check_begun if resume else check_new)(Path(path))
    run = RunFolder(Path(path or default_run_folder(given.get("preset", DEFAULT_PRESET))))
    checkpoint = run.read_last()
    begun = begun_config(run, checkpoint)
    if begun is not None:
        lost = f"{run.path} has no checkpoint: it begins again with its config.toml"
        config = resumed_config(run, begun, given)
        stores = _open_stores(store, run, checkpoint)
        return BegunRun(config, stores, run, (lost,) if checkpoint is None else ())
    preset = read_preset(given.get("preset", DEFAULT_PRESET))
    config = make_config(over_preset(preset, given))
    stores = _open_stores(store, run, checkpoint)  # after the keys, which are quick to check
    # A preset is fitted to the mesh, keys that the user gives are not.
    asked = {key: getattr(config, key) for key in ("radius", "tile", "scales") if key in given}
    fitted = fit_to_mesh(config, stores).model_copy(update=asked)
    return BegunRun(fitted, stores, run, tuple(_changes(config, fitted, stores, preset)))


def _open_stores(
    store: StoreLike | Sequence[StoreLike] | None,
    run: RunFolder,
    checkpoint: Mapping[str, Any] | None,
) -> tuple[CubeStore, ...]:
    if isinstance(store, str | PathLike | CubeStore):
        store = [store]
    if not store and checkpoint is not None:
        return tuple(open_trained_stores(run, checkpoint))
    return tuple(open_stores(store or [DEFAULT_STORE]))


def _changes(
    config: TrainingConfig,
    fitted: TrainingConfig,
    stores: Sequence[CubeStore],
    preset: Mapping[str, Any],
) -> Iterator[str]:
    """Yield notes on how the preset was fitted, and on keys without effect."""
    if config.split != "random" and config.random_cells != preset["random_cells"]:
        yield f"random_cells has no effect: split is {config.split!r}, not 'random'"
    if fitted.radius < config.radius:
        yield (
            f"Radius lowered from {config.radius} to {fitted.radius}, the largest that fits the "
            f"mesh of {min(s.mesh.cells_per_side for s in stores)} cells a side"
        )
    if fitted.tile != config.tile:
        yield (
            f"Tiles lowered from {config.tile} to {fitted.tile} cells a side, the largest that fit"
        )
    if fitted.scales != config.scales:
        kept = ", ".join(f"{scale:g}" for scale in fitted.scales or ()) or "none"
        unit = "cells" if stores[0].mesh.cell_size_cmpc is None else "cMpc"
        yield f"Scales above a quarter of the smallest box are left out; kept: {kept} {unit}"
