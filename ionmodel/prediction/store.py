"""Predict the boxes of a store into another store, shard by shard."""

import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ionmodel.channels.cache import remove_channels
from ionmodel.errors import ConfigError, RunFolderError
from ionmodel.prediction.channels import found_channels, with_derived_channels
from ionmodel.prediction.plan import (
    DEFAULT_MEMORY_BYTES,
    PredictionPlan,
    plan_prediction,
    redshifts_of,
)
from ionmodel.prediction.predictor import Predictor, check_numbers
from ionmodel.prediction.reporter import PREDICTING_STAGE, SILENT, PredictionReporter
from ionmodel.ranks import Ranks, joined_ranks
from ionmodel.runs.compatibility import check_store
from ionstore.build.base import Build
from ionstore.build.parts import PartRecords, merge_parts, write_part
from ionstore.build.shard_writer import ShardWriter
from ionstore.build.start import start_build
from ionstore.build.store_writer import StoredField, StoreOrigin, StoreWriter, create_store
from ionstore.cube.fields import PREDICTED
from ionstore.cube.mesh import Corner, Fields
from ionstore.errors import StoreExistsError, StoreFormatError, UserError
from ionstore.info import Inventory, take_inventory
from ionstore.sampling.regions import pieces_on_mesh
from ionstore.storage.digest import in_words, start_digest
from ionstore.storage.disk_space import full_disk_as_message
from ionstore.storage.paths import StorePath, absolute, parse_place
from ionstore.store.cube_store import CubeStore, StoreLike, open_store
from ionstore.store.layout import Part
from ionstore.store.metadata import ROOT_METADATA, SourceFile, read_root_metadata


@dataclass(frozen=True, slots=True)
class _Task:
    """A network, the store that it predicts, and the plan."""

    predictor: Predictor
    store: CubeStore
    plan: PredictionPlan

    @property
    def identity(self) -> dict[str, Any]:
        """Return everything that decides the values, to recognize an unfinished prediction."""
        # Not the uuid alone: `ionstore edit` changes lengths and units but keeps it.
        store = self.store
        return {
            "network": self.predictor.digest,
            "store": store.uuid,
            "box_length_cmpc": store.mesh.box_length_cmpc,
            "units": {name: store.units(name) for name in self.predictor.config.inputs},
            "cosmology": store.cosmology and asdict(store.cosmology),
            "redshifts": list(self.plan.redshifts),
        }

    def sources(self) -> list[SourceFile]:
        """Return the files that decide a prediction: the network, and the root of the store."""
        network, root = self.predictor, (self.store.path / ROOT_METADATA).read_bytes()
        digest = start_digest()
        digest.update(root)
        return [
            SourceFile(
                name=name,
                size_bytes=size_bytes,
                digest=digest_in_words,
                folder=str(absolute(folder)),
                fields=(PREDICTED.name,),
                redshifts=self.plan.redshifts,
            )
            for folder, name, size_bytes, digest_in_words in (
                (network.path.parent, network.path.name, network.size_bytes, network.digest),
                (self.store.path, ROOT_METADATA, len(root), in_words(digest)),
            )
        ]


@dataclass(frozen=True, slots=True)
class _Work:
    """Writer and records of the predicted shards, the same in all processes."""

    writer: ShardWriter
    records: PartRecords


