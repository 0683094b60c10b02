import errno
import fcntl
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ionstore.cube.mesh import Array
from ionstore.errors import SourceDataError
from ionstore.readers.arrays import hdf5
from ionstore.readers.arrays.flat import FlatArray
from ionstore.readers.arrays.hdf5 import HDF5Field, member, open_hdf5_field, opened_hdf5
from ionstore.readers.base import FieldSource
from tests.support.mesh_files import blocks

CUBE = (np.random.default_rng(1).random((5, 6, 7)) * 99).astype("f4")
KINDS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "chunks": {"chunks": (2, 4, 7)},
    "compressed": {"chunks": (3, 3, 3), "compression": "gzip", "shuffle": True},
}


def _write(path: Path, cube: Array, **options: Any) -> FieldSource:
    with h5py.File(path, "w") as file:
        file.create_dataset("group/cube", data=cube, **options)
    return _open(path)


def _open(path: Path, name: str = "group/cube") -> FieldSource:
    with opened_hdf5(path) as file:
        return open_hdf5_field(path, member(file, name))


def _check(source: FieldSource, cube: Array, path: Path) -> None:
    assert source.shape == cube.shape
    assert source.dtype == cube.dtype
    file_bytes: list[bytes] = []
    streamed = np.concatenate(list(source.stream(file_bytes.append)))
    np.testing.assert_array_equal(np.sort(streamed), np.sort(cube.ravel()))
    assert b"".join(file_bytes) == path.read_bytes()
    for start, shape in blocks(cube.shape):
        block = source.read_block(start, shape)  # type: ignore[arg-type]
        cut = tuple(slice(first, first + cells) for first, cells in zip(start, shape, strict=True))
        np.testing.assert_array_equal(block, cube[cut])
        assert block.flags.c_contiguous


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "u1", "<i8", "?"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_dataset_gives_its_values(tmp_path: Path, kind: str, dtype: str) -> None:
    cube = CUBE.astype(dtype)
    source = _write(tmp_path / "a.h5", cube, **KINDS[kind])
    assert source.spool_bytes == 0
    _check(source, cube, tmp_path / "a.h5")


@pytest.mark.parametrize("kind", KINDS)
def test_leading_axes_of_one_are_dropped(tmp_path: Path, kind: str) -> None:
    options = dict(KINDS[kind])
    if "chunks" in options:
        options["chunks"] = (1, *options["chunks"])
    source = _write(tmp_path / "a.h5", CUBE[np.newaxis], **options)
    _check(source, CUBE, tmp_path / "a.h5")


def test_one_cell_is_a_cube(tmp_path: Path) -> None:
    cube = CUBE[:1, :1, :1]
    _check(_write(tmp_path / "a.h5", cube), cube, tmp_path / "a.h5")


def test_values_that_lie_in_the_file_are_read_from_there_in_one_pass(tmp_path: Path) -> None:
    assert isinstance(_write(tmp_path / "a.h5", CUBE), FlatArray)
    assert isinstance(_write(tmp_path / "b.h5", CUBE, chunks=(2, 2, 2)), HDF5Field)


