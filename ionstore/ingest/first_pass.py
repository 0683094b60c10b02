"""The first pass of an ingest: everything is read and checked before anything is written."""

import threading
from collections.abc import Collection, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

from ionstore.build.base import Build
from ionstore.cube.fields import REQUIRED
from ionstore.cube.mesh import Array
from ionstore.errors import SourceDataError
from ionstore.ingest.coarse_field import BlockMeans, CoarseField
from ionstore.ingest.plausibility import find_contradictions
from ionstore.ingest.survey import SourceSurvey, Surveys, check_unchanged, survey_source
from ionstore.readers.base import FieldSource, Simulation, Sources
from ionstore.storage.disk_space import require_space
from ionstore.threads import ProgressCounter, run_in_threads


def survey_simulation(
    simulation: Simulation,
    names: Mapping[Path, tuple[str, str]],
    build: Build,
    progress: ProgressCounter,
    *,
    trust: Collection[str] = (),
) -> tuple[Sources, Surveys]:
    """Check all values; return sources that can be cut into blocks, and what was found.

    Parameters
    ----------
    simulation : Simulation
        Cubes on one mesh.
    names : mapping of Path to (str, str)
        Folder and name by which each file is recorded.
    build : Build
        Where values are kept that cannot be cut in their files.
    progress : ProgressCounter
        Told of the bytes that were read.
    trust : collection of str
        Fields that are taken for what they are said to be, whatever their numbers say.

    Raises
    ------
    SourceDataError
        If values are out of the range of their field, a file is damaged, or there is evidence
        that a field is not what it is said to be.
    DiskSpaceError
        If the disk cannot keep what has to be kept.
    OSError
        If a file cannot be read.
    """
    items = _each_source(simulation)
    n_bytes = sum(source.spool_bytes for _, _, source in items)
    require_space(build.folder, n_bytes, build.target)
    evidence = _Evidence(simulation, trust)

    def survey(item: tuple[str, float, FieldSource]) -> tuple[FieldSource, SourceSurvey]:
        name, redshift, source = item
        spool = None
        if source.spool_bytes:
            spool = build.spool_path(name, simulation.redshifts.index(redshift))
        means = BlockMeans(source.shape[0], fortran_order=source.fortran_order)

        def take(values: Array) -> None:
            means.add(values)
            progress.add(values.nbytes)

        found = survey_source(name, source, spool=spool, on_values=take)
        evidence.add(name, redshift, means.of_blocks())
        folder, file_name = names[source.path]
        taken = {"folder": folder, "name": file_name, "fields": (name,), "redshifts": (redshift,)}
        found = replace(found, file=found.file.model_copy(update=taken))
        return (source if spool is None else source.from_spool(spool)), found

    sources: dict[str, dict[float, FieldSource]] = {name: {} for name in simulation.cubes}
    surveys: dict[str, dict[float, SourceSurvey]] = {name: {} for name in simulation.cubes}
    for (name, redshift, _), result in zip(items, run_in_threads(survey, items), strict=True):
        sources[name][redshift], surveys[name][redshift] = result
    return sources, surveys


def check_all_unchanged(simulation: Simulation, surveys: Surveys) -> None:
    """Check that all files are still the ones that were surveyed.

    Raises
    ------
    SourceDataError
        If one has been written since.
    OSError
        If one is gone.
    """
    for name, redshift, source in _each_source(simulation):
        check_unchanged(source, surveys[name][redshift])


def source_bytes(simulation: Simulation) -> int:
    """Return the bytes of all values, as they are in the files."""
    return sum(
        prod(source.shape) * source.dtype.itemsize for _, _, source in _each_source(simulation)
    )


def _each_source(simulation: Simulation) -> list[tuple[str, float, FieldSource]]:
    return [
        (name, redshift, cubes[redshift])
        for redshift in simulation.redshifts
        for name, cubes in simulation.cubes.items()
    ]


class _Evidence:
    """Weighs the required fields of a cube against each other as soon as all were read."""

    def __init__(self, simulation: Simulation, trust: Collection[str]) -> None:
        self._simulation = simulation
        # Those that are there: some can be left out of all cubes.
        self._weighed = [field.name for field in REQUIRED if field.name in simulation.cubes]
        self._trust = set(trust)
        self._waiting: dict[float, dict[str, CoarseField]] = {}
        self._lock = threading.Lock()

    def add(self, name: str, redshift: float, means: CoarseField) -> None:
        """Take in a field; raise what speaks against one of its cube."""
        if name not in self._weighed:
            return
        with self._lock:
            cube = self._waiting.setdefault(redshift, {})
            cube[name] = means
            if len(cube) < len(self._weighed):
                return
            del self._waiting[redshift]
        # Threads end in any order; what is said must not depend on it.
        for found in find_contradictions({name: cube[name] for name in self._weighed}):
            if not set(found.fields) & self._trust:
                path = self._simulation.cubes[found.fields[0]][redshift].path
                raise SourceDataError(f"{path}: {found.sentence}")