def predict_store(
    predictor: Predictor,
    store: StoreLike,
    target: str | os.PathLike[str],
    *,
    redshifts: Sequence[float] = (),
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    overwrite: bool = False,
    command_line: str | None = None,
    reporter: PredictionReporter = SILENT,
) -> Inventory | None:
    """Predict the boxes of a store into a new store, with the field `xhii_predicted`.

    Parameters
    ----------
    predictor : Predictor
        The network, from `load`.
    store : CubeStore, str or Path
        Store with its inputs, or its path.
    target : str or Path
        Path of the predicted store: a folder, or ``s3://bucket/key``.
    redshifts : sequence of float
        Redshifts to predict, in any order; all by default.
    memory_bytes : int
        Bound on the memory of a process, on top of Python and torch themselves.
    overwrite : bool
        Replace a prediction at `target`.
    command_line : str, optional
        Recorded in the store.
    reporter : PredictionReporter
        Receives notes, the plan and progress.

    Returns
    -------
    Inventory or None
        Contents of the new store; None in processes other than the first.

    Raises
    ------
    ConfigError
        If the store does not fit the network, a predicted value is not finite, or processes on
        several machines cannot share the derived channels.
    MemoryBudgetError
        If the memory, or that of the device, is too small.
    NotInStoreError
        If the store does not hold a redshift.
    RunFolderError
        If processes have loaded different networks.
    StoreExistsError
        If `target` exists and may not be overwritten, or another build of it runs or is unfinished.
    StoreFormatError
        If `target` is an address without a key in a bucket.
    StoreDamageError
        If the store is damaged, or a written shard reads back with other values.
    DiskSpaceError
        If the disk is full.
    OSError
        If something cannot be read or written.

    Notes
    -----
    Shards are predicted, written, read back and recorded one by one, so that a stopped prediction
    continues with the first shard that is missing. Processes of torchrun share out the shards.

    Derived channels are computed first, in a folder beside `target` that is removed at the end.
    Those of the run are reused if it was trained on the same store.
    """
    place, store = parse_place(target), open_store(store)
    with joined_ranks() as ranks, ExitStack() as held:
        _check_same_network(predictor, ranks)
        taken = redshifts_of(store, redshifts)
        unlike = check_store(predictor.config, predictor.trained, store, taken)
        _check_target(place, store, overwrite=overwrite)
        build = start_build(place, overwrite=overwrite, reporter=reporter)
        folder = build.folder_beside("channels")
        plan = plan_prediction(
            predictor,
            store,
            redshifts=taken,
            memory_bytes=memory_bytes,
            n_processes=ranks.world,
            computes_channels=found_channels(predictor, store, taken, folder) is None,
        )

        def enter() -> PredictionPlan:
            held.enter_context(build)
            # Before the channels, so that a refusal does not come after a long computation.
            left = _parts_left(build, _Task(predictor, store, plan))
            held.enter_context(full_disk_as_message(build.folder))
            for sentence in unlike:
                reporter.unlike(sentence)
            reporter.plan(replace(plan, left=left))
            return replace(plan, left=left)

        # Only the first process takes the lock of the build; if it is refused, all of them raise.
        plan = ranks.from_first(enter)
        if folder is None:
            folder = _temporary_folder(place, predictor, ranks, held)
        with_inputs = ranks.from_first(
            lambda: with_derived_channels(
                predictor,
                store,
                plan.redshifts,
                folder,
                memory_bytes=memory_bytes,
                reporter=reporter,
            )
        )
        task = _Task(predictor, with_inputs, plan)
        work = ranks.from_first(lambda: _begin(build, task, command_line))
        _write_parts(task, work, ranks, reporter)
        ranks.wait_for_all()  # the first process finishes the store from the shards of all
        if not ranks.is_first:
            return None
        merged = merge_parts(build.records, plan.parts)[PREDICTED.name]
        statistics = [merged[index] for index in range(len(plan.redshifts))]
        StoreWriter(build.store_path).finalize({PREDICTED.name: statistics})
        build.publish()
        remove_channels(folder)  # last, because a stopped prediction continues with them
    return take_inventory(CubeStore.open(build.place)).model_copy(update={"path": build.target})


def _check_same_network(predictor: Predictor, ranks: Ranks) -> None:
    """Refuse different networks: a training may replace the checkpoint while processes start."""
    if ranks.from_first(lambda: predictor.digest) != predictor.digest:
        raise RunFolderError(
            f"{predictor.path}: all processes must predict with the same network, got several, "
            "because a training replaced it while they started; run the same command again"
        )


def _check_target(target: StorePath, store: CubeStore, *, overwrite: bool) -> None:
    """Refuse a target inside the store that is read, and overwrite nothing but predictions."""
    if _lies_in(target, store.path):
        raise StoreExistsError(
            f"{target}: this is, or lies in, the store that is predicted from; choose another "
            "place with --out"
        )
    if overwrite:
        _check_replaced(target)


def _lies_in(target: StorePath, store: StorePath) -> bool:
    """Tell if a target is a store or lies inside it."""
    if isinstance(target, Path) and isinstance(store, Path):  # links may lead into the store
        return Path(os.path.realpath(target)).is_relative_to(os.path.realpath(store))
    return f"{target}/".startswith(f"{store}/")


def _check_replaced(target: StorePath) -> None:
    """Refuse to replace anything but a prediction."""
    try:
        read_root_metadata(target)
    except StoreFormatError:
        return  # no store; the build refuses other things that are in the way
    try:
        fields = CubeStore.open(target).field_names
    except UserError as error:
        raise StoreExistsError(
            f"{target}: --overwrite replaces predictions, this store cannot be read ({error}); "
            "move it, or choose another place with --out"
        ) from error
    if fields != (PREDICTED.name,):
        raise StoreExistsError(
            f"{target}: --overwrite replaces predictions, this store holds {', '.join(fields)}; "
            "choose another place with --out"
        )