def test_values_behind_a_block_of_the_user_are_found(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as file:
        file["group/cube"] = CUBE
    _check(_open(tmp_path / "a.h5"), CUBE, tmp_path / "a.h5")


@pytest.mark.parametrize("n_bytes", [512, 1024, 2048])
@pytest.mark.parametrize("kind", KINDS)
def test_values_behind_bytes_put_before_a_finished_file_are_found(
    tmp_path: Path, kind: str, n_bytes: int
) -> None:
    path = tmp_path / "a.h5"
    _write(path, CUBE, **KINDS[kind])
    path.write_bytes(b"?" * n_bytes + path.read_bytes())  # as h5jam does
    _check(_open(path), CUBE, path)


def test_values_in_the_header_of_a_data_set_are_read(tmp_path: Path) -> None:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.COMPACT)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple(CUBE.shape)
        group = file.create_group("group").id
        dataset = h5py.h5d.create(group, b"cube", h5py.h5t.IEEE_F32LE, space, creation)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, CUBE)
    _check(_open(tmp_path / "a.h5"), CUBE, tmp_path / "a.h5")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "place", ["soft", "relative", "hard", "of_group/cube", "soft_group/cube", "twice"]
)
def test_links_inside_of_a_file_are_followed(tmp_path: Path, kind: str, place: str) -> None:
    path = tmp_path / "a.h5"
    _write(path, CUBE, **KINDS[kind])
    with h5py.File(path, "r+") as file:
        other = (np.random.default_rng(2).random(CUBE.shape)).astype("f4")
        file["cube"] = other  # what a wrong step would lead to
        file["soft"] = h5py.SoftLink("/group/cube")
        file["relative"] = h5py.SoftLink("./group/cube")
        file["hard"] = file["group/cube"]
        file["of_group"] = file["group"]
        file["soft_group"] = h5py.SoftLink("group")
        file["twice"] = h5py.SoftLink("soft")
    _check(_open(path, place), CUBE, path)


def _linked(tmp_path: Path, kind: str) -> None:
    """Write links of all kinds to values in another file, whose twins lie in this one."""
    other, path = tmp_path / "other.h5", tmp_path / "a.h5"
    _write(other, CUBE[::-1], **KINDS[kind])
    _write(path, CUBE, **KINDS[kind])
    with h5py.File(path, "r+") as file:
        file["external"] = h5py.ExternalLink("other.h5", "/group/cube")
        file["far_group"] = h5py.ExternalLink(str(other), "group")
        file["soft"] = h5py.SoftLink("external")
        file["soft_step"] = h5py.SoftLink("/far_group/cube")
        file["group/above"] = h5py.SoftLink("/far_group")
        file["gone"] = h5py.ExternalLink("gone.h5", "/group/cube")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "place", ["external", "far_group/cube", "soft", "soft_step", "group/above/cube", "gone"]
)
def test_links_to_other_files_are_refused(tmp_path: Path, kind: str, place: str) -> None:
    _linked(tmp_path, kind)
    with pytest.raises(
        SourceDataError,
        match=r"a\.h5: expected \w+ in the file itself, got a link into .*(other|gone)\.h5; give",
    ):
        _open(tmp_path / "a.h5", place)


def test_links_to_pipes_are_refused_before_they_are_followed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["cube"] = h5py.ExternalLink("pipe", "/cube")
        file["soft"] = h5py.SoftLink("/cube")
    for name in ("cube", "soft"):
        with pytest.raises(SourceDataError, match="got a link into pipe"):
            _open(tmp_path / "a.h5", name)


def test_links_in_a_circle_are_damage(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"], file["b"] = h5py.SoftLink("b"), h5py.SoftLink("a")
    with pytest.raises(SourceDataError, match=r"a\.h5: it cannot be read as HDF5"):
        _open(tmp_path / "a.h5", "a")


def test_links_to_nothing_lead_to_nothing(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = h5py.SoftLink("/b/c")
        assert member(file, "a") is member(file, "d/e") is member(file, "d") is None
        assert member(file, "/") == file


def test_values_in_raw_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(CUBE.tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset(
            "group/cube", CUBE.shape, "f4", external=[(str(tmp_path / "raw"), 0, CUBE.nbytes)]
        )
    with pytest.raises(SourceDataError, match=r"a\.h5: expected /group/cube in the file itself"):
        _open(tmp_path / "a.h5")


@pytest.mark.parametrize("source", ["other.h5", "gone.h5", "."])
def test_virtual_datasets_are_refused(tmp_path: Path, source: str) -> None:
    _write(tmp_path / "other.h5", CUBE)
    layout = h5py.VirtualLayout(CUBE.shape, "f4")
    layout[:] = h5py.VirtualSource(source, "twin", CUBE.shape)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["twin"] = CUBE
        file.create_virtual_dataset("group/cube", layout)
    with pytest.raises(SourceDataError, match="got values that lie in other data sets or files"):
        _open(tmp_path / "a.h5")


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"compression": "lzf"},
        {"scaleoffset": 6},
        {"fletcher32": True},
    ],
)
def test_filters_of_hdf5_are_undone(tmp_path: Path, options: dict[str, Any]) -> None:
    values = np.round(CUBE)  # which scaling to six decimals keeps
    _check(_write(tmp_path / "a.h5", values, **options), values, tmp_path / "a.h5")


