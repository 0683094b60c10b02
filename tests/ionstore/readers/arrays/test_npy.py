import hashlib
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ionstore.cube.mesh import Array
from ionstore.errors import SourceDataError
from ionstore.readers.arrays.flat import FlatArray
from ionstore.readers.arrays.npy import (
    NPY_MAGIC,
    CompressedMember,
    StoredMember,
    open_numpy_file,
)
from ionstore.readers.base import FieldSource

CUBE = np.random.default_rng(1).random((5, 6, 7)).astype("f4")


def _streamed(source: FieldSource, spool: Path) -> tuple[Array, str]:
    digest = hashlib.sha256()
    spool.write_bytes(b"".join(piece.tobytes() for piece in source.stream(digest.update)))
    ready = source.from_spool(spool)
    return ready.read_block((0, 0, 0), (5, 6, 7)), digest.hexdigest()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "u1", "<i8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["npy", "savez", "savez_compressed", "stream named npz"])
def test_every_kind_of_file_gives_its_values(
    tmp_path: Path, kind: str, order: str, dtype: str
) -> None:
    cube = np.array((CUBE * 9).astype(dtype), order="F" if order == "F" else "C")
    path = tmp_path / ("rho_z8.npy" if kind == "npy" else "rho_z8.npz")
    if kind in ("npy", "stream named npz"):
        with path.open("wb") as file:
            np.save(file, cube)
    else:
        getattr(np, kind)(path, cube)
    source = open_numpy_file(path, "rho")
    assert source.shape == cube.shape
    assert source.dtype == cube.dtype
    assert bool(source.spool_bytes) == (kind == "savez_compressed")
    values, digest = _streamed(source, tmp_path / "spool")
    np.testing.assert_array_equal(values, cube)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_blocks_are_slices(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(CUBE))
    block = open_numpy_file(tmp_path / "a.npy", "a").read_block((1, 2, 3), (2, 4, 1))
    np.testing.assert_array_equal(block, CUBE[1:3, 2:6, 3:4])
    assert block.flags.c_contiguous
    assert block.flags.owndata


def test_a_compressed_member_cannot_be_cut_in_place(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", CUBE)
    source = open_numpy_file(tmp_path / "a.npz", "a")
    assert isinstance(source, CompressedMember)
    with pytest.raises(NotImplementedError, match="spool"):
        source.read_block((0, 0, 0), (1, 1, 1))


def test_the_field_is_found_among_several_members(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", other=np.zeros(3), rho=CUBE)
    source = open_numpy_file(tmp_path / "a.npz", "rho")
    np.testing.assert_array_equal(source.read_block((0, 0, 0), (5, 6, 7)), CUBE)
    with pytest.raises(SourceDataError, match="one named xHII, got other, rho"):
        open_numpy_file(tmp_path / "a.npz", "xHII")


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "a.npy").touch()
    with pytest.raises(SourceDataError, match=r"a\.npy: it is empty; copy it again"):
        open_numpy_file(tmp_path / "a.npy", "a")


@pytest.mark.parametrize("kept", [5, 60, 300])
def test_truncated_arrays_are_named(tmp_path: Path, kept: int) -> None:
    np.save(tmp_path / "a.npy", CUBE)
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[:kept])
    with pytest.raises(SourceDataError, match=r"a\.npy: (an array of shape|its NumPy|expected a)"):
        open_numpy_file(tmp_path / "a.npy", "a")


def test_truncated_archives_are_named(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", CUBE)
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[:-100])
    with pytest.raises(SourceDataError, match=r"a\.npz: the \.npz archive cannot be read"):
        open_numpy_file(tmp_path / "a.npz", "a")


