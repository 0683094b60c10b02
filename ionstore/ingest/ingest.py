"""`ingest_cubes`: copy the coeval cubes of a simulation into a store."""

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ionstore.build.base import Build
from ionstore.build.parts import merge_parts
from ionstore.build.start import start_build
from ionstore.build.store_writer import StoreWriter, create_store
from ionstore.cube.description import SimulationDescription
from ionstore.cube.statistics import FieldStatistics
from ionstore.errors import StoreExistsError, StoreFormatError
from ionstore.info import Inventory, take_inventory
from ionstore.ingest.append import (
    BuildPlan,
    by_redshift,
    check_append,
    known_of,
    plan_append,
    select_for,
)
from ionstore.ingest.cluster import check_scheduler, run_on_cluster
from ionstore.ingest.detect import FoundSimulation, detect
from ionstore.ingest.first_pass import check_all_unchanged, source_bytes, survey_simulation
from ionstore.ingest.ingest_outline import IngestOutline, find_origins
from ionstore.ingest.plan import (
    IngestPlan,
    OnNote,
    check_keep_bits,
    name_source_file,
    plan_as_json,
    plan_ingest,
)
from ionstore.ingest.selection import ALL_FILES, FileSelection
from ionstore.ingest.stored_source import StoredSource
from ionstore.ingest.survey import SourceSurvey, Surveys, check_shapes
from ionstore.ingest.surveyed_source import SurveyedSource
from ionstore.ingest.write import PartWriter, check_disk, take_over
from ionstore.readers.arrays.bucket import FlatObject
from ionstore.readers.arrays.flat import FlatArray
from ionstore.readers.base import FieldSource, Simulation, Sources
from ionstore.storage.disk_space import full_disk_as_message
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import CHUNK_CELLS, SHARD_CELLS, Part, plan_layout
from ionstore.store.metadata import partial_folder
from ionstore.threads import ProgressCounter, run_in_threads


