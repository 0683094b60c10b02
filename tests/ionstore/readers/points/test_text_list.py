import gzip
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from ionstore.cube.mesh import Array
from ionstore.errors import SourceDataError
from ionstore.readers.formats.c2ray_sources import C2RaySources
from ionstore.readers.points.gridded import GriddedPoints
from ionstore.readers.points.text_list import SourceList
from tests.support.mesh_files import inspected, the_field
from tests.support.places import DATA
from tests.support.source_lists import MESH, list_text, random_sources, write_list

SAMPLES = DATA / "c2ray"


def _points(path: Path, columns: tuple[int, ...] = (4,)) -> tuple[Array, Array]:
    file_bytes: list[bytes] = []
    pieces = list(SourceList(path, columns).points(MESH, file_bytes.append))
    assert b"".join(file_bytes) == path.read_bytes()
    cells = np.concatenate([cells for cells, _ in pieces] or [np.zeros((0, 3), np.int64)])
    assert cells.dtype == np.int64
    return cells, np.concatenate([weights for _, weights in pieces] or [np.zeros(0)])


@pytest.mark.parametrize("name", ["9.000_sources.dat", "9.000_sources.dat.gz"])
@pytest.mark.parametrize("piece", [7, 61, 300, 1 << 22])
@pytest.mark.parametrize("form", [(1, 1), (2, 1), (4, 1), (4, 2), (4, 3)])
def test_sources_are_read_whatever_the_pieces_and_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: tuple[int, int], piece: int, name: str
) -> None:
    monkeypatch.setattr("ionstore.readers.points.text_list._TEXT_BYTES", piece)
    n_masses, lines = form
    sources = random_sources(n_masses=n_masses)
    cells, weights = _points(write_list(tmp_path / name, list_text(sources, lines=lines)))
    np.testing.assert_array_equal(cells, sources[:, :3] - 1)
    np.testing.assert_array_equal(weights, sources[:, 3])


@pytest.mark.parametrize(
    ("written", "mass"),
    [
        ("1.5D+03", 1500.0),
        ("1.5d3", 1500.0),
        ("1.5E+03", 1500.0),
        ("1.5-103", 1.5e-103),
        ("+1.5+103", 1.5e103),
        ("+.5e1", 5.0),
        ("-.0e1", 0.0),
        ("3.", 3.0),
        ("1500", 1500.0),
    ],
)
def test_numbers_are_read_as_fortran_writes_them(tmp_path: Path, written: str, mass: float) -> None:
    text = f" 2\n 1 2 3 {written} 0.0\n 4 5 6 7.0 8.0\n".encode()
    path = write_list(tmp_path / "9.000_sources.dat", text)
    assert the_field(inspected(C2RaySources(), path)).field == "n_src"
    _, weights = _points(path)
    np.testing.assert_array_equal(weights, [mass, 7.0])


