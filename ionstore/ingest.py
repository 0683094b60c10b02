"""`ingest_cubes`: copy the coeval cubes of a simulation into a store."""

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

from ionstore.attributes import partial_folder
from ionstore.build import StoreBuild, full_disk_as_message
from ionstore.build_plan import BuildPlan, by_redshift, plan_append
from ionstore.cluster import check_scheduler, run_on_cluster
from ionstore.description import from_values
from ionstore.detection import Detection, detect
from ionstore.errors import SourceDataError, StoreExistsError, StoreFormatError
from ionstore.evidence import coarsen, find_contradictions
from ionstore.fields import REQUIRED
from ionstore.ingest_parts import (
    PartWriter,
    Sources,
    check_disk,
    merge_parts,
    require_space,
    take_over,
)
from ionstore.ingest_plan import IngestPlan, OnNote, Surveys, plan_as_json, plan_ingest
from ionstore.inventory import Inventory, take_inventory
from ionstore.layout import CHUNK_CELLS, SHARD_CELLS, Part, plan_layout
from ionstore.object_build import ObjectBuild, start_build
from ionstore.readers.base import FieldSource, Simulation
from ionstore.statistics import FieldStatistics
from ionstore.store import CubeStore
from ionstore.store_writer import StoreWriter, create_store
from ionstore.stored_source import StoredSource
from ionstore.survey import SourceSurvey, check_shapes, check_unchanged, survey_source
from ionstore.threads import Progress, run_in_threads