def ingest_cubes(
    folder: Path,
    target: Path,
    files: FileSelection = ALL_FILES,
    *,
    given: SimulationDescription | None = None,
    keep_bits: Mapping[str, int] | None = None,
    trust: Collection[str] = (),
    append: bool = False,
    overwrite: bool = False,
    scheduler: str | None = None,
    max_shard_cells: int = SHARD_CELLS,
    chunk_cells: int = CHUNK_CELLS,
    command_line: str | None = None,
    on_detection: Callable[[FoundSimulation], None] | None = None,
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
    files : FileSelection
        Which files to take.
    given : SimulationDescription, optional
        What the user says of the simulation; it wins over what files say.
    keep_bits : mapping of str to int, optional
        Bits of the mantissa to keep, for fields that are to be rounded; all by default.
    trust : collection of str
        Fields that are taken for what they are said to be, whatever `ionstore.ingest.plausibility`
        says.
    append : bool
        Whether to add the redshifts to the store at `target`: the new store, which shares the
        shards of the old one by hard links where it can, is swapped in when it is whole.
    overwrite : bool
        Whether to replace a store at `target`, and to discard an unfinished build of another.
    scheduler : str, optional
        Address of a dask scheduler whose workers write the parts, and see the same files; threads
        of this process do by default.
    max_shard_cells, chunk_cells : int
        As in `ionstore.store.layout.plan_layout`.
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
    with (
        start_build(target, overwrite=overwrite, append=append, on_note=note) as build,
        full_disk_as_message(build.folder),
    ):
        old = _opened(build) if append else None
        if old is not None:
            files = select_for(old, files)
        detection = detect(
            folder, files, given=given, otherwise=None if old is None else known_of(old)
        )
        simulation = detection.simulation()
        if on_detection is not None:
            on_detection(detection)
        for line in detection.notes:
            note(line)
        names = {
            path: name_source_file(path, folder, files.maps) for path in detection.file_names()
        }
        outline = outline_ingest(
            *(detection.known, simulation, names),
            old=old,
            keep_bits=keep_bits or {},
            chunk_cells=chunk_cells,
            max_shard_cells=max_shard_cells,
        )
        _check_unfinished(build, {"outline": outline.as_json()}, overwrite=overwrite)
        progress = ProgressCounter(2 * source_bytes(simulation), on_progress)
        sources, surveys = survey_simulation(simulation, names, build, progress, trust=trust)
        plan = plan_ingest(simulation, surveys, outline, trust=trust, on_note=note)
        whole = BuildPlan(plan) if old is None else plan_append(old, plan, note)
        sources = _with_old_values(_as_surveyed(sources, surveys, simulation), whole, old)
        parts = [part for part in whole.parts if whole.linked(part) is None]
        done = _parts_done(build, whole.store, parts, note, overwrite=overwrite)
        todo = [part for part in parts if part not in done]
        check_disk(build, whole.store, sources, len(todo) / len(parts))
        writer = (
            StoreWriter(build.store_path) if done else _begin(build, whole.store, command_line, old)
        )
        if old is not None:
            take_over(old, whole, writer.shards)
        shards = build.shard_writer(writer)
        if scheduler is not None:
            sources = _with_shared_spools(sources, whole.store, todo, build)
        part_writer = PartWriter(whole.store, sources, shards, build.records)
        progress.expect(sum(map(part_writer.source_bytes, parts)) - source_bytes(simulation))
        _write_parts(part_writer, todo, done, progress, scheduler)
        build.check()  # before its records are read
        check_all_unchanged(simulation, surveys)
        _finalize(writer, whole, old, surveys, merge_parts(build.records, parts))
        build.publish()
    return take_inventory(CubeStore.open(build.place)).model_copy(update={"path": build.target})


def outline_ingest(
    known: SimulationDescription,
    simulation: Simulation,
    names: Mapping[Path, tuple[str, str]],
    *,
    old: CubeStore | None = None,
    keep_bits: Mapping[str, int],
    chunk_cells: int = CHUNK_CELLS,
    max_shard_cells: int = SHARD_CELLS,
) -> IngestOutline:
    """Return what an ingest starts from, once all is checked that can be before values are read.

    Parameters
    ----------
    known : SimulationDescription
        What is known of the simulation.
    simulation : Simulation
        Its cubes.
    names : mapping of Path to (str, str)
        Folder and name by which each file is recorded.
    old : CubeStore, optional
        The store that redshifts are added to, whose layout is taken.
    keep_bits, chunk_cells, max_shard_cells : optional
        As in `ingest_cubes`.

    Raises
    ------
    SourceDataError
        If the cubes are of several meshes, a field cannot be rounded, or the redshifts do not fit
        the store.
    OSError
        If a file is gone.
    """
    cells = check_shapes(simulation).cells_per_side
    if old is not None and cells == old.mesh.cells_per_side:
        layout = old.layout
    else:
        layout = plan_layout(cells, chunk_cells=chunk_cells, max_shard_cells=max_shard_cells)
    outline = IngestOutline(
        origins=find_origins(simulation, names),
        known=known,
        layout=layout,
        keep_bits=keep_bits,
        appended_to=None if old is None else old.uuid,
    )
    check_keep_bits(outline.keep_bits, outline.field_names)
    if old is not None:
        check_append(old, outline)
    return outline


def _opened(build: Build) -> CubeStore:
    try:
        return CubeStore.open(build.place)
    except StoreFormatError as error:
        raise StoreFormatError(
            f"{build.target}: there is no complete store to add redshifts to; leave --append out "
            "to make one"
        ) from error


def _as_surveyed(sources: Sources, surveys: Surveys, simulation: Simulation) -> Sources:
    """Return sources whose values are those that were surveyed; spooled ones are in any case."""
    return {
        name: {
            redshift: source
            if simulation.cubes[name][redshift].spool_bytes
            else SurveyedSource(source, surveys[name][redshift])
            for redshift, source in cubes.items()
        }
        for name, cubes in sources.items()
    }


def _with_old_values(sources: Sources, plan: BuildPlan, old: CubeStore | None) -> Sources:
    """Return where the values of all parts that are written come from."""
    names = [field.name for field in plan.store.fields]
    chosen: dict[str, dict[float, FieldSource]] = {name: dict(sources[name]) for name in names}
    for name in plan.rewritten:
        assert old is not None
        chosen[name] |= {redshift: StoredSource(old, name, redshift) for redshift in old.redshifts}
    return chosen


def _with_shared_spools(
    sources: Sources, plan: IngestPlan, todo: list[Part], build: Build
) -> Sources:
    """Return sources whose spooled values, where they are still needed, other machines see."""
    needed = {(part.field, plan.redshifts[part.redshift_index]) for part in todo}

    def shared(name: str, redshift: float, source: FieldSource) -> FieldSource:
        spooled = isinstance(source, FlatArray) and source.path.parent == build.folder
        if not spooled or (name, redshift) not in needed:
            return source
        place = build.share_spool(source.path)
        if isinstance(place, Path):
            return source
        return FlatObject(place, source.shape, source.dtype, source.fortran_order)

    return {
        name: {redshift: shared(name, redshift, source) for redshift, source in cubes.items()}
        for name, cubes in sources.items()
    }


def _finalize(
    writer: StoreWriter,
    plan: BuildPlan,
    old: CubeStore | None,
    surveys: Surveys,
    statistics: Mapping[str, Mapping[int, FieldStatistics]],
) -> None:
    """Complete the store with what is known of old and new redshifts."""
    place_of = {redshift: place for place, redshift in enumerate(plan.store.redshifts)}
    said = old.attributes if old is not None else None

    def counts(
        name: str, before: Mapping[str, Sequence[int]], now: Callable[[SourceSurvey], int]
    ) -> dict[str, Sequence[int]]:
        if name not in statistics:
            return {}
        new = {place_of[redshift]: now(survey) for redshift, survey in surveys[name].items()}
        return {name: by_redshift(plan, before.get(name, (0,) * len(plan.old_places)), new)}

    writer.finalize(
        {
            name: by_redshift(plan, said.statistics[name] if said is not None else (), new)
            for name, new in statistics.items()
        },
        n_clipped=counts(
            "xhii", said.n_clipped if said is not None else {}, lambda one: one.n_clipped
        ),
        n_zeros=counts("n_igm", said.n_zeros if said is not None else {}, lambda one: one.n_zeros),
    )


def _parts_done(
    build: Build,
    plan: IngestPlan,
    parts: list[Part],
    note: OnNote,
    *,
    overwrite: bool,
) -> set[Part]:
    """Return the parts that an earlier run of the same plan has written."""
    if build.plan() is None:
        return set()
    if not _check_unfinished(build, plan_as_json(plan), overwrite=overwrite):
        note("an unfinished build with other files or options is discarded")
        build.discard()
        return set()
    done = {part for part in parts if build.records.result(part) is not None}
    if done:
        note(f"resuming: {len(done)} of {len(parts)} parts are there already")
    return done


def _check_unfinished(build: Build, plan: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Tell whether an unfinished build, if there is one, is of a plan, or of what is known of it.

    Raises
    ------
    StoreExistsError
        If it is of another, and is not to be overwritten.
    """
    recorded = build.plan()
    if recorded is None:
        return True
    ingest = recorded.get("ingest", {})
    is_of_plan = all(ingest.get(key) == value for key, value in plan.items())
    if not (is_of_plan or overwrite):
        command = recorded.get("command_line")
        what = "an ingest of other files or with other options"
        if "prediction" in recorded:
            what = "a prediction"
        raise StoreExistsError(
            f"{partial_folder(build.target)}: {what} was not finished; "
            f"finish it with the command that began it{f' ({command})' if command else ''}, "
            "or discard it with --overwrite"
        )
    return is_of_plan


def _begin(
    build: Build,
    plan: IngestPlan,
    command_line: str | None,
    old: CubeStore | None,
) -> StoreWriter:
    store_uuid = str(uuid.uuid4())
    build.begin({"uuid": store_uuid, "command_line": command_line, "ingest": plan_as_json(plan)})
    return create_store(
        build.store_path,
        plan.mesh,
        plan.redshifts,
        plan.fields,
        cosmology=plan.cosmology,
        n_box=plan.n_box,
        grid_mass_msun=plan.grid_mass_msun,
        sources=plan.sources,
        command_line=command_line,
        earlier_command_lines=() if old is None else old.attributes.command_lines,
        store_uuid=store_uuid,
        layout=plan.layout,
        compression=plan.compression,
    )


def _write_parts(
    writer: PartWriter,
    todo: list[Part],
    done: set[Part],
    progress: ProgressCounter,
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
        sources = {
            name: {redshift: source.absolute() for redshift, source in cubes.items()}
            for name, cubes in writer.sources.items()
        }
        run_on_cluster(replace(writer, sources=sources).write, todo, scheduler, count)
