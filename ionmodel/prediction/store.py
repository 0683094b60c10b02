"""`predict_store`: whole boxes, block by block, from one store into another."""

import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ionmodel.errors import ConfigError, RunFolderError
from ionmodel.prediction.channels import find_channels, remove_channels, with_channels_of_run
from ionmodel.prediction.plan import (
    DEFAULT_MEMORY_BYTES,
    PredictionPlan,
    chosen_redshifts,
    plan_prediction,
)
from ionmodel.prediction.predictor import Predictor, check_numbers
from ionmodel.ranks import Ranks, joined_ranks
from ionmodel.runs.compatibility import check_store
from ionstore.build.bucket import ObjectBuild, start_build
from ionstore.build.folder import StoreBuild
from ionstore.build.parts import ObjectBooks, PartBooks, merge_parts, write_part
from ionstore.build.shard_writer import ShardWriter
from ionstore.build.store_writer import StoredField, StoreWriter, create_store
from ionstore.cube.fields import PREDICTED
from ionstore.cube.mesh import Corner, Fields
from ionstore.errors import StoreExistsError, StoreFormatError, UserError
from ionstore.info import Inventory, take_inventory
from ionstore.sampling.regions import pieces_on_mesh
from ionstore.storage.digest import in_words, start_digest
from ionstore.storage.disk_space import full_disk_as_message
from ionstore.storage.paths import StorePath, absolute
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Part
from ionstore.store.metadata import ROOT_METADATA, SourceFile, read_root_metadata


@dataclass(frozen=True, slots=True)
class _Task:
    """What is predicted, with which network, and how."""

    predictor: Predictor
    store: CubeStore
    plan: PredictionPlan

    @property
    def identity(self) -> dict[str, Any]:
        """Return what decides the values, so that two builds can be compared."""
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
        """Return the files that it is made from: the network, and the root of the store."""
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
    """Where what is predicted goes; the same for all processes."""

    writer: ShardWriter
    books: PartBooks | ObjectBooks


