"""`ingest_cubes`: copy the coeval cubes of a simulation into a store."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

from ionstore.build import StoreBuild, full_disk_as_message
from ionstore.description import from_values
from ionstore.detection import Detection, detect
from ionstore.errors import StoreExistsError
from ionstore.ingest_parts import PartWriter, Sources, check_disk, merge_parts, require_space
from ionstore.ingest_plan import IngestPlan, OnNote, Surveys, plan_as_json, plan_ingest
from ionstore.inventory import Inventory, take_inventory
from ionstore.layout import CHUNK_CELLS, SHARD_CELLS, Part, plan_layout, plan_parts
from ionstore.readers.base import FieldSource, Simulation
from ionstore.store import CubeStore
from ionstore.store_writer import StoreWriter, create_store
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
    overwrite: bool = False,
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
        Where the store goes; it is built beside, in ``<target>.partial``, and swapped in.
    format_name, maps, redshifts, source_columns : optional
        Which files to take, as in `ionstore.detection.detect`.
    box_length_cmpc, h, omega_m, omega_b, n_box, n_src_unit : optional
        As in `ionstore.description.SimulationDescription`; they win over what the files say.
    keep_bits : mapping of str to int, optional
        Bits of the mantissa to keep, for fields that are to be rounded; all by default.
    overwrite : bool
        Whether to replace a store at `target`, and to discard an unfinished build of another.
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
    with StoreBuild(target, overwrite=overwrite) as build, full_disk_as_message(build.folder):
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
        layout = plan_layout(
            mesh.cells_per_side, chunk_cells=chunk_cells, max_shard_cells=max_shard_cells
        )
        progress = Progress(2 * _source_bytes(simulation), on_progress)
        sources, surveys = _survey(simulation, detection.file_names(), build, progress)
        plan = plan_ingest(simulation, surveys, layout, keep_bits=keep_bits or {}, on_note=note)
        parts = plan_parts(tuple(sources), len(plan.redshifts), layout)
        done = _parts_done(build, plan, parts, note)
        todo = [part for part in parts if part not in done]
        check_disk(build, plan, sources, len(todo) / len(parts))
        writer = StoreWriter(build.store_path) if done else _begin(build, plan, command_line)
        _write_parts(PartWriter(plan, sources, writer, build), todo, done, progress)
        for name, cubes in simulation.cubes.items():
            for redshift, source in cubes.items():
                check_unchanged(source, surveys[name][redshift])
        writer.finalize(
            merge_parts(build, parts, len(plan.redshifts)),
            n_clipped={"xhii": [surveys["xhii"][z].n_clipped for z in plan.redshifts]},
            n_zeros={"n_igm": [surveys["n_igm"][z].n_zeros for z in plan.redshifts]},
        )
        build.publish()
    return take_inventory(CubeStore.open(build.place)).model_copy(update={"path": target})


def _survey(
    simulation: Simulation, names: Mapping[Path, str], build: StoreBuild, progress: Progress
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


def _parts_done(
    build: StoreBuild, plan: IngestPlan, parts: tuple[Part, ...], note: OnNote
) -> set[Part]:
    """Return the parts that an earlier run of the same plan has written."""
    recorded = build.plan()
    if recorded is None:
        return set()
    if recorded.get("ingest") != plan_as_json(plan):
        if not build.overwrite:
            command = recorded.get("command_line")
            raise StoreExistsError(
                f"{build.folder}: an ingest of other files or with other options was not finished; "
                f"finish it with the command that began it{f' ({command})' if command else ''}, "
                "or discard it with --overwrite"
            )
        note("an unfinished build with other files or options is discarded")
        build.discard()
        return set()
    done = {part for part in parts if build.result(part) is not None}
    if done:
        note(f"resuming: {len(done)} of {len(parts)} parts are there already")
    return done


def _begin(build: StoreBuild, plan: IngestPlan, command_line: str | None) -> StoreWriter:
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


def _write_parts(writer: PartWriter, todo: list[Part], done: set[Part], progress: Progress) -> None:
    progress.add(sum(map(writer.source_bytes, done)))

    def write(part: Part) -> None:
        writer.write(part)
        progress.add(writer.source_bytes(part))

    run_in_threads(write, todo)


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
