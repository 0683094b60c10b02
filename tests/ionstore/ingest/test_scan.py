import os
import socket
from pathlib import Path

import pytest

from ionstore.errors import SourceDataError
from ionstore.ingest.scan import InspectedFile, InspectedFolder, inspect_file, inspect_folder
from tests.support.toy_format import TOYS, toy_field, write_toy


def _holds_a_field(file: InspectedFile) -> bool:
    return any(one.field for one in file.contents.fields)


def _names(folder: Path, paths: tuple[Path, ...]) -> list[str]:
    return [str(path.relative_to(folder)) for path in paths]


def test_the_first_reader_that_knows_a_file_reads_it(tmp_path: Path) -> None:
    path = write_toy(tmp_path / "a.dat", toy_field("xhii", 9.0))
    inspected = inspect_file(path, TOYS)
    assert inspected is not None
    assert (inspected.path, inspected.format_name) == (path, "toy")
    other = inspect_file(path.rename(tmp_path / "a.other"), TOYS)
    assert other is not None
    assert other.format_name == "other"
    (tmp_path / "b.dat").write_bytes(b"")
    assert inspect_file(tmp_path / "b.dat", TOYS) is None


def test_files_directly_in_a_folder_hide_those_below(tmp_path: Path) -> None:
    write_toy(tmp_path / "a.dat", toy_field("xhii", 9.0))
    write_toy(tmp_path / "old" / "deep" / "b.dat", toy_field("xhii", 9.0))
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").touch()
    found = inspect_folder(tmp_path, TOYS, _holds_a_field)
    assert _names(tmp_path, tuple(file.path for file in found.files)) == ["a.dat"]
    assert _names(tmp_path, found.unread) == ["old"]


def test_all_files_below_are_read_when_none_above_is_wanted(tmp_path: Path) -> None:
    write_toy(tmp_path / "a.dat", toy_field(None, 9.0))
    write_toy(tmp_path / "x" / "y" / "b.dat", toy_field("xhii", 9.0))
    write_toy(tmp_path / "x" / "c.dat", toy_field("n_igm", 9.0))
    (tmp_path / "x" / "d.bin").write_bytes(b"?")
    (tmp_path / "x" / "README").write_bytes(b"?")
    found = inspect_folder(tmp_path, TOYS, _holds_a_field)
    assert _names(tmp_path, tuple(file.path for file in found.files)) == [
        "a.dat",
        "x/c.dat",
        "x/y/b.dat",
    ]
    assert _names(tmp_path, tuple(one.path for one in found.unknown)) == ["x/d.bin"]
    assert found.unread == ()


def test_hidden_files_and_stores_are_passed_over(tmp_path: Path) -> None:
    for name in (".a.dat", ".git/a.dat", "cubes.zarr/a.dat", "out.partial/a.dat", "store/a.dat"):
        write_toy(tmp_path / "sim" / name, toy_field("xhii", 9.0))
        write_toy(tmp_path / "sim" / "x" / name, toy_field("xhii", 9.0))
    (tmp_path / "sim" / "store" / "zarr.json").touch()
    (tmp_path / "sim" / "x" / "store" / "zarr.json").touch()
    write_toy(tmp_path / "sim" / "simulation.json", toy_field("xhii", 9.0))
    found = inspect_folder(tmp_path / "sim", TOYS, _holds_a_field)
    assert found.files == found.unknown == found.unread == ()


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write_toy(tmp_path / "scratch" / "a.dat", toy_field("xhii", 9.0))
    (tmp_path / "sim").mkdir()
    (tmp_path / "sim" / "density").symlink_to(tmp_path / "scratch")
    (tmp_path / "scratch" / "back").symlink_to(tmp_path / "scratch")
    found = inspect_folder(tmp_path / "sim", TOYS, _holds_a_field)
    assert _names(tmp_path, tuple(file.path for file in found.files)) == ["sim/density/a.dat"]