@pytest.mark.parametrize(
    "text",
    [
        b"2\r\n1 2 3 4.5\r\n4 5 6 7.5\r\n",
        b"2\n1, 2, 3, 4.5\n4,5,6,7.5\n",
        b"2\n1\t2\t3\t4.5\n4\t5\t6\t7.5\n",
        b"2 0.0\n1 2 3 4.5\n\n4 5 6 7.5\n\n",
        b"\n 2\n\n1 2 3 4.5\n 4 5 6 7.5  \n  ",
    ],
)
def test_what_separates_numbers_does_not_matter(tmp_path: Path, text: bytes) -> None:
    cells, weights = _points(write_list(tmp_path / "9.000_sources.dat", text))
    np.testing.assert_array_equal(cells, [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(weights, [4.5, 7.5])


def test_columns_are_added_up(tmp_path: Path) -> None:
    sources = random_sources(n_masses=4)
    path = write_list(tmp_path / "9.000_sources.dat", list_text(sources, lines=2))
    np.testing.assert_array_equal(_points(path, (5,))[1], sources[:, 4])
    np.testing.assert_array_equal(_points(path, (7, 4))[1], sources[:, 6] + sources[:, 3])
    found = the_field(inspected(C2RaySources(columns=(4, 5)), path))
    assert found.source == SourceList(path, (4, 5))
    assert pickle.loads(pickle.dumps(found.source)) == found.source


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = write_list(tmp_path / "9.000_sources.dat", list_text(random_sources(n_masses=2)))
    with pytest.raises(SourceDataError, match="no column 6, masses are in columns 4 to 5;"):
        _points(path, (4, 6))


def _read_as_found(path: Path) -> None:
    assert inspected(C2RaySources(), path) is not None
    _points(path)


@pytest.mark.parametrize("name", ["9.000_sources.dat", "9.000_sources.dat.gz"])
@pytest.mark.parametrize("lines", [1, 2])
def test_every_truncation_is_refused(tmp_path: Path, lines: int, name: str) -> None:
    path = write_list(
        tmp_path / name, list_text(random_sources(6, n_masses=3), real="%.4f ", lines=lines)
    )
    content = path.read_bytes()
    for kept in range(len(content)):
        path.write_bytes(content[:kept])
        with pytest.raises(SourceDataError, match=rf"{name}: .*copy it again"):
            _read_as_found(path)


@pytest.mark.parametrize("n_lines", [0, 1, 8, 9, 11, 12, 15, 20])
def test_more_or_fewer_sources_than_announced_are_refused(tmp_path: Path, n_lines: int) -> None:
    # 8 and 12 lines of five numbers are also four and six for each of ten sources
    text = list_text(random_sources(n_lines), count="10")
    if n_lines == 20:
        text += b" 1 2 3 4.0\n"
    with pytest.raises(SourceDataError, match="truncated or damaged"):
        _points(write_list(tmp_path / "9.000_sources.dat", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"1\n1 2 3\n", "for each of 1 sources, got 3 numbers"),
        (b"0\n1 2 3 4.0\n", "for each of 0 sources, got 4 numbers"),
        (b"1\n1 2 3 mass\n", "expected numbers, got 'mass'"),
        (b"1\n1 2 3 1.2.3\n", r"expected numbers, got '1\.2\.3'"),
        (b"1\n1 2 3 \x00\x01\n", "damaged"),
        (b"1\n1 2 3 4.0", r"must end with a line break, got '1 2 3 4\.0'"),
        (b"1\n1 2 3 " + b"4" * 140000 + b"\n", "damaged"),
        (b"1" * 70000, "one longer than 65536"),
        (b"N\n1 2 3 4.0\n", "number of sources in the first line, got 'N'"),
        (b"-1\n1 2 3 4.0\n", "number of sources in the first line, got '-1'"),
        (b"", "number of sources in the first line, got ''"),
    ],
)
def test_damage_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, message: str
) -> None:
    monkeypatch.setattr("ionstore.readers.points.text_list._TEXT_BYTES", 1 << 15)
    with pytest.raises(SourceDataError, match=message):
        _points(write_list(tmp_path / "9.000_sources.dat", text))


@pytest.mark.parametrize("columns", [(4,), (4, 5)])
def test_a_negative_mass_is_refused_whatever_its_cell_adds_up_to(
    tmp_path: Path, columns: tuple[int, ...]
) -> None:
    text = b"3\n1 1 1 5. 9.\n1 1 1 -2. 9.\n1 1 1 4. 9.\n"
    with pytest.raises(SourceDataError, match="cannot be negative, got -2 for source 2; fix"):
        _points(write_list(tmp_path / "9.000_sources.dat", text), columns)


@pytest.mark.parametrize("position", ["0 1 1", "1 10 1", "1 1 -1", "1.5 1 1", "nan 1 1"])
def test_sources_off_the_mesh_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, position: str
) -> None:
    monkeypatch.setattr("ionstore.readers.points.text_list._TEXT_BYTES", 40)
    lines = [f"{i} 1 1 5.0" for i in range(1, 8)] + [f"{position} 5.0", "1 1 1 5.0"]
    text = f"{len(lines)}\n" + "\n".join(lines) + "\n"
    shown = position.replace(" ", ", ")
    with pytest.raises(SourceDataError, match=rf"from 1 to 9, got \({shown}\) for source 8;"):
        _points(write_list(tmp_path / "9.000_sources.dat", text.encode()))