def test_a_damaged_member_is_noticed(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", np.random.default_rng(1).random((40, 40, 40)))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "a.npz").write_bytes(content)
    source = open_numpy_file(tmp_path / "a.npz", "a")
    with pytest.raises(SourceDataError, match="damaged"):
        list(source.stream(lambda piece: None))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_flipped_bit_of_the_values_is_noticed_in_the_first_pass(
    tmp_path: Path, save: Callable[..., None]
) -> None:
    path = tmp_path / "a.npz"
    # Longer than what is read to find the header, where the checksum would be compared already.
    save(path, other=np.zeros(3), rho=np.tile(CUBE, (4, 4, 4)))
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("rho.npy")
    rng = np.random.default_rng(1)
    end = info.header_offset + info.compress_size
    for place in rng.integers(info.header_offset + 200, end, 50):
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        with pytest.raises(SourceDataError, match=r"a\.npz: .*copy it again"):
            list(open_numpy_file(path, "rho").stream(lambda piece: None))


def test_blocks_of_a_damaged_member_are_refused_before_any_pass(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, np.zeros((20, 20, 20)))  # more than is read to find the header
    content = bytearray(path.read_bytes())
    content[-400] ^= 1
    path.write_bytes(content)
    source = open_numpy_file(path, "")
    for same in (source, pickle.loads(pickle.dumps(source)), source.absolute()):
        with pytest.raises(SourceDataError, match=r"arr_0\.npy does not match its checksum"):
            same.read_block((0, 0, 0), (1, 1, 1))


def test_a_member_is_read_as_a_whole_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "a.npz", CUBE)
    source = open_numpy_file(tmp_path / "a.npz", "")
    np.testing.assert_array_equal(source.read_block((0, 0, 0), (5, 6, 7)), CUBE)

    def refuse(*arguments: object) -> None:
        raise AssertionError("it was read again")

    monkeypatch.setattr(StoredMember, "stream", refuse)
    for same in (source, pickle.loads(pickle.dumps(source)), source.absolute()):
        np.testing.assert_array_equal(same.read_block((0, 0, 0), (5, 6, 7)), CUBE)


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_follows_the_array_in_its_member_counts_for_the_checksum(
    tmp_path: Path, kind: int
) -> None:
    np.save(tmp_path / "a.npy", CUBE)
    content = (tmp_path / "a.npy").read_bytes() + b"more" * 5
    with zipfile.ZipFile(tmp_path / "a.npz", "w", kind) as archive:
        archive.writestr("a.npy", content)
        archive.writestr("b.npy", content)
    source = open_numpy_file(tmp_path / "a.npz", "a")
    values, _ = _streamed(source, tmp_path / "spool")
    np.testing.assert_array_equal(values, CUBE)


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_that_numpy_never_writes_are_refused(tmp_path: Path, kind: int) -> None:
    np.save(tmp_path / "a.npy", CUBE)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", kind) as archive:
        archive.write(tmp_path / "a.npy", "a.npy")
    with pytest.raises(SourceDataError, match=r"got compression type .*numpy\.savez_compressed"):
        open_numpy_file(tmp_path / "a.npz", "a")


def _header(shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode()
    return NPY_MAGIC + b"\x02\x00" + struct.pack("<I", len(text)) + text


@pytest.mark.parametrize("kind", ["npy", "stored", "deflated"])
@pytest.mark.parametrize(
    "shape", [(20000,) * 3, (1 << 40,) * 3, (1 << 70, 2, 2), (10**2000,) * 3, (10**3000, 0, 3)]
)
def test_sizes_that_a_file_cannot_hold_are_refused(
    tmp_path: Path, kind: str, shape: tuple[int, ...]
) -> None:
    path = tmp_path / f"a.{'npy' if kind == 'npy' else 'npz'}"
    if kind == "npy":
        path.write_bytes(_header(shape) + bytes(1000))
    else:
        compression = zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("a.npy", _header(shape) + bytes(1000))
    with pytest.raises(SourceDataError, match=r"a\.np[yz]: .*copy it again") as told:
        open_numpy_file(path, "a")
    assert len(str(told.value)) < 400


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_table_that_claims_too_much_is_refused(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("a.npy", _header((1000, 1000, 1000)) + bytes(1000))
        n_bytes = archive.getinfo("a.npy").file_size
    content = path.read_bytes()
    table = content.rindex(b"PK\x01\x02")
    claims = content[table:].replace(struct.pack("<I", n_bytes), struct.pack("<I", 4 * 10**9 + 99))
    path.write_bytes(content[:table] + claims)
    with pytest.raises(
        SourceDataError, match=r"(ends \d{10} bytes before its array|it ends early)"
    ):
        open_numpy_file(path, "a")


_STREAM_IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from ionstore.errors import SourceDataError
from ionstore.readers.arrays.npy import open_numpy_file
resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))
try:
    source = open_numpy_file(Path(sys.argv[1]), "a")
    print(sum(piece.size for piece in source.stream(lambda piece: None)))