def test_damaged_files_are_kept_with_what_their_names_tell(tmp_path: Path) -> None:
    write_toy(tmp_path / "a.dat", toy_field("xhii", 9.0))
    write_toy(tmp_path / "b.dat", damaged=True)
    write_toy(tmp_path / "n_src_8.500.dat", damaged=True)
    write_toy(tmp_path / "cube_8.500.dat", damaged=True)
    found = inspect_folder(tmp_path, TOYS, _holds_a_field)
    assert _names(tmp_path, tuple(file.path for file in found.files)) == ["a.dat"]
    assert [(one.path.name, one.field, one.redshift) for one in found.damaged] == [
        ("b.dat", None, None),
        ("cube_8.500.dat", None, 8.5),
        ("n_src_8.500.dat", "n_src", 8.5),
    ]
    assert found.damaged[0].sentence == f"{tmp_path / 'b.dat'}: it is truncated, copy it again"
    with pytest.raises(SourceDataError, match=r"b\.dat: it is truncated"):
        inspect_file(tmp_path / "b.dat", TOYS)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a file that is no file")
def test_what_is_no_file_is_never_opened_and_named_if_it_looks_like_data(tmp_path: Path) -> None:
    for name in ("control", "xhii_9.000.dat"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "zero.npy").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "a.bin"))
        found = inspect_folder(tmp_path, TOYS, _holds_a_field)
    assert (found.files, found.unknown) == ((), ())
    assert [(one.path.name, one.field) for one in found.damaged] == [
        ("a.bin", None),
        ("xhii_9.000.dat", "xhii"),
        ("zero.npy", None),
    ]
    assert {one.unread for one in found.damaged} == {
        "it cannot be read (it is a pipe, socket or device, no file)"
    }
    with pytest.raises(OSError, match=r"it is a pipe.*xhii_9"):
        inspect_file(tmp_path / "xhii_9.000.dat", TOYS)


def test_links_that_lead_nowhere_are_kept_with_what_their_names_tell(tmp_path: Path) -> None:
    for name in ("xhii_9.000.dat", "notes"):
        (tmp_path / name).symlink_to("/archive" if name == "notes" else tmp_path / "archive.dat")
    (tmp_path / "circle.dat").symlink_to(tmp_path / "circle.dat")
    found = inspect_folder(tmp_path, TOYS, _holds_a_field)
    assert (found.files, found.unknown) == ((), ())
    circle, notes, xhii = found.damaged
    assert (xhii.field, xhii.redshift) == ("xhii", 9.0)
    assert xhii.sentence == (
        f"{tmp_path / 'xhii_9.000.dat'}: link to a file that is not there; mount or copy "
        f"{tmp_path / 'archive.dat'}, or remove the link"
    )
    assert {one.unread for one in (circle, notes)} == {"link to a file that is not there"}
    assert (notes.field, notes.redshift) == (None, None)


@pytest.mark.parametrize(
    ("name", "field"), [("a.dat", None), ("xhii_9.000.dat", "xhii"), ("notes.txt", None)]
)
def test_a_file_that_may_not_be_read_is_named_if_it_looks_like_data(
    tmp_path: Path, name: str, field: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toy(tmp_path / name, toy_field("xhii", 9.0))

    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    found = inspect_folder(tmp_path, TOYS, _holds_a_field)
    if name == "notes.txt":
        assert found == InspectedFolder((), (), (), ())
        return
    (file,) = found.damaged
    assert (file.field, file.unread) == (field, "it cannot be read (Permission denied)")
    assert file.sentence == (
        f"{tmp_path / name}: it cannot be read (Permission denied); make it readable, or move it "
        "away"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (
            b"<!DOCTYPE html>\n<html>",
            "it begins with '<!DOCTYPE html>\\n', unlike any known format",
        ),
        (b"\xff" * 11, f"it begins with {bytes([255] * 11)!r}, unlike any known format"),
        (
            bytes(4 * 5**3),
            "it has the size of 5³ float32 numbers without a header; save them with numpy.save",
        ),
        (bytes(8 * 65**3), "it has the size of 65³ float64 numbers without a header"),
    ],
)
@pytest.mark.parametrize("name", ["a.dat", "A_8.700.BIN"])
def test_why_a_file_of_data_is_not_known_is_said(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    (unknown,) = inspect_folder(tmp_path, TOYS, _holds_a_field).unknown
    assert unknown.path == tmp_path / name
    assert unknown.reason.startswith(reason)


def test_a_file_of_a_format_that_is_not_looked_for_is_said_to_be_one(tmp_path: Path) -> None:
    write_toy(tmp_path / "a.dat", toy_field("xhii", 9.0))
    write_toy(tmp_path / "b.dat", damaged=True)
    other, toy = TOYS
    a, b = inspect_folder(tmp_path, [other], _holds_a_field, others=[toy]).unknown
    assert a.reason == "its format is toy, which --format leaves out"
    assert b.reason.startswith('it begins with \'{"toy"')
