"""The plan of a block against every cell one by one; shards that are damaged in every way."""

import errno
import json
import os
import re
import shutil
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc

from ionstore.cube.mesh import Corner
from ionstore.errors import StoreDamageError, StoreFormatError
from ionstore.storage.paths import open_file
from ionstore.store.block_plan import plan_block
from ionstore.store.conversion import ValueMap, convert, slices
from ionstore.store.cube_store import CubeStore
from ionstore.store.layout import Layout
from ionstore.store.shard_index import ShardIndexes
from ionstore.store.shards import check_shard
from tests.support.stores import cubes_at, write_store

LAYOUT = Layout(12, 4, 8)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[Layout, Corner, Corner]:
    mesh = draw(st.integers(1, 14))
    chunk = draw(st.integers(1, mesh))
    layout = Layout(mesh, chunk, chunk * draw(st.integers(1, 4)))
    i, j, k = (draw(st.integers(0, mesh - 1)) for _ in range(3))
    a, b, c = (draw(st.integers(1, mesh - first)) for first in (i, j, k))
    return layout, (i, j, k), (a, b, c)


@settings(deadline=None)
@given(blocks())
def test_every_cell_of_a_block_is_taken_once_from_where_it_is_stored(
    block: tuple[Layout, Corner, Corner],
) -> None:
    layout, start, shape = block
    side, per_side = layout.chunk_cells, layout.shard_cells // layout.chunk_cells
    taken = []
    for part in plan_block(layout, start, shape):
        for run in part.runs:
            i, j, k = (int(place) for place in np.unravel_index(run.chunk, (per_side,) * 3))
            assert k + run.n_chunks <= per_side
            for dx, dy, dz in product(*map(range, run.shape)):
                next_chunk, z = divmod(run.source[2] + dz, side)
                within = (run.source[0] + dx, run.source[1] + dy, z)
                assert max(within) < side
                assert next_chunk < run.n_chunks
                place = np.add(np.multiply(part.shard, per_side), (i, j, k + next_chunk))
                stored = place * side + within
                assert tuple(stored - start) == tuple(np.add(run.target, (dx, dy, dz)))
                taken.append(tuple(stored - start))
    assert sorted(taken) == list(product(*map(range, shape)))


@settings(deadline=None)
@given(blocks())
def test_no_chunk_is_read_twice_or_for_nothing(block: tuple[Layout, Corner, Corner]) -> None:
    layout, start, shape = block
    parts = plan_block(*block)
    assert [part.shard for part in parts] == list(layout.shards_touched(start, shape))
    chunks = [
        (part.shard, run.chunk + number)
        for part in parts
        for run in part.runs
        for number in range(run.n_chunks)
    ]
    per_axis = [
        (first + cells - 1) // layout.chunk_cells - first // layout.chunk_cells + 1
        for first, cells in zip(start, shape, strict=True)
    ]
    assert len(set(chunks)) == len(chunks) == np.prod(per_axis)
    assert sum(part.n_chunks for part in parts) == len(chunks)


@pytest.mark.parametrize(("chunk_cells", "longest"), [(32, 8), (64, 1), (80, 1), (16, 20)])
def test_the_chunks_of_a_run_fit_a_cache(chunk_cells: int, longest: int) -> None:
    layout = Layout(chunk_cells * 25, chunk_cells, chunk_cells * 20)
    side = layout.mesh_cells
    parts = plan_block(layout, (0, 0, 0), (1, 1, side))
    assert max(run.n_chunks for part in parts for run in part.runs) == longest
    assert sum(run.shape[2] for part in parts for run in part.runs) == side


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "cubes.zarr"
    return write_store(path, cubes_at(12, [9.0]), [9.0], layout=LAYOUT).path


@pytest.fixture
def store(tmp_path: Path, whole_store: Path) -> CubeStore:
    return CubeStore.open(shutil.copytree(whole_store, tmp_path / "cubes.zarr"))


