"""The contract that every reader keeps, on a file of each format and layout."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ionstore.errors import SourceDataError
from ionstore.readers import READERS
from ionstore.readers.base import FieldSource, FileContents, FileReader, PointList
from ionstore.readers.points.gridded import GriddedPoints
from tests.support.format_files import MADE, SAMPLES, Sample
from tests.support.mesh_files import blocks, inspected

HEADER_BYTES = 200
MANY_CELLS = 40**3

of_every_kind = pytest.mark.parametrize("kind", SAMPLES)


def _written(folder: Path, sample: Sample) -> Path:
    path = folder / sample.file_name
    path.write_bytes(sample.content)
    return path


def _first_to_know(path: Path) -> tuple[FileReader, FileContents] | None:
    """The reader that takes a file, as formats are tried, and its finding."""
    for reader in READERS:
        contents = inspected(reader, path)
        if contents is not None:
            return reader, contents
    return None


def _sources(contents: FileContents | None, mesh_cells: int) -> Iterator[FieldSource]:
    """The values of each field; lists are gridded."""
    for one in contents.fields if contents else ():
        if isinstance(one.source, PointList):
            cells = getattr(one.source, "mesh_cells", mesh_cells)  # halos belong to a mesh
            yield GriddedPoints(one.source, min(cells, 40))
        else:
            yield one.source


def _found(path: Path, sample: Sample) -> list[FieldSource]:
    known = _first_to_know(path)
    assert known is not None
    return list(_sources(known[1], sample.mesh_cells))


def _spooled(source: FieldSource, spool: Path) -> FieldSource:
    """The source that blocks are read from."""
    if not source.spool_bytes:
        return source
    spool.write_bytes(b"".join(piece.tobytes() for piece in source.stream(lambda _: None)))
    assert spool.stat().st_size == source.spool_bytes == source.n_bytes
    with pytest.raises(NotImplementedError, match="spool"):
        source.read_block((0, 0, 0), (1, 1, 1))
    return source.from_spool(spool)


def _handles(path: Path) -> list[str]:
    """The open handles of a file in this process."""
    links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return [
        link for link in links if os.path.lexists(link) and os.readlink(link) == str(path.resolve())
    ]


def test_every_format_has_a_sample() -> None:
    assert {sample.format_name for sample in SAMPLES.values()} == {one.name for one in READERS}


@of_every_kind
def test_a_file_is_taken_by_its_own_format_alone(tmp_path: Path, kind: str) -> None:
    sample = SAMPLES[kind]
    known = _first_to_know(_written(tmp_path, sample))
    assert known is not None
    reader, contents = known
    assert reader.name == sample.format_name
    assert contents.fields or contents.notes
    assert not any("\n" in note for note in contents.notes)
    named = [(one.field, one.redshift) for one in contents.fields if one.field]
    assert len(set(named)) == len(named)
    told = reader.named(sample.file_name)
    assert told is None or told == named[0]


@of_every_kind
def test_blocks_are_those_of_the_stream(tmp_path: Path, kind: str) -> None:
    path = _written(tmp_path, SAMPLES[kind])
    for source in _found(path, SAMPLES[kind]):
        file_bytes: list[bytes] = []
        pieces = list(source.stream(file_bytes.append))
        assert b"".join(file_bytes) == SAMPLES[kind].content
        assert {(piece.ndim, piece.dtype) for piece in pieces} == {(1, source.dtype)}
        order = "F" if source.fortran_order else "C"
        cube = np.concatenate(pieces).reshape(source.shape, order=order)  # type: ignore[call-overload]
        ready = _spooled(source, tmp_path / "spool")
        for start, shape in blocks(source.shape):
            block = ready.read_block(start, shape)  # type: ignore[arg-type]
            cut = tuple(slice(at, at + n) for at, n in zip(start, shape, strict=True))
            np.testing.assert_array_equal(block, cube[cut])
            assert block.dtype == source.dtype
            assert block.flags.c_contiguous


@of_every_kind
def test_lists_give_cells_of_the_mesh_and_weights(tmp_path: Path, kind: str) -> None:
    for source in _found(_written(tmp_path, SAMPLES[kind]), SAMPLES[kind]):
        if isinstance(source, GriddedPoints):
            for cells, weights in source.points.points(source.mesh_cells, lambda _: None):
                assert cells.dtype == np.int64
                assert weights.dtype == np.float64
                assert cells.shape == (*weights.shape, 3)
                assert cells.min() >= 0
                assert cells.max() < source.mesh_cells
                assert weights.min() >= 0


@of_every_kind
def test_sources_are_read_by_other_processes_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    sample = SAMPLES[kind]
    monkeypatch.chdir(tmp_path)
    for source in _found(_written(Path(), sample), sample):
        monkeypatch.chdir(tmp_path)
        is_list = isinstance(source, GriddedPoints)  # lists are spooled before they are sent
        expected = np.concatenate(list(source.stream(lambda _: None)))
        sent = pickle.dumps(source if is_list else source.absolute())
        monkeypatch.chdir(tmp_path if is_list else "/")
        got = pickle.loads(sent)
        assert got.path.absolute() == tmp_path / sample.file_name
        np.testing.assert_array_equal(np.concatenate(list(got.stream(lambda _: None))), expected)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs a list of open files")
@of_every_kind
def test_no_file_stays_open(tmp_path: Path, kind: str) -> None:
    path = _written(tmp_path, SAMPLES[kind])
    for source in _found(path, SAMPLES[kind]):
        assert not _handles(path)
        whole = source.stream(lambda _: None)
        next(whole)
        list(whole)
        left = source.stream(lambda _: None)
        next(left)
        left.close()  # type: ignore[attr-defined]
        if not source.spool_bytes:
            source.read_block((0, 0, 0), (1, 1, 1))
        assert not _handles(path)
    path.write_bytes(SAMPLES[kind].content[:-1])
    _read_all(path)
    assert not _handles(path)


@of_every_kind
def test_a_truncated_file_ends_in_a_sentence(tmp_path: Path, kind: str) -> None:
    sample = SAMPLES[kind]
    path, n_bytes = tmp_path / sample.file_name, len(sample.content)
    for kept in {0, 1, 5, 8, 11, 12, 60, 100, 300, 2000, n_bytes // 2, n_bytes - 20, n_bytes - 1}:
        path.write_bytes(sample.content[: min(kept, n_bytes - 1)])
        _read_all(path)
        if sample.told_from is not None and kept >= sample.told_from:
            with pytest.raises(SourceDataError) as refused:
                _read_first(path, sample.mesh_cells)
            said = str(refused.value)
            assert said.startswith(f"{path}: ")
            assert "copy it again" in said or "convert it with numpy.save" in said
            assert "truncated" in said or not sample.content.startswith(b"\x89HDF")


def _read_first(path: Path, mesh_cells: int) -> None:
    """Read all that the first reader finds that knows a file."""
    known = _first_to_know(path)
    for source in _sources(known[1] if known else None, mesh_cells):
        list(source.stream(lambda _: None))


def _read_all(path: Path) -> tuple[int, int]:
    """Look at a file with every reader, and read what each finds; count findings and refusals."""
    found, said = 0, []
    for reader in READERS:
        try:
            for source in _sources(inspected(reader, path), MADE["list"].mesh_cells):
                found += 1
                if np.prod(source.shape) <= MANY_CELLS:
                    list(source.stream(lambda _: None))
                    if not source.spool_bytes and len(source.shape) == 3:
                        source.read_block((0, 0, 0), source.shape)
        except SourceDataError as error:
            said.append(str(error))
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in said)
    return found, len(said)


@pytest.mark.slow  # damages hundreds of bytes, each read by every format
@pytest.mark.parametrize("kind", MADE)
def test_flipped_bytes_end_in_a_sentence_at_worst(tmp_path: Path, kind: str) -> None:
    content = MADE[kind].content
    path = _written(tmp_path, MADE[kind])
    whole, refused = _read_all(path)
    assert (whole > 0) == (kind != "pickle")
    assert not refused
    rng = np.random.default_rng(3)
    places = [
        *range(min(len(content), HEADER_BYTES)),
        *rng.integers(0, min(len(content), 6000), 100),
    ]
    n_refused = 0
    for place in places:
        for flip in (255, 1 << int(rng.integers(8))):
            damaged = bytearray(content)
            damaged[place] ^= flip
            path.write_bytes(damaged)
            n_refused += _read_all(path)[1] > 0
    assert (n_refused > 0) == (MADE[kind].told_from is not None)
