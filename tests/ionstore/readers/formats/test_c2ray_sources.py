import gzip
from pathlib import Path

import numpy as np
import pytest

from ionstore.errors import SourceDataError
from ionstore.readers.formats.c2ray_sources import C2RaySources
from ionstore.readers.points.text_list import SourceList
from tests.support.mesh_files import inspected, the_field
from tests.support.source_lists import list_text, random_sources, write_list


@pytest.mark.parametrize("columns", [(), (3,), (4, 0), (-1,), (4, 4)])
def test_columns_must_be_masses_and_differ(columns: tuple[int, ...]) -> None:
    with pytest.raises(SourceDataError, match="source columns"):
        C2RaySources(columns=columns)


@pytest.mark.parametrize(
    ("text", "n_columns"),
    [
        (b"1\n1 2 3 4. 5.\n", 5),
        (b"0\n", 0),
        (b"2\n\n1,2,3,4.\n1 2 3 4.\n", 4),
        (b"1\n1 2 3 4.", 0),
        (b"1\n1 2 3 4. 5. 6. 7.\n" + 9000 * b" ", 7),
    ],
)
def test_the_first_source_tells_the_columns(tmp_path: Path, text: bytes, n_columns: int) -> None:
    found = the_field(
        inspected(C2RaySources(), write_list(tmp_path / "9.000_sources.dat", text))
    ).source
    assert isinstance(found, SourceList)
    assert found.n_columns == n_columns


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("8.397-coarsest_sources.dat", ("n_src", "grid_mass", 8.397)),
        ("10.110-coarsest_wsubgrid_sources.dat.gz", ("n_src", "grid_mass", 10.11)),
        ("8.397-coarser_sources_used_wfgamma.dat", ("n_src", "sources", 8.397)),
        ("halos_8.397.txt", (None, "grid_mass", 8.397)),
        ("sources.txt", (None, "grid_mass", None)),
    ],
)
def test_names_say_field_and_redshift(
    tmp_path: Path, name: str, said: tuple[str | None, str, float | None]
) -> None:
    for sources in (random_sources(3), random_sources(500)):
        found = the_field(
            inspected(C2RaySources(), write_list(tmp_path / name, list_text(sources)))
        )
        assert (found.field, found.quantity, found.redshift) == said
        assert found.source == SourceList(tmp_path / name, (4,))


def test_only_the_beginning_is_inspected(tmp_path: Path) -> None:
    text = list_text(random_sources(5000)) + b"damage" * 10000
    for name in ("8.397-coarsest_sources.dat", "8.397-coarsest_sources.dat.gz"):
        found = the_field(inspected(C2RaySources(), write_list(tmp_path / name, text)))
        assert found.field == "n_src"


@pytest.mark.parametrize(
    "content",
    [
        b"# z\tHI atoms\n10.500\t3.257e+73\t5.987e+71\n",
        b"3\n10.110 9.000 8.397 7.305\n",
        b"12.048 0.1\n11.5 0.2\n",
        b"3\nx y z mass\n",
        b"import numpy\n",
        b"\x93NUMPY\x01\x00v\x00{'descr'",
        b"\x40\x00\x00\x00" * 3 + bytes(64),
        b"\x89HDF\r\n\x1a\n" + bytes(64),
        b"\x1f\x8bno gzip",
        gzip.compress(b"\x40\x00\x00\x00" * 3, mtime=0),
        gzip.compress(b"text", mtime=0),
    ],
)
def test_other_files_are_not_claimed(tmp_path: Path, content: bytes) -> None:
    assert inspected(C2RaySources(), tmp_path / "8.397.txt", content) is None
    if not content.startswith(b"\x1f\x8bno"):
        assert inspected(C2RaySources(), tmp_path / "8.397_sources.dat", content) is None


def test_empty_files_of_other_names_are_not_claimed(tmp_path: Path) -> None:
    for name in ("sources.log", "8.397.dat", "8.700-coarsest_sources.hdf5"):
        assert inspected(C2RaySources(), tmp_path / name, b"") is None


@pytest.mark.parametrize(
    "name", ["8.700-coarsest_sources.dat", "8.700-coarsest_wsubgrid_sources.dat"]
)
def test_real_lists_are_all_numbers_in_rows(shared_data: Path, tmp_path: Path, name: str) -> None:
    path = shared_data / "dev" / "c2ray_container" / name
    rows = np.array(path.read_text().split()[1:], float).reshape(4700, 7)
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    for file in (path, packed):
        found = the_field(inspected(C2RaySources(), file))
        assert (found.field, found.redshift) == ("n_src", 8.7)
        assert isinstance(found.source, SourceList)
        ((cells, weights),) = found.source.points(64, lambda piece: None)
        np.testing.assert_array_equal(cells, rows[:, :3] - 1)
        np.testing.assert_array_equal(weights, rows[:, 3])