def shard_index(content: bytes) -> np.ndarray:
    return np.frombuffer(content[-(8 * 16 + 4) : -4], "<u8").reshape(8, 2).copy()


def with_index(content: bytes, index: np.ndarray) -> bytes:
    """The file of a shard with another index, whose checksum is right."""
    stored = index.astype("<u8").tobytes()
    return content[: -(8 * 16 + 4)] + stored + struct.pack("<I", google_crc32c.value(stored))


def with_chunk(content: bytes, place: int, frame: bytes) -> bytes:
    """The file of a shard with another chunk at its end, whose checksum is right."""
    index = shard_index(content)
    frame += struct.pack("<I", google_crc32c.value(frame))
    data = content[: -(8 * 16 + 4)]
    index[place] = (len(data), len(frame))
    return with_index(data + frame + bytes(8 * 16 + 4), index)


def flipped(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 4
    return bytes(changed)


def pointed(content: bytes, place: int, entry: tuple[int, int]) -> bytes:
    index = shard_index(content)
    index[place] = entry
    return with_index(content, index)


def first_byte(content: bytes, place: int) -> int:
    return int(shard_index(content)[place, 0])


def resized(content: bytes, n_bytes: int) -> bytes:
    """A chunk whose Blosc header claims another number of decoded bytes."""
    index = shard_index(content)
    first, length = map(int, index[5])
    frame = bytearray(content[first : first + length - 4])
    frame[4:8] = struct.pack("<I", n_bytes)
    return with_chunk(content, 5, bytes(frame))


ENCODED = blosc.compress(np.zeros((4, 4, 4), "f4"), b"zstd", 1, 1)
SMALLER = blosc.compress(np.zeros((4, 4, 2), "f4"), b"zstd", 1, 1)
LARGER = blosc.compress(np.zeros((4, 4, 5), "f4"), b"zstd", 1, 1)
UNREADABLE = ENCODED[:2] + b"\xff" + ENCODED[3:]  # flags of no known compressor

DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a bit of a chunk": (lambda c: flipped(c, first_byte(c, 5) + 17), "5 does not match its check"),
    "a bit of its header": (lambda c: flipped(c, first_byte(c, 5) + 4), "5 does not match its che"),
    "a bit of the checksum": (
        lambda c: flipped(c, int(shard_index(c)[5].sum()) - 1),
        "5 does not match its checksum",
    ),
    "a bit of the index": (lambda c: flipped(c, len(c) - 40), "index does not match"),
    "a bit of its checksum": (lambda c: flipped(c, len(c) - 1), "index does not match"),
    "cut at the end": (lambda c: c[:-1], "index does not match"),
    "cut in the middle": (lambda c: c[: len(c) // 2], "index does not match"),
    "shorter than the index": (lambda c: c[:20], "index does not match"),
    "empty": (lambda c: b"", "index does not match"),
    "longer": (lambda c: c + b"\0", "index does not match"),
    "cut at the front": (lambda c: c[1:], "does not match|points out"),
    "no chunk": (lambda c: pointed(c, 5, (2**64 - 1, 2**64 - 1)), "chunk 5 is missing"),
    "half no chunk": (lambda c: pointed(c, 5, (2**64 - 1, 40)), "points out of the file"),
    "past the end": (lambda c: pointed(c, 5, (10, len(c))), "points out of the file"),
    "far past the end": (lambda c: pointed(c, 5, (2**63, 2**63)), "points out of the file"),
    "too few bytes": (lambda c: pointed(c, 5, (0, 3)), "points out of the file"),
    "another chunk's bytes": (lambda c: pointed(c, 5, (1, 60)), "5 does not match its checksum"),
    "a smaller chunk": (lambda c: with_chunk(c, 5, SMALLER), "not of the size"),
    "a larger chunk": (lambda c: with_chunk(c, 5, LARGER), "not of the size"),
    "a chunk that claims less": (lambda c: resized(c, 100), "not of the size"),
    "a chunk that claims more": (lambda c: resized(c, 10**9), "not of the size"),
    "a chunk cut short": (lambda c: with_chunk(c, 5, ENCODED[:-3]), "not of the size"),
    "no Blosc": (lambda c: with_chunk(c, 5, UNREADABLE), "cannot be decoded"),
}


@pytest.mark.parametrize("read_before", [False, True])
@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_noticed(store: CubeStore, name: str, read_before: bool) -> None:
    damage, said = DAMAGES[name]
    if read_before:
        store.read_field("xhii", 9.0)
    path = store.shard_path("xhii", 0, (0, 0, 0))
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(damage(content))
    out = np.empty((3, 3, 3), np.float32)
    for read in (
        lambda: store.read_field("xhii", 9.0),
        lambda: store.read_into("xhii", 9.0, (4, 0, 4), out),  # chunk 5 alone
    ):
        with pytest.raises(StoreDamageError, match=f"xhii/c/0/0/0/0: .*({said}).*; the file is"):
            read()
    path.write_bytes(content)
    assert store.read_into("xhii", 9.0, (4, 0, 4), out) == 64


def test_a_chunk_with_another_checksum_that_is_right_is_read(store: CubeStore) -> None:
    """What the damages above are made with does no damage by itself."""
    path = store.shard_path("xhii", 0, (0, 0, 0))
    path.write_bytes(with_chunk(path.read_bytes(), 5, ENCODED))
    field = store.read_field("xhii", 9.0)
    assert (field[4:8, :4, 4:8] == 0).all()
    assert (field[:4] != 0).all()


def test_damage_elsewhere_does_not_matter(store: CubeStore) -> None:
    path = store.shard_path("xhii", 0, (0, 0, 0))
    path.write_bytes(flipped(path.read_bytes(), first_byte(path.read_bytes(), 5) + 17))
    assert store.read_block("xhii", 9.0, (0, 0, 0), (4, 8, 8)).shape == (4, 8, 8)


def test_missing_shards_are_named(store: CubeStore) -> None:
    path = store.shard_path("n_src", 0, (1, 0, 0))
    path.unlink()
    for in_its_place in (False, True):
        if in_its_place:
            path.mkdir()
        with pytest.raises(StoreDamageError, match=r"n_src/c/0/1/0/0: this part .* is missing"):
            store.read_field("n_src", 9.0)
    shutil.rmtree(store.path / "n_src" / "c" / "0" / "1")
    (store.path / "n_src" / "c" / "0" / "1").write_text("")
    with pytest.raises(StoreDamageError, match="missing"):
        store.read_field("n_src", 9.0)


def change(store: CubeStore, said: dict[str, object], *keys: str | int) -> CubeStore:
    """The store after a change to the metadata of xHII."""
    root = json.loads((store.path / "zarr.json").read_text())
    place = root["consolidated_metadata"]["metadata"]["xhii"]
    for key in keys:
        place = place[key]
    place.update(said)
    (store.path / "zarr.json").write_text(json.dumps(root))
    return CubeStore.open(store.path)


CODECS = ("codecs", 0, "configuration", "codecs")
INDEX = ("codecs", 0, "configuration", "index_codecs")


@pytest.mark.parametrize(
    ("said", "keys", "message"),
    [
        ({"name": "gzip"}, (*CODECS, 1), "chunk must be bytes, blosc, crc32c, got bytes, gzip"),
        ({"configuration": {"endian": "big"}}, (*CODECS, 0), r"got bytes \(big-endian\), blosc"),
        ({"name": "zstd"}, (*INDEX, 1), "index must be bytes, crc32c, got bytes, zstd"),
        ({"codecs": []}, CODECS[:-1], "chunk must be bytes, blosc, crc32c, got ;"),
        ({"index_location": "start"}, CODECS[:-1], "must be end, got start"),
        ({"name": "blosc"}, ("codecs", 0), "codecs must be sharding_indexed, got blosc"),
        ({"codecs": []}, (), "expected the metadata of a sharded array"),
        ({"chunk_shape": [1, 4, 4, 2]}, CODECS[:-1], r"must be cubic.*\[1, 4, 4, 2\]"),
        ({"chunk_shape": [1, 3, 3, 3]}, CODECS[:-1], r"must be cubic.*\[1, 3, 3, 3\]"),
        ({"shape": [1, 12, 12, 11]}, (), r"must be cubic.*\[12, 12, 11\]"),
        ({"separator": "."}, ("chunk_key_encoding", "configuration"), "separated by /, got def"),
        ({"storage_transformers": [{"name": "odd"}]}, (), "must be none, got odd"),
        ({"data_type": "complex64"}, (), "real numbers, got complex64"),
        ({"data_type": {"name": "odd"}}, (), "expected the metadata"),
    ],
)
def test_fields_stored_in_another_way_are_refused(
    store: CubeStore, said: dict[str, object], keys: tuple[str | int, ...], message: str
) -> None:
    changed = change(store, said, *keys)
    changed.read_field("n_igm", 9.0)
    with pytest.raises(StoreFormatError, match=message):
        changed.read_field("xhii", 9.0)
    with pytest.raises(StoreFormatError, match=message):
        changed.read_into("xhii", 9.0, (0, 0, 0), np.empty((1, 1, 1), np.float32))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system lists no open files")
def test_files_are_closed(store: CubeStore) -> None:
    store.read_field("xhii", 9.0)
    path = store.shard_path("n_src", 0, (1, 1, 1))
    path.write_bytes(flipped(path.read_bytes(), 5))
    before = open_files()
    for _ in range(5):
        store.read_field("xhii", 9.0)
        with pytest.raises(StoreDamageError):
            store.read_field("n_src", 9.0)
    assert open_files() == before


def test_threads_read_different_blocks_of_a_field(store: CubeStore) -> None:
    conversion = ValueMap(3.0, -1.0, 0.5)
    whole = {name: store.read_field(name, 9.0) for name in store.field_names}
    expected = {name: np.empty((12, 12, 12), np.float32) for name in whole}
    for name, values in whole.items():
        convert(values, expected[name], conversion)
    shared = CubeStore.open(store.path)
    barrier = threading.Barrier(4)

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        barrier.wait(timeout=60)
        for _ in range(60):
            name = str(rng.choice(shared.field_names))
            i, j, k = (int(first) for first in rng.integers(0, 12, 3))
            a, b, c = (int(rng.integers(1, 13 - first)) for first in (i, j, k))
            here = slices((i, j, k), (a, b, c))
            out = np.empty((a, b, c), np.float32)
            shared.read_into(name, 9.0, (i, j, k), out, conversion=conversion)
            np.testing.assert_array_equal(out, expected[name][here])
            block = shared.read_block(name, 9.0, (i, j, k), (a, b, c))
            np.testing.assert_array_equal(block, whole[name][here])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))