def test_a_filter_that_is_not_there_is_named(tmp_path: Path) -> None:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((5, 6, 7))
    # Optional filters that are not there are left out when chunks are written, not when read.
    creation.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (2, 2, 4, 168))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple(CUBE.shape)
        h5py.h5d.create(
            file.create_group("group").id, b"cube", h5py.h5t.IEEE_F32LE, space, creation
        )
    with pytest.raises(SourceDataError, match=r"got filter 32001 .*HDF5_PLUGIN_PATH"):
        _open(tmp_path / "a.h5")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (64, 64, 64)},
        {"chunks": (64, 64, 64), "compression": "gzip"},
        {"chunks": (64, 64, 64), "scaleoffset": 2},
    ],
)
@pytest.mark.parametrize("mesh_cells", [20000, 1 << 22])
def test_sizes_that_a_file_cannot_hold_are_refused(
    tmp_path: Path, options: dict[str, Any], mesh_cells: int
) -> None:
    if not options:
        mesh_cells = min(mesh_cells, 1 << 20)  # larger ones have more bytes than HDF5 can count
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("group/cube", (mesh_cells,) * 3, "f4", **options)
        file["group/list"] = np.zeros(3)
    with pytest.raises(SourceDataError, match=r"with all values of its shape .*, got a file of"):
        _open(tmp_path / "a.h5")


_OPEN_IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from ionstore.errors import SourceDataError
from ionstore.readers.arrays.hdf5 import open_hdf5_field, opened_hdf5
import h5py
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
try:
    with opened_hdf5(path) as file:
        source = open_hdf5_field(path, file["cube"])
    sum(piece.size for piece in source.stream(lambda piece: None))
except SourceDataError as error:
    print(error)