def _temporary_folder(
    target: StorePath, predictor: Predictor, ranks: Ranks, held: ExitStack
) -> Path:
    """Return a folder for channels that ends with the process; other machines cannot see it."""
    if ranks.n_machines > 1 and predictor.config.derived_channels:
        raise ConfigError(
            f"{target}: derived channels are kept in a temporary folder of one machine "
            f"while a bucket is written, got processes on {ranks.n_machines}; predict into "
            "a folder that all of them see, or on one machine"
        )
    return Path(held.enter_context(TemporaryDirectory(prefix="ionmodel-channels-")))


def _begin(build: Build, task: _Task, command_line: str | None) -> _Work:
    """Begin a store, or continue an unfinished one."""
    store, plan = task.store, task.plan
    if plan.left == plan.parts:  # a build that was killed before its first part may lack a store
        store_uuid = str(uuid.uuid4())
        said = {"uuid": store_uuid, "command_line": command_line, "prediction": task.identity}
        build.begin(said)
        writer = create_store(
            build.store_path,
            store.mesh,
            plan.redshifts,
            [StoredField(PREDICTED.name, "float32", PREDICTED.units)],
            StoreOrigin(
                uuid=store_uuid,
                cosmology=store.cosmology,
                sources=tuple(task.sources()),
                command_line=command_line,
            ),
            layout=store.layout,
        )
    else:
        writer = StoreWriter(build.store_path)
    return _Work(build.shard_writer(writer), build.records)


def _parts_left(build: Build, task: _Task) -> tuple[Part, ...]:
    """Return the missing parts; refuse to mix two predictions in one store."""
    parts, before = task.plan.parts, build.plan()
    if before is None:
        return parts
    if before.get("prediction") == task.identity:
        return tuple(part for part in parts if build.records.result(part) is None)
    if "prediction" not in before:
        raise StoreExistsError(
            f"{build.target}: an ingest into this store was not finished; finish it, or choose "
            "another place with --out"
        )
    if build.overwrite:
        return parts  # all of them, because shards of another network must not stay
    raise StoreExistsError(
        f"{build.target}: an unfinished prediction is there, of another network, store or "
        "redshifts, or from before the store was edited; finish it with the command that began it, "
        "or discard it with --overwrite"
    )


def _write_parts(task: _Task, work: _Work, ranks: Ranks, reporter: PredictionReporter) -> None:
    """Predict and write the shards of this process."""
    plan = task.plan
    # In turn, so that the processes have equally many shards, up to one.
    mine = plan.left[ranks.rank :: ranks.world]
    done = plan.n_cells - plan.n_cells_left
    total = done + sum(map(plan.cells_of, mine))
    reporter.stage(PREDICTING_STAGE)
    reporter.progress(done, total)
    for part in mine:
        # A default argument keeps the value of `done` at this part; the variable changes.
        def report(n_cells: int, before: int = done) -> None:
            reporter.progress(before + n_cells, total)

        _write_part(task, work, part, report)
        done += plan.cells_of(part)


def _write_part(task: _Task, work: _Work, part: Part, on_cells: Callable[[int], None]) -> None:
    """Predict and write a part."""
    # A function of its own, so that its arrays are freed before those of the next part are made.
    predictor, store, plan = task.predictor, task.store, task.plan
    start, shape = store.layout.shard_region(part.shard)
    redshift = plan.redshifts[part.redshift_index]
    block = read_inputs(predictor, store, redshift, start, shape)
    values = predictor.predict_block(block, tile=plan.tile, on_cells=on_cells)
    check_numbers(values, f"at redshift {redshift:g}")
    write_part(part, values, work.writer, work.records)


def read_inputs(
    predictor: Predictor, store: CubeStore, redshift: float, start: Corner, shape: Corner
) -> Fields:
    """Read the normalized inputs of a block and its periodic halo; the redshift comes last."""
    r = predictor.radius
    first = np.array(start, np.int64) - r
    widths = np.array(shape, np.int64) + 2 * r
    # Normalized while decoding, straight into place, to avoid a second copy of a shard in memory.
    block = np.empty((predictor.config.n_channels, *widths), np.float32)
    predictor.fill_redshift(block, redshift)
    for channel, name in enumerate(predictor.config.channel_names):
        conversion = predictor.normalization.conversion(store, name, redshift)
        for place, corner in pieces_on_mesh(first, widths, store.mesh.cells_per_side):
            store.read_into(name, redshift, corner, block[channel][place], conversion=conversion)
    return block
