"""`ingest_cubes`: copy the coeval cubes of a simulation into a store."""

from pathlib import Path

from ionstore.cube.description import SimulationDescription
from ionstore.info import Inventory
from ionstore.ingest.prepared import prepare
from ionstore.ingest.selection import ALL_FILES, FileSelection, IngestOptions
from ionstore.reporter import SILENT, Reporter
from ionstore.storage.paths import StorePath


def ingest_cubes(
    folder: str | Path,
    target: str | StorePath,
    files: FileSelection = ALL_FILES,
    *,
    given: SimulationDescription | None = None,
    box_length_cmpc_h: float | None = None,
    append: bool = False,
    overwrite: bool = False,
    options: IngestOptions | None = None,
    scheduler: str | None = None,
    command_line: str | None = None,
    reporter: Reporter = SILENT,
) -> Inventory:
    """Copy the coeval cubes of a simulation into one store: `prepare`, then `run`.

    Parameters
    ----------
    folder : str or Path
        Folder of the simulation.
    target : str, Path or ObjectPath
        Where the store goes; it is built beside, in ``<target>.partial``, and swapped in. In
        ``s3://bucket/key``, shards are put where they belong, and the root metadata last.
    files : FileSelection
        Which files to take.
    given : SimulationDescription, optional
        What the user says about the simulation; it wins over what files say.
    box_length_cmpc_h : float, optional
        Comoving side of the box in cMpc/h, converted with the h that is given or found in files;
        it wins over `given`.
    append : bool
        Whether to add the redshifts to the store at `target`: the new store, which shares the
        shards of the old one by hard links where it can, is swapped in when it is whole.
    overwrite : bool
        Whether to replace a store at `target`, and to discard an unfinished build of another.
    options : IngestOptions, optional
        How cubes are checked and stored.
    scheduler, command_line, reporter
        As in `PreparedIngest.run`.

    Returns
    -------
    Inventory
        Contents of the store.

    Raises
    ------
    SourceDataError
        If the simulation is not fit to be ingested; nothing is left behind.
    StoreExistsError
        If there is something at `target` that may not be replaced, another build of it runs, or
        one of other files or with other options was not finished.
    StoreFormatError
        If redshifts are to be added to a store that is not there, or lies in an object store.
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
    written by one thread, read back, compared and recorded; the same call resumes a build that was
    killed. Memory is bounded by a few shards per thread, not by cubes.
    """
    prepared = prepare(
        folder,
        target,
        files,
        given=given,
        box_length_cmpc_h=box_length_cmpc_h,
        append=append,
        overwrite=overwrite,
        options=options,
    )
    return prepared.run(reporter, scheduler=scheduler, command_line=command_line)
