"""Derived channels of a store, computed once and kept in a store of their own."""

import json
import math
import re
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ionmodel.channels.base import Box, DerivedChannel, boxes_of, check_channels
from ionmodel.channels.periodic_field import FIELDS_AT_ONCE, PeriodicField
from ionstore.build.folder import StoreBuild
from ionstore.build.parts import merge_parts, write_part
from ionstore.build.shard_writer import ShardWriter
from ionstore.build.store_writer import StoredField, StoreWriter, create_store
from ionstore.cube.mesh import Fields, Mesh
from ionstore.errors import MemoryBudgetError
from ionstore.storage.digest import start_digest
from ionstore.storage.disk_space import full_disk_as_message
from ionstore.store.cube_store import CubeStore, JoinedStore
from ionstore.store.layout import Part, plan_parts

ALGORITHM = 1
"""Raised whenever channels come out as other numbers: older ones are then not reused."""

CACHE_NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-[0-9a-f]{8}\.zarr(\.partial)?")
"""Names that `cache_path` gives, and of what is not finished: uuid of the store, and a digest."""


def cache_path(
    store: CubeStore, channels: Sequence[DerivedChannel], boxes: Sequence[Box], folder: Path
) -> Path:
    """Return where the channels of a store are kept: named by what decides their values.

    Raises
    ------
    ConfigError
        If a channel cannot be computed of a box.
    """
    recipe = {
        "algorithm": ALGORITHM,
        "store": store.uuid,
        "redshifts": [box.redshift for box in boxes],
        "channels": {
            channel.name: [channel.parent, *(channel.radius_cells(box) for box in boxes)]
            for channel in channels
        },
    }
    digest = start_digest()
    digest.update(json.dumps(recipe, sort_keys=True).encode())
    return folder / f"{store.uuid}-{digest.hexdigest()[:8]}.zarr"


def smoothing_bytes(mesh: Mesh) -> int:
    """Return about how many bytes the channels of a box take while they are computed."""
    return FIELDS_AT_ONCE * 4 * mesh.n_cells


def with_channels(
    store: CubeStore,
    channels: Sequence[DerivedChannel],
    folder: Path,
    *,
    redshifts: Sequence[float] | None = None,
    memory_bytes: int | None = None,
    on_note: Callable[[str], None] = lambda line: None,
    on_channels: Callable[[int, int], None] = lambda done, total: None,
) -> CubeStore:
    """Return a store with its derived channels beside its fields, computed where they are not yet.

    Parameters
    ----------
    store : CubeStore
        Store with the parents of the channels.
    channels : sequence of DerivedChannel
        The channels; without any, the store comes back as it is.
    folder : Path
        Where the stores of channels lie.
    redshifts : sequence of float, optional
        Redshifts to compute; all by default.
    memory_bytes : int, optional
        Bound on the memory of the computation.
    on_note : callable
        Told what the computation takes, if there is one.
    on_channels : callable
        Told how many channels are done and how many there are, over all redshifts: before each one
        that is computed, and at the end.

    Raises
    ------
    ConfigError
        If a channel cannot be computed of a box.
    MemoryBudgetError
        If a box does not fit the memory.
    NotInStoreError
        If the store does not hold a redshift.
    StoreExistsError
        If another process computes the same channels.
    StoreDamageError
        If the store is damaged, or what was written reads back otherwise.
    DiskSpaceError
        If the disk is full.
    OSError
        If something cannot be read or written.

    Notes
    -----
    Every channel takes about ``4 * n**3`` bytes a redshift on the disk, a third less for some.
    Memory: about `FIELDS_AT_ONCE` times a field in float32, for any number of channels. What was
    interrupted goes on with the channel it was at.
    """
    if not channels:
        return store
    boxes = boxes_of(store, redshifts)
    check_channels(channels, boxes)
    path = cache_path(store, channels, boxes, folder)
    if not path.exists():
        needed = smoothing_bytes(store.mesh)
        if memory_bytes is not None and needed > memory_bytes:
            raise MemoryBudgetError(
                f"smoothing a box of {store.mesh.cells_per_side} cells a side takes about "
                f"{needed / 1e6:.3g} MB, got {memory_bytes / 1e6:.3g} MB; raise memory_budget "
                "(--memory of a prediction), or leave out scales and mean_free_path"
            )
        on_disk = 4 * math.prod(store.mesh.shape) * len(channels) * len(boxes)
        on_note(
            f"computing {len(channels)} derived channel{'s' * (len(channels) > 1)} at "
            f"{len(boxes)} redshift{'s' * (len(boxes) > 1)}: about "
            f"{on_disk / 1e6:,.0f} MB below {folder}, {needed / 1e6:,.0f} MB of memory"
        )
        _build(store, channels, boxes, path, on_channels)
    on_channels(len(channels) * len(boxes), len(channels) * len(boxes))
    return JoinedStore(store, CubeStore.open(path))


def _build(
    store: CubeStore,
    channels: Sequence[DerivedChannel],
    boxes: Sequence[Box],
    path: Path,
    on_channels: Callable[[int, int], None],
) -> None:
    parts = plan_parts([channel.name for channel in channels], len(boxes), store.layout)
    with StoreBuild(path) as build, full_disk_as_message(build.folder):
        # A build that was interrupted before its first part may lack a part of its metadata.
        begun = any(build.books.result(part) is not None for part in parts)
        writer = StoreWriter(build.store_path) if begun else _begin(build, store, channels, boxes)
        done = 0
        for index, box in enumerate(boxes):
            assert box.redshift is not None
            for parent in dict.fromkeys(channel.parent for channel in channels):
                todo = {
                    channel: [
                        part
                        for part in parts
                        if (part.field, part.redshift_index) == (channel.name, index)
                        and build.books.result(part) is None
                    ]
                    for channel in channels
                    if channel.parent == parent
                }
                field = None
                for channel, missing in todo.items():
                    if missing:
                        on_channels(done, len(channels) * len(boxes))
                        field = field or PeriodicField(store.read_field(parent, box.redshift))
                        _write(writer.shards, build, missing, channel.compute(field, box))
                    done += 1
        merged = merge_parts(build.books, parts)
        writer.finalize(
            {
                name: [of_field[index] for index in range(len(boxes))]
                for name, of_field in merged.items()
            }
        )
        build.publish()


def _begin(
    build: StoreBuild, store: CubeStore, channels: Sequence[DerivedChannel], boxes: Sequence[Box]
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
        cosmology=store.cosmology,
        store_uuid=plan["uuid"],
        layout=store.layout,
    )


def _write(shards: ShardWriter, build: StoreBuild, parts: Sequence[Part], values: Fields) -> None:
    for part in parts:
        start, shape = shards.layout.shard_region(part.shard)
        i, j, k = (slice(first, first + n) for first, n in zip(start, shape, strict=True))
        write_part(part, values[i, j, k], shards, build.books)
