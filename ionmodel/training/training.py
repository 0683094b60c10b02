"""Training a network on neighborhoods or tiles, from the stores to the run folder."""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from os import PathLike
from typing import Any

import torch

from ionmodel.config.training_config import TARGET, TrainingConfig
from ionmodel.errors import ConfigError, RunFolderError
from ionmodel.ranks import n_processes
from ionmodel.runs.begin import begin_run
from ionmodel.runs.compatibility import check_stores, check_workers, remarks
from ionmodel.runs.folder import RunFolder, begun_config, check_new, resumed_config
from ionmodel.runs.network import choose_device, full_device_as_message, network_of
from ionmodel.training.data import TrainingData, describe_stores, open_training_data
from ionmodel.training.events import SILENT, Result, TrainingReporter
from ionmodel.training.figures import draw_losses, draw_predictions
from ionmodel.training.trainer import Trainer
from ionstore.errors import UserError
from ionstore.store.cube_store import CubeStore, StoreLike
from ionstore.store.normalization import Normalization


def train(
    store: StoreLike | Sequence[StoreLike] | None = None,
    run: str | PathLike[str] | None = None,
    *,
    preset: str | None = None,
    resume: bool = False,
    reporter: TrainingReporter = SILENT,
    **keys: Any,
) -> Result:
    """Train a network on stores into the folder of a run, like `ionmodel train`.

    Parameters
    ----------
    store : str, Path or CubeStore, or a sequence of them, optional
        Stores to train on; ``cubes.zarr`` by default, or those of a resumed run.
    run : str or Path, optional
        Folder of the run; a new ``runs/<date>-<preset>`` by default.
    preset : str, optional
        Preset that the keys start from; "dense" by default, or that of a resumed run.
    resume : bool
        Continue the run from its checkpoint.
    reporter : TrainingReporter
        Receives notes, stages and progress, and may ask for a stop.
    **keys
        Keys of the configuration that replace those of the preset, such as ``epochs=3``.

    Returns
    -------
    Result
        Scores and history.

    Raises
    ------
    Interrupted
        If the reporter asked for a stop; the run can be resumed.
    ConfigError
        If a key is unknown, or the configuration does not fit the stores or this machine.
    RunFolderError
        If the folder is not empty, or holds no run to resume.
    NotInStoreError, StoreFormatError
        If a store cannot be read, or lacks a field or a redshift.
    MemoryBudgetError
        If fields and batches do not fit the memory budget, or a batch not the device.
    TrainingDivergedError
        If the loss is not finite.

    Examples
    --------
    A small network, trained on a simulated box of 16 cells a side:

    >>> from tempfile import TemporaryDirectory
    >>> from ionstore.cube.mesh import Mesh
    >>> from ionstore.ingest import prepare
    >>> from ionstore.simulate import write_simulation
    >>> tiny = {"radius": 1, "width": 4, "scales": None, "samples_per_epoch": 64, "epochs": 2}
    >>> with TemporaryDirectory() as folder:
    ...     _ = write_simulation(f"{folder}/sim", Mesh(16, box_length_cmpc=64.0), [8.0])
    ...     _ = prepare(f"{folder}/sim", f"{folder}/cubes.zarr").run()
    ...     result = train(f"{folder}/cubes.zarr", f"{folder}/run", device="cpu", **tiny)
    >>> len(result.history), result.best_r2 <= 1
    (2, True)
    """
    given = dict(keys) if preset is None else {**keys, "preset": preset}
    begun = begin_run(store, run, given, resume=resume)
    for sentence in begun.notes:
        reporter.note(sentence)
    return train_run(begun.config, begun.stores, begun.run, reporter=reporter)


def train_run(
    config: TrainingConfig,
    stores: Sequence[CubeStore],
    run: RunFolder,
    *,
    reporter: TrainingReporter = SILENT,
) -> Result:
    """Train a configuration, or continue from the checkpoint of the run."""
    if n_processes() > 1:
        raise ConfigError(
            f"training runs in one process, got {n_processes()} of torchrun; start it without "
            "torchrun"
        )
    with ExitStack() as held:
        # A new folder is made and locked later, so that a refusal leaves nothing behind.
        if not (is_new := not run.path.exists()):
            held.enter_context(run.locked())
        checkpoint = run.read_last()
        if (begun := begun_config(run, checkpoint)) is not None:
            resumed_config(run, begun, config.model_dump())
        if checkpoint is not None:
            _check_resumable(checkpoint, config, stores, run)
            if len(checkpoint["history"]) >= config.epochs and run.prediction_figure.exists():
                return _result(checkpoint["history"], was_finished=True)
        check_workers(config.num_workers)
        check_stores(config, stores)
        for line in remarks(config, stores):
            reporter.note(line)
        device = choose_device(config.device, recompute=bool(config.recompute))
        # First on the device: fields are kept there only where room is left.
        network = network_of(config).to(device)
        data = _open_data(
            config,
            stores,
            run,
            device=device,
            checkpoint=checkpoint,
            is_new=is_new,
            held=held,
            reporter=reporter,
        )
        run.write_config(config)
        run.prediction_figure.unlink(missing_ok=True)  # drawn last: its presence means finished
        trainer = Trainer(
            config, data=data, run=run, network=network, device=device, reporter=reporter
        )
        if checkpoint is not None:
            trainer.restore(checkpoint)
        held.enter_context(full_device_as_message(_batch_must_fit(config, device)))
        reporter.stage("timing a step")
        reporter.plan(trainer.plan())
        # Each step seeds the global generators; the caller's states are as before afterwards.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            try:
                trainer.train()
            finally:  # also of a run that was stopped
                if trainer.history:
                    draw_losses(trainer.history, run.loss_figure, loss=config.loss)
        draw_predictions(trainer.best_predictions(), run.prediction_figure, leaks=config.leaks)
    return _result(trainer.history)