def test_blosc_runs_in_the_calling_thread_and_its_setting_is_left(
    store: CubeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    decompress = blosc.decompress

    def noted(frame: bytes, chunk: np.ndarray) -> object:
        seen.append(blosc.use_threads)
        return decompress(frame, chunk)

    monkeypatch.setattr(blosc, "use_threads", None)
    monkeypatch.setattr(blosc, "decompress", noted)
    store.read_field("xhii", 9.0)
    assert seen == [False] * 27
    assert blosc.use_threads is None
    store.shard_path("xhii", 0, (0, 0, 0)).write_bytes(b"")
    with pytest.raises(StoreDamageError):
        store.read_field("xhii", 9.0)
    assert blosc.use_threads is None


def test_indexes_are_read_once_and_forgotten_in_order(store: CubeStore) -> None:
    indexes = ShardIndexes(max_bytes=2 * 8 * 16)
    paths = [store.shard_path("xhii", 0, shard) for shard in ((0, 0, 0), (0, 0, 1), (0, 1, 0))]

    def index_of(path: Path) -> np.ndarray:
        with open_file(path) as file:
            return indexes.index_of(path, file, 8)

    first, second = index_of(paths[0]), index_of(paths[1])
    assert index_of(paths[0]) is first
    assert index_of(paths[1]) is second
    assert index_of(paths[0]) is first
    third = index_of(paths[2])  # takes the place of the second, used longest ago
    assert index_of(paths[0]) is first
    assert index_of(paths[2]) is third
    assert index_of(paths[1]) is not second
    small = ShardIndexes(max_bytes=1)
    with open_file(paths[0]) as file:
        assert small.index_of(paths[0], file, 8) is small.index_of(paths[0], file, 8)


def check_all(store: CubeStore, shard: Corner) -> list[tuple[Corner, Corner, str | None]]:
    """The blocks of a shard of xHII; values of those that are whole are compared."""
    path, dtype = store.shard_path("xhii", 0, shard), store.dtype("xhii")
    expected = cubes_at(12, [9.0])["xhii"][0]
    found = []
    for block in check_shard(path, shard, layout=store.layout, dtype=dtype):
        assert (block.values is None) == (block.damage is not None)
        if block.values is not None:
            np.testing.assert_array_equal(block.values, expected[slices(block.start, block.shape)])
        found.append((block.start, block.shape, block.damage))
    return found


@pytest.mark.parametrize("layout", [LAYOUT, Layout(12, 5, 10), Layout(12, 12, 36)])
def test_every_chunk_on_the_mesh_is_checked_once(tmp_path: Path, layout: Layout) -> None:
    store = write_store(tmp_path / "cubes.zarr", cubes_at(12, [9.0]), [9.0], layout=layout)
    seen = np.zeros((12, 12, 12), int)
    for shard in layout.shard_indices():
        for start, shape, damage in check_all(store, shard):
            assert damage is None
            assert all(first % layout.chunk_cells == 0 for first in start)
            assert max(shape) <= layout.chunk_cells
            seen[slices(start, shape)] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_told_with_the_chunk_that_has_it(store: CubeStore, name: str) -> None:
    damage, said = DAMAGES[name]
    path = store.shard_path("xhii", 0, (0, 0, 0))
    path.write_bytes(damage(path.read_bytes()))
    found = check_all(store, (0, 0, 0))
    if len(found) == 1:
        ((start, shape, what),) = found
        assert (start, shape) == ((0, 0, 0), (8, 8, 8))
        assert re.search(said, f"its index: {what}")
        return
    assert len(found) == 8
    wrong = [block for block in found if block[2] is not None]
    assert ((4, 0, 4), (4, 4, 4)) in [(start, shape) for start, shape, _ in wrong]
    assert name == "cut at the front" or len(wrong) == 1
    assert all(re.search(said, f"chunk 5 {what}") for _, _, what in wrong)


def test_what_cannot_be_read_is_told(store: CubeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.shard_path("xhii", 0, (1, 0, 0))
    whole = ((8, 0, 0), (4, 8, 8))
    content = path.read_bytes()
    path.unlink()
    assert check_all(store, (1, 0, 0)) == [(*whole, "is missing")]
    path.mkdir()
    assert check_all(store, (1, 0, 0)) == [(*whole, "is missing")]
    path.rmdir()
    path.write_bytes(content)
    pread = os.pread

    def failing(descriptor: int, n_bytes: int, first: int) -> bytes:
        if first in bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, n_bytes, first)

    said = "cannot be read (Input/output error)"
    monkeypatch.setattr(os, "pread", failing)
    bad = {first_byte(content, 2)}
    assert [block for block in check_all(store, (1, 0, 0)) if block[2]] == [
        ((8, 4, 0), (4, 4, 4), said)
    ]
    bad = {len(content) - (8 * 16 + 4)}
    assert check_all(store, (1, 0, 0)) == [(*whole, said)]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all files")
def test_files_that_may_not_be_read_are_told(store: CubeStore) -> None:
    path = store.shard_path("xhii", 0, (0, 0, 0))
    path.chmod(0)
    assert check_all(store, (0, 0, 0))[0][2] == "cannot be read (Permission denied)"
