"""Derived channels of a store, computed once and kept in a store of their own."""

import json
import math
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ionmodel.channels.base import Box, DerivedChannel, boxes_of, check_channels
from ionmodel.channels.periodic_field import FIELDS_AT_ONCE, PeriodicField
from ionstore.build.folder import FolderBuild
from ionstore.build.parts import merge_parts, write_part
from ionstore.build.shard_writer import ShardWriter
from ionstore.build.store_writer import StoredField, StoreOrigin, StoreWriter, create_store
from ionstore.cube.mesh import REDSHIFT_TOLERANCE, Fields, Mesh
from ionstore.errors import MemoryBudgetError, bytes_in_words
from ionstore.reporter import SILENT, Reporter
from ionstore.storage.digest import start_digest
from ionstore.storage.disk_space import full_disk_as_message
from ionstore.store.cube_store import CubeStore
from ionstore.store.joined_store import JoinedStore
from ionstore.store.layout import Part, plan_parts

ALGORITHM = 1
"""Raised whenever channels get other values, so that older ones are not reused."""

CACHE_NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-[0-9a-f]{8}\.zarr(\.partial)?")
"""Names that `cache_path` gives (uuid of the store, a digest), and those of unfinished builds."""


@dataclass(frozen=True, slots=True)
class FoundChannels:
    """Arguments of `with_channels` for channels that are already computed."""

    folder: Path
    redshifts: tuple[float, ...]


def cache_path(
    store: CubeStore, channels: Sequence[DerivedChannel], boxes: Sequence[Box], folder: Path
) -> Path:
    """Return the path of the channels of a store, named by everything that decides their values."""
    recipe = {
        "algorithm": ALGORITHM,
        "store": store.uuid,
        "redshifts": [box.redshift for box in boxes],
        # Radii in cells, not in cMpc: an edited box length or cosmology then gives another name.
        "channels": {
            channel.name: [channel.parent, *(channel.radius_cells(box) for box in boxes)]
            for channel in channels
        },
    }
    digest = start_digest()
    digest.update(json.dumps(recipe, sort_keys=True).encode())
    return folder / f"{store.uuid}-{digest.hexdigest()[:8]}.zarr"


def smoothing_bytes(mesh: Mesh) -> int:
    """Return about how many bytes it takes to compute the channels of a box."""
    return FIELDS_AT_ONCE * 4 * mesh.n_cells


def find_channels(
    store: CubeStore,
    channels: Sequence[DerivedChannel],
    redshifts: Sequence[float],
    folders: Mapping[Path, Sequence[float]],
) -> FoundChannels | None:
    """Return a finished cache that covers the redshifts; None if channels must be computed.

    Folders are searched in order, each with the redshifts that were computed there.
    """
    for folder, computed in folders.items():
        # A cache is named by all of its redshifts: either these alone, or all computed there.
        for held in (redshifts, computed):
            if _lacks(held, redshifts) or _lacks(store.redshifts, held):
                continue
            if cache_path(store, channels, boxes_of(store, held), folder).exists():
                return FoundChannels(folder, tuple(held))
    return None


def with_channels(
    store: CubeStore,
    channels: Sequence[DerivedChannel],
    folder: Path,
    *,
    redshifts: Sequence[float] | None = None,
    memory_bytes: int | None = None,
    reporter: Reporter = SILENT,
) -> CubeStore:
    """Return a store with its derived channels beside its fields; compute those that are missing.

    Progress counts channels over all redshifts. A stopped computation continues with its channel.
    """
    if not channels:
        return store
    boxes = boxes_of(store, redshifts)
    check_channels(channels, boxes)
    path = cache_path(store, channels, boxes, folder)
    n_all = len(channels) * len(boxes)
    if not path.exists():
        needed = smoothing_bytes(store.mesh)  # of one box, however many channels it has
        if memory_bytes is not None and needed > memory_bytes:
            raise MemoryBudgetError(
                f"smoothing a box of {store.mesh.cells_per_side} cells a side takes about "
                f"{bytes_in_words(needed)}, got {bytes_in_words(memory_bytes)}; raise "
                "memory_budget (--memory of a prediction), or leave out scales and mean_free_path"
            )
        on_disk = 4 * math.prod(store.mesh.shape) * n_all
        reporter.note(
            f"computing {len(channels)} derived channel{'s' * (len(channels) > 1)} at "
            f"{len(boxes)} redshift{'s' * (len(boxes) > 1)}: about "
            f"{bytes_in_words(on_disk)} below {folder}, {bytes_in_words(needed)} of memory"
        )
        _build(store, channels, boxes, path, reporter)
    reporter.progress(n_all, n_all)
    return JoinedStore(store, CubeStore.open(path))