@pytest.mark.parametrize("text", [b"0\n", b"           0\n", b"0\n\n  \n"])
def test_a_list_may_be_empty(tmp_path: Path, text: bytes) -> None:
    path = write_list(tmp_path / "20.134_sources.dat", text)
    found = the_field(inspected(C2RaySources(), path))
    assert found.field == "n_src"
    cells, weights = _points(path)
    assert cells.shape == (0, 3)
    assert weights.shape == (0,)


def test_a_list_may_be_compressed_in_several_members(tmp_path: Path) -> None:
    sources = random_sources()
    text = list_text(sources)
    path = tmp_path / "9.000_sources.dat.gz"
    path.write_bytes(gzip.compress(text[:1000]) + gzip.compress(text[1000:]) + bytes(100))
    np.testing.assert_array_equal(_points(path)[1], sources[:, 3])


@pytest.mark.parametrize("place", [15, -3, -6, None])
def test_damage_of_compressed_lists_is_noticed(tmp_path: Path, place: int | None) -> None:
    path = write_list(tmp_path / "9.000_sources.dat.gz", list_text(random_sources()))
    content = bytearray(path.read_bytes())
    if place is None:
        content += b"more"
    else:
        content[place] ^= 255
    path.write_bytes(content)
    with pytest.raises(SourceDataError, match="cannot be uncompressed"):
        _points(path)


def test_memory_is_bounded_by_the_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ionstore.readers.points.text_list._TEXT_BYTES", 1 << 15)
    lines = list_text(random_sources(1000)).partition(b"\n")[2]
    path = write_list(tmp_path / "9.000_sources.dat.gz", b"50000\n" + lines * 50)
    tracemalloc.start()
    total = sum(len(cells) for cells, _ in SourceList(path).points(MESH, lambda piece: None))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 50000
    assert peak_bytes < len(lines) * 50 / 4


def test_what_gfortran_wrote_is_the_gridded_mass() -> None:
    found = the_field(inspected(C2RaySources(), SAMPLES / "8.700-coarsest_sources.dat"))
    assert isinstance(found.source, SourceList)
    gridded = GriddedPoints(found.source, 20)
    values = np.concatenate(list(gridded.stream(lambda piece: None))).reshape(20, 20, 20)
    expected = np.load(SAMPLES / "expected" / "nsrc_z8.700.npy").astype("f8")
    np.testing.assert_array_equal(values > 0, expected > 0)
    ratio = values[values > 0] / expected[values > 0]
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-6)


def test_tools21cm_reads_the_same(tmp_path: Path) -> None:
    source_file = pytest.importorskip("tools21cm.source_file")
    path = tmp_path / "8.700-coarsest_wsubgrid_sources.dat"
    count, *numbers = (SAMPLES / "8.700-coarsest_sources.dat").read_text().split()
    rows = np.array(numbers).reshape(int(count), -1)
    # Each source on two lines, as tools21cm expects.
    lines = [" ".join(part) for row in rows for part in (row[:5], row[5:])]
    path.write_text("\n".join([count, *lines, ""]))
    theirs = source_file.SourceFile(str(path))
    ((cells, weights),) = SourceList(path).points(20, lambda piece: None)
    np.testing.assert_array_equal(cells, theirs.sources_list[:, :3])
    ratio = theirs.sources_list[:, 3] / weights  # Msun, of the box that it has by default
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-12)


def test_more_sources_than_the_first_line_says_are_not_lost(tmp_path: Path) -> None:
    sources = random_sources(2)
    path = write_list(tmp_path / "9.000_sources.dat", list_text(sources, count="1"))
    with pytest.raises(SourceDataError, match="its first line says 1 source, 10 numbers follow"):
        _points(path)