"""


def test_chunks_that_fit_no_memory_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset(
            "cube", (8, 8, 8), "f4", chunks=(4096,) * 3, maxshape=(None,) * 3, compression="gzip"
        )
    told = subprocess.run(
        [sys.executable, "-c", _OPEN_IN_LITTLE_MEMORY, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert "expected /cube in chunks that fit in memory, got (4096, 4096, 4096)" in told
    assert "rewrite it in smaller chunks" in told


def test_values_that_were_never_written_are_fill_values(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("group/cube", (1, 5, 5, 5), "f4", fillvalue=3)
    source = _open(tmp_path / "a.h5")
    assert isinstance(source, HDF5Field)
    _check(source, np.full((5, 5, 5), 3, "f4"), tmp_path / "a.h5")


def test_numbers_of_odd_sizes_are_converted(tmp_path: Path) -> None:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(23, 15, 8, 0, 15)  # sign, exponent, mantissa: 24 bits
    kind.set_size(3)
    kind.set_precision(24)
    kind.set_ebias(127)
    values = np.round(CUBE)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple(values.shape)
        dataset = h5py.h5d.create(file.create_group("group").id, b"cube", kind, space)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    _check(_open(tmp_path / "a.h5"), values, tmp_path / "a.h5")


def test_pieces_of_a_stream_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "STREAM_BYTES", 2 * 6 * 7 * 4)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("plain", CUBE.shape, "f4")
        file.create_dataset("chunks", data=CUBE, chunks=(2, 4, 4))
    plain, chunks = (_open(tmp_path / "a.h5", name) for name in ("plain", "chunks"))
    assert [piece.size for piece in plain.stream(lambda _: None)] == [84, 84, 42]
    assert max(piece.size for piece in chunks.stream(lambda _: None)) == 32


@pytest.mark.parametrize("values", [np.zeros((2, 2, 2), "c8"), np.zeros(2, "S3"), "text"])
def test_values_that_are_no_real_numbers_are_refused(tmp_path: Path, values: Any) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["cube"] = values
    with pytest.raises(SourceDataError, match=r"a\.h5: expected real numbers in /cube, got dtype"):
        _open(tmp_path / "a.h5", "cube")


def test_a_file_that_another_program_writes_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    _write(tmp_path / "a.h5", CUBE)
    with (tmp_path / "a.h5").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # as HDF5 does
        with pytest.raises(SourceDataError, match=r"a\.h5: another program has it open .* ended"):
            _open(tmp_path / "a.h5")
    _open(tmp_path / "a.h5")


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "unable to lock file, errno = 37")

    monkeypatch.setattr(h5py, "File", refuse)
    with (
        pytest.raises(SourceDataError, match=r"a\.h5: .*set HDF5_USE_FILE_LOCKING=FALSE"),
        hdf5.opened_hdf5(tmp_path / "a.h5"),
    ):
        pass


def test_a_group_is_no_field(tmp_path: Path) -> None:
    _write(tmp_path / "a.h5", CUBE)
    with pytest.raises(SourceDataError, match="expected real numbers in /group, got a group"):
        _open(tmp_path / "a.h5", "group")


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_are_refused_wherever_they_end(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.h5"
    _write(path, CUBE, **KINDS[kind])
    content = path.read_bytes()
    for kept in (*range(8, len(content), 97), len(content) - 1):
        path.write_bytes(content[:kept])
        with pytest.raises(SourceDataError, match=r"a\.h5: .*truncated .*copy it again"):
            _open(path)


@pytest.mark.parametrize("kind", ["contiguous", "compressed"])
def test_a_file_that_is_cut_short_after_it_was_opened_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.h5"
    source = _write(path, CUBE, **KINDS[kind])
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(SourceDataError, match=r"a\.h5"):
        list(source.stream(lambda _: None))
    with pytest.raises(SourceDataError, match=r"a\.h5"):
        source.read_block((0, 0, 0), CUBE.shape)


def test_damaged_chunks_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    cube = np.random.default_rng(1).random((16, 16, 16))
    source = _write(path, cube, chunks=(16, 16, 16), compression="gzip")
    content = bytearray(path.read_bytes())
    content[len(content) - 9000] ^= 255
    path.write_bytes(content)
    with pytest.raises(SourceDataError, match=r"a\.h5: it cannot be read as HDF5"):
        list(source.stream(lambda _: None))


def test_missing_files_are_errors_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.h5"), opened_hdf5(tmp_path / "a.h5"):
        pass


def test_own_errors_pass_through(tmp_path: Path) -> None:
    _write(tmp_path / "a.h5", CUBE)
    with (
        pytest.raises(SourceDataError, match=r"^as it was$"),
        opened_hdf5(tmp_path / "a.h5"),
    ):
        raise SourceDataError("as it was")


def test_without_h5py_an_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "a.h5", CUBE)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SourceDataError, match=r'pip install "ionstore\[hdf5\]"'):
        _open(tmp_path / "a.h5")


@pytest.mark.parametrize("kind", KINDS)
def test_sources_are_picklable_and_read_by_several_threads(tmp_path: Path, kind: str) -> None:
    source: FieldSource = pickle.loads(pickle.dumps(_write(tmp_path / "a.h5", CUBE, **KINDS[kind])))

    def read(index: int) -> bool:
        streamed = np.concatenate(list(source.stream(lambda _: None)))
        block = source.read_block((index % 5, 0, 0), (1, 6, 7))
        return bool(
            (np.sort(streamed) == np.sort(CUBE.ravel())).all()
            and (block[0] == CUBE[index % 5]).all()
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(64)))