def remove_channels(folder: Path) -> None:
    """Remove the caches in a folder, which need not exist, and nothing else."""
    if not folder.exists():
        return
    for path in folder.iterdir():
        # By name, so that files of the user stay; unfinished caches of stopped runs go too.
        if CACHE_NAME.fullmatch(path.name):
            shutil.rmtree(path)
    with suppress(OSError):  # not empty, because it holds other files
        folder.rmdir()


def _lacks(there: Sequence[float], wanted: Sequence[float]) -> bool:
    """Tell if some of the wanted redshifts are missing."""
    # Within the tolerance of stores, since redshifts come from users, configurations and stores.
    return any(all(abs(one - other) > REDSHIFT_TOLERANCE for other in there) for one in wanted)


def _build(
    store: CubeStore,
    channels: Sequence[DerivedChannel],
    boxes: Sequence[Box],
    path: Path,
    reporter: Reporter,
) -> None:
    parts = plan_parts([channel.name for channel in channels], len(boxes), store.layout)
    with FolderBuild(path) as build, full_disk_as_message(build.folder):
        # A build that stopped before its first part may lack some metadata, so it begins anew.
        begun = any(build.records.result(part) is not None for part in parts)
        writer = StoreWriter(build.store_path) if begun else _begin(build, store, channels, boxes)
        done = 0
        for index, box in enumerate(boxes):
            assert box.redshift is not None
            # Parent by parent: only one field of the box is in memory, transformed once.
            for parent in dict.fromkeys(channel.parent for channel in channels):
                todo = {
                    channel: [
                        part
                        for part in parts
                        if (part.field, part.redshift_index) == (channel.name, index)
                        and build.records.result(part) is None
                    ]
                    for channel in channels
                    if channel.parent == parent
                }
                field = None
                for channel, missing in todo.items():
                    if missing:
                        # Before the channel, so that a resumed run shows the finished ones.
                        reporter.progress(done, len(channels) * len(boxes))
                        # Late, so that parents whose channels are all done are not read.
                        field = field or PeriodicField(store.read_field(parent, box.redshift))
                        _write(writer.shards, build, missing, channel.compute(field, box))
                    done += 1
        merged = merge_parts(build.records, parts)
        writer.finalize(
            {
                name: [of_field[index] for index in range(len(boxes))]
                for name, of_field in merged.items()
            }
        )
        build.publish()


def _begin(
    build: FolderBuild, store: CubeStore, channels: Sequence[DerivedChannel], boxes: Sequence[Box]
) -> StoreWriter:
    plan: dict[str, Any] = {"uuid": str(uuid.uuid4()), "command_line": None}
    build.begin(plan)
    return create_store(
        build.store_path,
        store.mesh,
        [box.redshift for box in boxes if box.redshift is not None],
        [
            StoredField(
                channel.name,
                "float32",
                store.units(channel.parent),
                long_name=channel.long_name(store.mesh),
            )
            for channel in channels
        ],
        StoreOrigin(uuid=plan["uuid"], cosmology=store.cosmology),
        layout=store.layout,
    )


def _write(shards: ShardWriter, build: FolderBuild, parts: Sequence[Part], values: Fields) -> None:
    for part in parts:
        start, shape = shards.layout.shard_region(part.shard)
        i, j, k = (slice(first, first + n) for first, n in zip(start, shape, strict=True))
        write_part(part, values[i, j, k], shards, build.records)