def predict_store(
    predictor: Predictor,
    store: CubeStore,
    target: Path,
    *,
    redshifts: Sequence[float] = (),
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    overwrite: bool = False,
    command_line: str | None = None,
    on_note: Callable[[str], None] = lambda line: None,
    on_unlike: Callable[[str], None] = lambda line: None,
    on_plan: Callable[[PredictionPlan], None] = lambda plan: None,
    on_channels: Callable[[int, int], None] = lambda done, total: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Inventory | None:
    """Predict the boxes of a store into a new store, with the field `xhii_predicted`.

    Parameters
    ----------
    predictor : Predictor
        The network.
    store : CubeStore
        Store with its inputs.
    target : Path
        Where the predicted store goes: a folder, or ``s3://bucket/key``.
    redshifts, memory_bytes
        As in `plan_prediction`.
    overwrite : bool
        Whether a prediction at `target` may be replaced.
    command_line : str, optional
        Recorded in the store.
    on_note : callable
        Told what is made beside the predicted store.
    on_unlike : callable
        Told what is unlike training, in a sentence with the numbers for each thing.
    on_plan : callable
        Told what will be done, and what of it is left.
    on_channels : callable
        Told how many derived channels are done and how many there are, while they are computed.
    on_progress : callable
        Told the cells that are done and all there are, those of this process.

    Returns
    -------
    Inventory or None
        What was stored; None in processes other than the first.

    Raises
    ------
    ConfigError
        If the store does not fit the network, the network predicts what is no number, or
        processes on several machines cannot share the derived channels.
    MemoryBudgetError
        If the memory is too small, or that of the device.
    NotInStoreError
        If the store does not hold a redshift.
    RunFolderError
        If processes have loaded different networks.
    StoreExistsError
        If there is something at `target` (other than a prediction, where that may be replaced), or
        another build of it runs or was not finished.
    StoreDamageError
        If the store is damaged, or what was written reads back otherwise.
    DiskSpaceError
        If the disk is full.
    OSError
        If something cannot be read or written.

    Notes
    -----
    Shards are predicted one after the other, written, read back and recorded: a prediction that
    was stopped goes on with the shard it was at. Under torchrun, processes share out the shards.

    Derived channels are computed first, into a folder beside `target`, which goes when the
    prediction is done; those of the run are taken where it was trained on the same store.
    """
    with joined_ranks() as ranks, ExitStack() as held:
        if ranks.from_first(lambda: predictor.digest) != predictor.digest:
            raise RunFolderError(
                f"{predictor.path}: all processes must predict with the same network, got several, "
                "for a training replaced it while they were started; run the same command again"
            )
        taken = chosen_redshifts(store, redshifts)
        unlike = check_store(predictor.config, predictor.trained, store, taken)
        if _lies_in(target, store.path):
            raise StoreExistsError(
                f"{target}: this is, or lies in, the store that is predicted from; choose another "
                "place with --out"
            )
        if overwrite:
            _check_replaced(target)
        build = start_build(target, overwrite=overwrite, on_note=on_note)
        folder = None
        if isinstance(build, StoreBuild):
            folder = build.place.with_name(f"{build.place.name}.channels")
        plan = plan_prediction(
            predictor,
            store,
            redshifts=taken,
            memory_bytes=memory_bytes,
            n_processes=ranks.world,
            computes_channels=find_channels(predictor, store, taken, folder) is None,
        )
        task = _Task(predictor, store, plan)

        def enter() -> PredictionPlan:
            held.enter_context(build)
            # A refusal does not wait for channels.
            rest = replace(plan, left=_parts_left(build, task))
            held.enter_context(full_disk_as_message(build.folder))
            for line in unlike:
                on_unlike(line)
            on_plan(rest)
            return rest

        plan = ranks.from_first(enter)
        if folder is None:
            if ranks.n_machines > 1 and predictor.config.derived_channels:
                raise ConfigError(
                    f"{target}: derived channels are kept in a temporary folder of one machine "
                    f"while a bucket is written, got processes on {ranks.n_machines}; predict into "
                    "a folder that all of them see, or on one machine"
                )
            folder = Path(held.enter_context(TemporaryDirectory(prefix="ionmodel-channels-")))
        with_inputs = ranks.from_first(
            lambda: with_channels_of_run(
                predictor,
                store,
                plan.redshifts,
                folder,
                memory_bytes=memory_bytes,
                on_note=on_note,
                on_channels=on_channels,
            )
        )
        task = _Task(predictor, with_inputs, plan)
        work = ranks.from_first(lambda: _begin(build, task, command_line))
        _write_parts(task, work, ranks, on_progress)
        ranks.wait_for_all()
        if not ranks.is_first:
            return None
        merged = merge_parts(build.books, plan.parts)[PREDICTED.name]
        statistics = [merged[index] for index in range(len(plan.redshifts))]
        StoreWriter(build.store_path).finalize({PREDICTED.name: statistics})
        build.publish()
        remove_channels(folder)
    return take_inventory(CubeStore.open(build.place)).model_copy(update={"path": build.target})


def _lies_in(target: StorePath, store: StorePath) -> bool:
    """Whether a target is a store, or something below it."""
    if isinstance(target, Path) and isinstance(store, Path):
        return Path(os.path.realpath(target)).is_relative_to(os.path.realpath(store))
    return f"{target}/".startswith(f"{store}/")


def _check_replaced(target: StorePath) -> None:
    """Refuse to replace a store that is not known to be a prediction."""
    try:
        read_root_metadata(target)
    except StoreFormatError:
        return  # there is no store: the build says if something else is in the way
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


def _begin(build: StoreBuild | ObjectBuild, task: _Task, command_line: str | None) -> _Work:
    """Begin a store, or take up one that was not finished."""
    store, plan = task.store, task.plan
    if plan.left == plan.parts:  # killed before its first part, a build may have no store yet
        store_uuid = str(uuid.uuid4())
        said = {"uuid": store_uuid, "command_line": command_line, "prediction": task.identity}
        build.begin(said)
        writer = create_store(
            build.store_path,
            store.mesh,
            plan.redshifts,
            [StoredField(PREDICTED.name, "float32", PREDICTED.units)],
            cosmology=store.cosmology,
            sources=task.sources(),
            command_line=command_line,
            store_uuid=store_uuid,
            layout=store.layout,
        )
    else:
        writer = StoreWriter(build.store_path)
    shards = writer.shards if isinstance(build, StoreBuild) else build.shard_writer(writer)
    return _Work(shards, build.books)


def _parts_left(build: StoreBuild | ObjectBuild, task: _Task) -> tuple[Part, ...]:
    """Return the parts that are not done: all where this prediction was not begun before."""
    parts, before = task.plan.parts, build.plan()
    if before is None:
        return parts
    if before.get("prediction") == task.identity:
        return tuple(part for part in parts if build.books.result(part) is None)
    if "prediction" not in before:
        raise StoreExistsError(
            f"{build.target}: an ingest into this store was not finished; finish it, or choose "
            "another place with --out"
        )
    if build.overwrite:
        return parts
    raise StoreExistsError(
        f"{build.target}: another prediction of this store was not finished, of another network, "
        "store or redshifts, or before the store was edited; finish it with the command that began "
        "it, or discard it with --overwrite"
    )


def _write_parts(
    task: _Task, work: _Work, ranks: Ranks, on_progress: Callable[[int, int], None]
) -> None:
    plan = task.plan
    mine = plan.left[ranks.rank :: ranks.world]
    done = plan.n_cells - plan.n_cells_left
    total = done + sum(map(plan.cells_of, mine))
    on_progress(done, total)
    for part in mine:

        def report(n_cells: int, before: int = done) -> None:
            on_progress(before + n_cells, total)

        _write_part(task, work, part, report)
        done += plan.cells_of(part)


def _write_part(task: _Task, work: _Work, part: Part, on_cells: Callable[[int], None]) -> None:
    """Predict and write a part; its arrays end here, before those of the next one are made."""
    predictor, store, plan = task.predictor, task.store, task.plan
    start, shape = store.layout.shard_region(part.shard)
    redshift = plan.redshifts[part.redshift_index]
    block = read_inputs(predictor, store, redshift, start, shape)
    values = predictor.predict_block(block, tile=plan.tile, on_cells=on_cells)
    check_numbers(values, f"at redshift {redshift:g}")
    write_part(part, values, work.writer, work.books)


def read_inputs(
    predictor: Predictor, store: CubeStore, redshift: float, start: Corner, shape: Corner
) -> Fields:
    """Read the normalized inputs of a block and of the cells around it, across the faces.

    Parameters
    ----------
    predictor : Predictor
        Says which inputs, and how far around.
    store : CubeStore
        Store that holds them, derived channels included.
    redshift : float
        Redshift of the cube.
    start, shape : tuple of three int
        First cell of the block, and its cells along each axis.

    Returns
    -------
    ndarray of float32, shape (channel, a + 2 r, b + 2 r, c + 2 r)
        Normalized while it is decoded; the redshift last where the network sees it.

    Raises
    ------
    StoreDamageError
        If a chunk is damaged.
    OSError
        If a file cannot be read.
    """
    r = predictor.radius
    first = np.array(start, np.int64) - r
    widths = np.array(shape, np.int64) + 2 * r
    block = np.empty((predictor.config.n_channels, *widths), np.float32)
    predictor.fill_redshift(block, redshift)
    for channel, name in enumerate(predictor.config.channel_names):
        conversion = predictor.normalization.conversion(store, name, redshift)
        for place, corner in pieces_on_mesh(first, widths, store.mesh.cells_per_side):
            store.read_into(name, redshift, corner, block[channel][place], conversion=conversion)
    return block