def ingest_cubes(
    folder: Path,
    target: Path,
    *,
    format_name: str | None = None,
    maps: Mapping[str, Sequence[Path]] | None = None,
    redshifts: Sequence[float] = (),
    source_columns: Sequence[int] = (),
    box_length_cmpc: float | None = None,
    h: float | None = None,
    omega_m: float | None = None,
    omega_b: float | None = None,
    n_box: int | None = None,
    n_src_unit: str | None = None,
    keep_bits: Mapping[str, int] | None = None,
    trust: Collection[str] = (),
    append: bool = False,
    overwrite: bool = False,
    scheduler: str | None = None,
    max_shard_cells: int = SHARD_CELLS,
    chunk_cells: int = CHUNK_CELLS,
    command_line: str | None = None,
    on_detection: Callable[[Detection], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_note: OnNote | None = None,
) -> Inventory:
    """Copy the coeval cubes of a simulation into one store.

    Parameters
    ----------
    folder : Path
        Folder of the simulation.
    target : Path
        Where the store goes; it is built beside, in ``<target>.partial``, and swapped in. Of
        ``s3://bucket/key``, shards are put where they belong and what makes them a store is put
        last.
    format_name, maps, redshifts, source_columns : optional
        Which files to take, as in `ionstore.detection.detect`.
    box_length_cmpc, h, omega_m, omega_b, n_box, n_src_unit : optional
        As in `ionstore.description.SimulationDescription`; they win over what the files say.
    keep_bits : mapping of str to int, optional
        Bits of the mantissa to keep, for fields that are to be rounded; all by default.
    trust : collection of str
        Fields that are taken for what they are said to be, whatever `ionstore.evidence` says.
    append : bool
        Whether to add the redshifts to the store at `target`: the new store, which shares the
        shards of the old one by hard links where it can, is swapped in when it is whole.
    overwrite : bool
        Whether to replace a store at `target`, and to discard an unfinished build of another.
    scheduler : str, optional
        Address of a dask scheduler whose workers write the parts, and see the same files; threads
        of this process do by default.
    max_shard_cells, chunk_cells : int
        As in `ionstore.layout.plan_layout`.
    command_line : str, optional
        Recorded in the store, and named to finish its build with.
    on_detection : callable, optional
        Called with what was found, before any of it is read.
    on_progress : callable, optional
        Called with the bytes done and the total: each value counts twice, once per pass.
    on_note : callable, optional
        Called with each line that the user should read.

    Returns
    -------
    Inventory
        What was stored.

    Raises
    ------
    SourceDataError
        If the simulation is not fit to be ingested; nothing is left behind.
    StoreExistsError
        If there is something at `target` that may not be replaced, another build of it runs, or
        one of other files or with other options was not finished.
    ClusterError
        If no dask scheduler answers, it has no workers, or these end again and again.
    DiskSpaceError
        If the disk cannot hold the store.
    StoreDamageError
        If a shard reads back other than it was written.
    ValueError
        If `max_shard_cells` or `chunk_cells` is below 1.
    OSError
        If a file cannot be read, or nothing can be written at `target`.

    Notes
    -----
    A first pass reads and checks everything before anything is written. Then every shard is
    written by one thread, read back, compared and recorded; a build that was killed is resumed by
    the same call. Memory is bounded by a few shards per thread, not by cubes.
    """
    note = on_note or (lambda line: None)
    if scheduler is not None:
        check_scheduler(scheduler)  # before all is read
        # Other processes may stand elsewhere.
        folder = folder.absolute()
        maps = {name: [path.absolute() for path in paths] for name, paths in (maps or {}).items()}
    with (
        start_build(target, overwrite=overwrite, append=append, on_note=note) as build,
        full_disk_as_message(build.folder),
    ):
        old = _opened(build) if append else None
        detection = detect(
            folder,
            format_name=format_name,
            maps=maps,
            redshifts=redshifts,
            source_columns=source_columns,
            given=from_values(
                {
                    "box_length_cmpc": box_length_cmpc,
                    "h": h,
                    "omega_m": omega_m,
                    "omega_b": omega_b,
                    "n_box": n_box,
                    "n_src_units": n_src_unit,
                }
            ),
        )
        simulation = detection.simulation()
        if on_detection is not None:
            on_detection(detection)
        for line in detection.notes:
            note(line)
        mesh = check_shapes(simulation)
        if old is not None and mesh.cells_per_side == old.mesh.cells_per_side:
            layout = old.layout
        else:
            layout = plan_layout(
                mesh.cells_per_side, chunk_cells=chunk_cells, max_shard_cells=max_shard_cells
            )
        progress = Progress(2 * _source_bytes(simulation), on_progress)
        sources, surveys = _survey(simulation, detection.file_names(), build, progress)
        _check_evidence(sources, trust)
        plan = plan_ingest(simulation, surveys, layout, keep_bits=keep_bits or {}, on_note=note)
        whole = BuildPlan(plan) if old is None else plan_append(old, plan, note)
        sources = _with_old_values(sources, whole, old)
        parts = [part for part in whole.parts if whole.linked(part) is None]
        done = _parts_done(build, whole.store, parts, note, overwrite=overwrite)
        todo = [part for part in parts if part not in done]
        if isinstance(build, StoreBuild):
            check_disk(build, whole.store, sources, len(todo) / len(parts))
        writer = StoreWriter(build.store_path) if done else _begin(build, whole.store, command_line)
        if old is not None:
            take_over(old, whole, writer)
        shard_writer = writer if isinstance(build, StoreBuild) else build.writer(writer)
        part_writer = PartWriter(whole.store, sources, shard_writer, build.books)
        progress.expect(sum(map(part_writer.source_bytes, parts)) - _source_bytes(simulation))
        _write_parts(part_writer, todo, done, progress, scheduler)
        for name, cubes in simulation.cubes.items():
            for redshift, source in cubes.items():
                check_unchanged(source, surveys[name][redshift])
        _finalize(writer, whole, old, surveys, merge_parts(build.books, parts))
        build.publish()
    return take_inventory(CubeStore.open(build.place)).model_copy(update={"path": build.target})


def _survey(
    simulation: Simulation,
    names: Mapping[Path, str],
    build: StoreBuild | ObjectBuild,
    progress: Progress,
) -> tuple[Sources, Surveys]:
    """Check all values; return sources that can be cut into blocks, and what was found."""
    require_space(build, sum(source.spool_bytes for _, _, source in _each_source(simulation)))

    def survey(item: tuple[str, float, FieldSource]) -> tuple[FieldSource, SourceSurvey]:
        name, redshift, source = item
        spool = None
        if source.spool_bytes:
            spool = build.spool_path(name, simulation.redshifts.index(redshift))
        found = survey_source(name, source, spool=spool, on_values=progress.add)
        file = found.file.model_copy(update={"name": names[source.path]})
        found = replace(found, file=file)
        return (source if spool is None else source.from_spool(spool)), found

    items = _each_source(simulation)
    sources: dict[str, dict[float, FieldSource]] = {name: {} for name in simulation.cubes}
    surveys: dict[str, dict[float, SourceSurvey]] = {name: {} for name in simulation.cubes}
    for (name, redshift, _), result in zip(items, run_in_threads(survey, items), strict=True):
        sources[name][redshift], surveys[name][redshift] = result
    return sources, surveys


def _opened(build: StoreBuild | ObjectBuild) -> CubeStore:
    try:
        return CubeStore.open(build.place)
    except StoreFormatError as error:
        raise StoreFormatError(
            f"{build.target}: there is no complete store to add redshifts to; leave --append out "
            "to make one"
        ) from error


def _check_evidence(sources: Sources, trust: Collection[str]) -> None:
    """Refuse fields whose numbers say that they are not what they are said to be."""
    for redshift in next(iter(sources.values())):
        coarse = {field.name: coarsen(sources[field.name][redshift]) for field in REQUIRED}
        for found in find_contradictions(coarse):
            if not set(found.fields) & set(trust):
                path = sources[found.fields[0]][redshift].path
                raise SourceDataError(f"{path}: {found.sentence}")


def _with_old_values(sources: Sources, plan: BuildPlan, old: CubeStore | None) -> Sources:
    """Return where the values of all parts that are written come from."""
    names = [field.name for field in plan.store.fields]
    chosen: dict[str, dict[float, FieldSource]] = {name: dict(sources[name]) for name in names}
    for name in plan.rewritten:
        assert old is not None
        chosen[name] |= {redshift: StoredSource(old, name, redshift) for redshift in old.redshifts}
    return chosen


def _finalize(
    writer: StoreWriter,
    plan: BuildPlan,
    old: CubeStore | None,
    surveys: Surveys,
    statistics: Mapping[str, Mapping[int, FieldStatistics]],
) -> None:
    redshifts = plan.store.redshifts
    counted = {
        count: {
            name: {
                redshifts.index(redshift): getattr(survey, count)
                for redshift, survey in surveys[name].items()
            }
        }
        for name, count in (("xhii", "n_clipped"), ("n_igm", "n_zeros"))
    }
    said = None if old is None else old.attributes
    none = {name: (0,) * len(plan.old_places) for name in ("xhii", "n_igm")}
    writer.finalize(
        {
            field.name: by_redshift(
                plan, field.name, {} if said is None else said.statistics, statistics
            )
            for field in plan.store.fields
        },
        n_clipped={
            "xhii": by_redshift(
                plan,
                "xhii",
                none if said is None else {**none, **said.n_clipped},
                counted["n_clipped"],
            )
        },
        n_zeros={
            "n_igm": by_redshift(
                plan,
                "n_igm",
                none if said is None else {**none, **said.n_zeros},
                counted["n_zeros"],
            )
        },
    )


def _parts_done(
    build: StoreBuild | ObjectBuild,
    plan: IngestPlan,
    parts: list[Part],
    note: OnNote,
    *,
    overwrite: bool,
) -> set[Part]:
    """Return the parts that an earlier run of the same plan has written."""
    recorded = build.plan()
    if recorded is None:
        return set()
    if recorded.get("ingest") != plan_as_json(plan):
        if not overwrite:
            command = recorded.get("command_line")
            raise StoreExistsError(
                f"{partial_folder(build.target)}: an ingest of other files or with other options "
                "was not finished; "
                f"finish it with the command that began it{f' ({command})' if command else ''}, "
                "or discard it with --overwrite"
            )
        note("an unfinished build with other files or options is discarded")
        build.discard()
        return set()
    done = {part for part in parts if build.books.result(part) is not None}
    if done:
        note(f"resuming: {len(done)} of {len(parts)} parts are there already")
    return done


def _begin(
    build: StoreBuild | ObjectBuild, plan: IngestPlan, command_line: str | None
) -> StoreWriter:
    store_uuid = str(uuid.uuid4())
    build.begin({"uuid": store_uuid, "command_line": command_line, "ingest": plan_as_json(plan)})
    return create_store(
        build.store_path,
        plan.mesh,
        plan.redshifts,
        plan.fields,
        cosmology=plan.cosmology,
        sources=plan.sources,
        command_line=command_line,
        store_uuid=store_uuid,
        layout=plan.layout,
        compression=plan.compression,
    )


def _write_parts(
    writer: PartWriter,
    todo: list[Part],
    done: set[Part],
    progress: Progress,
    scheduler: str | None,
) -> None:
    progress.add(sum(map(writer.source_bytes, done)))

    def count(part: Part) -> None:
        progress.add(writer.source_bytes(part))

    def write(part: Part) -> None:
        writer.write(part)
        count(part)

    if scheduler is None:
        run_in_threads(write, todo)
    else:
        run_on_cluster(writer.write, todo, scheduler, count)


def _each_source(simulation: Simulation) -> list[tuple[str, float, FieldSource]]:
    return [
        (name, redshift, cubes[redshift])
        for redshift in simulation.redshifts
        for name, cubes in simulation.cubes.items()
    ]


def _source_bytes(simulation: Simulation) -> int:
    return sum(
        prod(source.shape) * source.dtype.itemsize for _, _, source in _each_source(simulation)
    )
