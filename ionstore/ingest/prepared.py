"""`prepare` finds the cubes of a simulation; `PreparedIngest.run` copies them into a store."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ionstore.build.base import Build
from ionstore.build.parts import merge_parts
from ionstore.build.start import start_build
from ionstore.build.store_writer import StoreOrigin, StoreWriter, create_store
from ionstore.cube.description import SimulationDescription
from ionstore.errors import SourceDataError, StoreExistsError
from ionstore.info import Inventory, take_inventory
from ionstore.ingest.append import (
    check_append,
    find_old,
    known_of,
    open_old,
    plan_append,
    select_for,
)
from ionstore.ingest.cluster import check_scheduler
from ionstore.ingest.detect import FoundSimulation, detect
from ionstore.ingest.plan import (
    IngestOutline,
    IngestPlan,
    check_keep_bits,
    find_origins,
    name_source_file,
    plan_ingest,
)
from ionstore.ingest.selection import ALL_FILES, FileSelection, IngestOptions
from ionstore.ingest.survey import (
    FileName,
    check_all_unchanged,
    check_shapes,
    source_bytes,
    survey_simulation,
)
from ionstore.ingest.write import (
    PartWriter,
    check_disk,
    finalize,
    take_over,
    with_old_values,
    with_shared_spools,
    write_parts,
)
from ionstore.readers.base import Simulation
from ionstore.reporter import SILENT, Reporter
from ionstore.storage.disk_space import full_disk_as_message
from ionstore.storage.paths import StorePath, parse_place
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Part, plan_layout
from ionstore.store.metadata import partial_folder
from ionstore.threads import ProgressCounter


@dataclass(frozen=True, slots=True)
class PreparedIngest:
    """An ingest whose files were found and checked, but for their values; `run` it.

    Attributes
    ----------
    found : FoundSimulation
        Which file holds which field at which redshift, and what is known of the simulation.
    problems : tuple of str
        What stands in the way, one sentence each; empty where nothing does.
    """

    found: FoundSimulation
    problems: tuple[str, ...]
    _target: StorePath
    _names: Mapping[Path, FileName]
    _old: CubeStore | None  # the store that redshifts are added to
    _overwrite: bool
    _options: IngestOptions

    def run(
        self,
        reporter: Reporter = SILENT,
        *,
        scheduler: str | None = None,
        command_line: str | None = None,
    ) -> Inventory:
        """Read and check all values, write the store, and put it in its place.

        Parameters
        ----------
        reporter : Reporter
            Gets notes, and as progress the bytes done: each value counts once for each pass.
        scheduler : str, optional
            Address of a dask scheduler whose workers write the parts, and see the same files;
            threads of this process do by default.
        command_line : str, optional
            Recorded in the store, and named as the command that finishes its build.

        Returns
        -------
        Inventory
            Contents of the store.

        Raises
        ------
        SourceDataError, StoreExistsError, ClusterError, DiskSpaceError, StoreDamageError, OSError
            As `ingest_cubes`.
        """
        if scheduler is not None:
            check_scheduler(scheduler)  # before anything is read
        append = self._old is not None
        with (
            start_build(
                self._target, overwrite=self._overwrite, append=append, reporter=reporter
            ) as build,
            full_disk_as_message(build.folder),
        ):
            # Only now does the lock keep other processes from changing it.
            old = self._old_unchanged(build)
            simulation = self.found.simulation()
            for line in self.found.notes:
                reporter.note(line)
            outline = outline_ingest(self.found.known, simulation, self._names, old, self._options)
            # An unfinished build of another ingest is refused before values are read for hours;
            # the whole plan is compared once they are read.
            self._is_resumed(build, outline.fingerprint())
            # Every value is read twice: now, and when its part is written.
            progress = ProgressCounter(2 * source_bytes(simulation), reporter.progress)
            sources, surveys = survey_simulation(
                simulation, self._names, build, progress, trust=self._options.trust
            )
            plan = plan_ingest(
                simulation, surveys, outline, trust=self._options.trust, reporter=reporter
            )
            if old is not None:
                plan = plan_append(old, plan, reporter)
            sources = with_old_values(sources, plan, old)
            # The others are hard links to shards of the old store.
            parts = [part for part in plan.parts if plan.linked(part) is None]
            done = self._parts_done(build, plan, parts, reporter)
            todo = [part for part in parts if part not in done]
            check_disk(build, plan, sources, len(todo) / len(parts))
            writer = (
                StoreWriter(build.store_path) if done else _begin(build, plan, command_line, old)
            )
            if old is not None:
                take_over(old, plan, writer.shards)
            if scheduler is not None:
                sources = with_shared_spools(sources, plan, todo, build)
            part_writer = PartWriter(plan, sources, build.shard_writer(writer), build.records)
            progress.expect(sum(map(part_writer.source_bytes, parts)) - source_bytes(simulation))
            write_parts(part_writer, todo, done, progress, scheduler)
            build.check()  # before its records are read
            # Statistics of the survey must be those of the values that were written.
            check_all_unchanged(simulation, surveys)
            finalize(writer, plan, old, surveys, merge_parts(build.records, parts))
            build.publish()
        return take_inventory(CubeStore.open(build.place)).model_copy(update={"path": build.target})

    def _old_unchanged(self, build: Build) -> CubeStore | None:
        """Open the store that redshifts are added to again, now under the lock of the build."""
        if self._old is None:
            return None
        old = open_old(build)
        if old.attributes != self._old.attributes:
            raise StoreExistsError(
                f"{build.target}: another process changed this store while redshifts were prepared "
                "for it; run the same command again"
            )
        return old

    def _is_resumed(self, build: Build, fingerprint: Mapping[str, Any]) -> bool:
        """Tell whether an unfinished build, if there is one, is of this ingest.

        Raise StoreExistsError if it is of another, and is not to be overwritten.
        """
        recorded = build.plan()
        if recorded is None:
            return True
        ingest = recorded.get("ingest", {})
        is_same = all(ingest.get(key) == value for key, value in fingerprint.items())
        if not (is_same or self._overwrite):
            command = recorded.get("command_line")
            what = "an ingest of other files or with other options"
            if "prediction" in recorded:
                what = "a prediction"
            raise StoreExistsError(
                f"{partial_folder(build.target)}: {what} was not finished; "
                f"finish it with the command that began it{f' ({command})' if command else ''}, "
                "or discard it with --overwrite"
            )
        return is_same

    def _parts_done(
        self, build: Build, plan: IngestPlan, parts: list[Part], reporter: Reporter
    ) -> set[Part]:
        """Return the parts that an earlier run of the same plan has written."""
        if build.plan() is None:
            return set()
        if not self._is_resumed(build, plan.fingerprint()):
            reporter.note("an unfinished build with other files or options is discarded")
            build.discard()
            return set()
        done = {part for part in parts if build.records.result(part) is not None}
        if done:
            reporter.note(f"resuming: {len(done)} of {len(parts)} parts are there already")
        return done


def prepare(
    folder: str | Path,
    target: str | StorePath,
    files: FileSelection = ALL_FILES,
    *,
    given: SimulationDescription | None = None,
    box_length_cmpc_h: float | None = None,
    append: bool = False,
    overwrite: bool = False,
    options: IngestOptions | None = None,
) -> PreparedIngest:
    """Find the files of an ingest and what stands in its way; read no values, write nothing.

    Parameters
    ----------
    folder, target, files, given, box_length_cmpc_h, append, overwrite, options
        As in `ingest_cubes`.

    Raises
    ------
    SourceDataError
        If there is nothing at a path, a field, a format or a column is not known, or a file that
        is needed is truncated or damaged.
    StoreFormatError
        If redshifts are to be added to a store that is not there, or lies in an object store.
    OSError
        If a file cannot be read.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from ionstore.cube import Mesh
    >>> from ionstore.simulate import write_simulation
    >>> with TemporaryDirectory() as folder:
    ...     _ = write_simulation(f"{folder}/sim", Mesh(16, box_length_cmpc=64.0), [8.0])
    ...     ingest = prepare(f"{folder}/sim", f"{folder}/cubes.zarr")
    ...     assert not ingest.problems
    ...     ingest.run().redshifts
    (8.0,)
    """
    folder, options = Path(folder), options or IngestOptions()
    build = start_build(parse_place(target), overwrite=overwrite, append=append)
    old = find_old(build) if append else None
    if old is not None:
        files = select_for(old, files)
    found = detect(
        folder,
        files,
        given=given,
        box_length_cmpc_h=box_length_cmpc_h,
        otherwise=None if old is None else known_of(old),
    )
    names = {path: name_source_file(path, folder, files.maps) for path in found.paths()}
    problems = [*found.problems]
    if not problems:
        try:
            # `run` does the same under the lock; here it is only to be shown.
            outline_ingest(found.known, found.simulation(), names, old, options)
            build.check_target()
        except (SourceDataError, StoreExistsError) as error:
            problems.append(str(error))
    return PreparedIngest(found, tuple(problems), build.target, names, old, overwrite, options)


def outline_ingest(
    known: SimulationDescription,
    simulation: Simulation,
    names: Mapping[Path, FileName],
    old: CubeStore | None,
    options: IngestOptions,
) -> IngestOutline:
    """Return what an ingest starts from, once everything is checked but the values."""
    cells = check_shapes(simulation).cells_per_side
    # Of another mesh, `check_append` below says so.
    if old is not None and cells == old.mesh.cells_per_side:
        layout = old.layout
    else:
        layout = plan_layout(
            cells, chunk_cells=options.chunk_cells, max_shard_cells=options.max_shard_cells
        )
    outline = IngestOutline(
        origins=find_origins(simulation, names),
        known=known,
        layout=layout,
        keep_bits=options.keep_bits,
        appended_to=None if old is None else old.uuid,
    )
    check_keep_bits(outline.keep_bits, outline.field_names)
    if old is not None:
        check_append(old, outline)
    return outline


def _begin(
    build: Build, plan: IngestPlan, command_line: str | None, old: CubeStore | None
) -> StoreWriter:
    store_uuid = str(uuid.uuid4())
    build.begin({"uuid": store_uuid, "command_line": command_line, "ingest": plan.fingerprint()})
    return create_store(
        build.store_path,
        plan.mesh,
        plan.redshifts,
        plan.fields,
        StoreOrigin(
            uuid=store_uuid,
            cosmology=plan.cosmology,
            n_box=plan.n_box,
            grid_mass_msun=plan.grid_mass_msun,
            sources=tuple(plan.sources),
            command_line=command_line,
            earlier_command_lines=() if old is None else tuple(old.attributes.command_lines),
        ),
        layout=plan.layout,
        compression=plan.compression,
    )