except SourceDataError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("begin", "told"),
    [
        (_header((2, 2, 2)) + bytes(32), "8"),  # a tail that is not the array's
        (NPY_MAGIC + b"\x02\x00" + struct.pack("<I", (1 << 32) - 9), "its NumPy header cannot"),
    ],
    ids=["tail", "header"],
)
def test_a_small_archive_takes_little_memory(tmp_path: Path, begin: bytes, told: str) -> None:
    path = tmp_path / "a.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.npy", "w") as member,
    ):
        member.write(begin)
        for _ in range(50):
            member.write(bytes(1 << 24))
    assert path.stat().st_size < 1 << 22
    printed = subprocess.run(
        [sys.executable, "-c", _STREAM_IN_LITTLE_MEMORY, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert told in printed


@pytest.mark.parametrize("missing", [8, 3])
def test_a_member_that_ends_early_is_noticed(tmp_path: Path, missing: int) -> None:
    np.save(tmp_path / "a.npy", CUBE)
    content = (tmp_path / "a.npy").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content[:-missing])
    with pytest.raises(SourceDataError, match=f"ends {missing} bytes before"):
        list(open_numpy_file(tmp_path / "a.npz", "a").stream(lambda piece: None))


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"(5, 6, 7)", b"(5, 6, 7 "), (b"(5, 6, 7)", b"(-5, 6,7)")],
)
def test_damaged_headers_are_named(tmp_path: Path, old: bytes, new: bytes) -> None:
    np.save(tmp_path / "a.npy", CUBE)
    content = (tmp_path / "a.npy").read_bytes()
    assert old in content
    (tmp_path / "a.npy").write_bytes(content.replace(old, new))
    with pytest.raises(SourceDataError, match=r"a\.npy: its NumPy header cannot be read"):
        open_numpy_file(tmp_path / "a.npy", "a")


@pytest.mark.parametrize("values", [np.zeros(3, "c16"), np.array(["a"]), np.zeros(2, "f4,i4")])
def test_values_that_are_no_real_numbers_are_refused(tmp_path: Path, values: Array) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(SourceDataError, match="expected real numbers, got dtype"):
        open_numpy_file(tmp_path / "a.npy", "a")


def test_pickled_objects_are_refused_unread(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object))
    with pytest.raises(SourceDataError, match="got dtype object"):
        open_numpy_file(tmp_path / "a.npy", "a")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"SIMPLE  = T")
    with pytest.raises(SourceDataError, match="begins with b'SIMPLE'"):
        open_numpy_file(tmp_path / "a.npy", "a")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that fails to read")
def test_errors_of_reading_name_the_file() -> None:
    path = Path("/proc/self/mem")  # nothing is mapped at its start
    with pytest.raises(OSError, match="/proc/self/mem"):
        open_numpy_file(path, "a")
    with pytest.raises(OSError, match="/proc/self/mem"):
        list(FlatArray(path, (0,), np.dtype("f4")).stream(lambda piece: None))


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(CUBE.tobytes())
    source = FlatArray(path, CUBE.shape, CUBE.dtype)
    path.write_bytes(CUBE.tobytes()[:-4])
    with pytest.raises(SourceDataError, match="shrank"):
        list(source.stream(lambda piece: None))