def _check_resumable(
    checkpoint: dict[str, Any],
    config: TrainingConfig,
    stores: Sequence[CubeStore],
    run: RunFolder,
) -> None:
    trained = [entry["uuid"] for entry in checkpoint["stores"]]
    if trained != [store.uuid for store in stores]:
        paths = ", ".join(entry["path"] for entry in checkpoint["stores"])
        raise RunFolderError(
            f"{run.path} was trained on {paths}, got {', '.join(str(s.path) for s in stores)} "
            "(or a store that was ingested again); give the same stores or begin a new run"
        )
    for before, now in zip(checkpoint["stores"], describe_stores(config, stores), strict=True):
        # Checkpoints of older versions hold no radii.
        for name, radii in before.get("radii_cells", {}).items():
            if radii != now["radii_cells"][name]:
                raise RunFolderError(
                    f"{run.path} was trained with {name} of {_in_cells(radii)} in {now['path']}, "
                    f"got {_in_cells(now['radii_cells'][name])}: its box length or cosmology was "
                    "edited; undo that, or begin a new run"
                )
    n_trained = len(checkpoint["history"])
    if config.epochs < n_trained:
        raise RunFolderError(
            f"{run.path}: epochs must be at least {n_trained}, which are already trained, got "
            f"{config.epochs}; leave epochs out, or give more"
        )


def _in_cells(radii: Sequence[float]) -> str:
    return f"{', '.join(dict.fromkeys(f'{radius:.3g}' for radius in radii))} cells"


def _open_data(
    config: TrainingConfig,
    stores: Sequence[CubeStore],
    run: RunFolder,
    *,
    device: torch.device,
    checkpoint: dict[str, Any] | None,
    is_new: bool,
    held: ExitStack,
    reporter: TrainingReporter,
) -> TrainingData:
    """Open the loaders, and claim a new folder before channels go there or after all is read."""
    normalization = None  # of a resumed run as it began, whatever its stores say now
    if checkpoint is not None:
        normalization = Normalization.from_dict(checkpoint["normalization"])
    reporter.stage(f"reading {', '.join(config.inputs)} and {TARGET}")
    has_config = run.config.exists()
    if config.derived_channels:
        if is_new:
            _claim(run, held)
        run.write_config(config)  # to resume with, if the run is stopped meanwhile
    try:
        data = open_training_data(
            config,
            stores,
            normalization=normalization,
            channels_folder=run.channels,
            device=device,
            reporter=reporter,
        )
    except UserError:
        # Leave the disk as it was, but for folders and files that were there.
        if config.derived_channels and is_new:
            shutil.rmtree(run.path, ignore_errors=True)
        elif config.derived_channels and not has_config:  # in an empty folder that was there
            run.config.unlink(missing_ok=True)
            shutil.rmtree(run.channels, ignore_errors=True)
        raise
    held.enter_context(data)
    if is_new and not config.derived_channels:
        _claim(run, held)
    return data


def _claim(run: RunFolder, held: ExitStack) -> None:
    """Make and lock the folder of a new run; refuse one that another process began meanwhile."""
    run.path.mkdir(parents=True, exist_ok=True)
    held.enter_context(run.locked())
    check_new(run.path)


def _batch_must_fit(config: TrainingConfig, device: torch.device) -> str:
    samples, smaller = ("tiles", " or tile") if config.tile else ("neighborhoods", "")
    return (
        f"a batch must fit the memory of device {device.type}, got {config.batch_size} "
        f"{samples} a step, which do not; start a run with a smaller batch_size{smaller}"
    )


def _result(history: Sequence[dict[str, Any]], *, was_finished: bool = False) -> Result:
    best = min(history, key=lambda entry: entry["validation_loss"])
    return Result(
        best["validation_r2"],
        best["epoch"],
        best["validation_cells"],
        history,
        best["leaks"],
        was_finished,
    )
