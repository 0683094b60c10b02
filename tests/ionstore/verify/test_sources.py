"""Which name a source file is recorded by, and which files are compared with what is recorded."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from ionstore.ingest.plan import name_source_file
from ionstore.store.metadata import SourceFile, merge_source_files
from ionstore.verify.sources import plan_comparison

MAPS = {"n_src": [Path("other/nsrc*.npy")], "xhii": [Path("far"), Path("far2/x.npy")]}


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("sim/a/rho.npy", ("sim", "a/rho.npy")),
        ("other/nsrc_z9.npy", ("other", "nsrc_z9.npy")),
        ("far/deep/x.npy", ("far", "deep/x.npy")),
        ("far2/x.npy", ("far2", "x.npy")),
        ("elsewhere/x.npy", ("elsewhere", "x.npy")),
    ],
)
def test_a_file_is_named_from_the_folder_that_was_given(
    path: str, expected: tuple[str, str]
) -> None:
    touch("far/deep/x.npy", "far2/x.npy")
    assert name_source_file(Path(path), Path("sim"), MAPS) == expected
    absolute = Path(path).absolute()
    assert name_source_file(absolute, Path("sim"), MAPS)[1] == expected[1]


def recorded(folder: str | None, *names: str) -> list[SourceFile]:
    return [
        SourceFile(name=name, size_bytes=1, digest=f"x:{folder}", folder=folder) for name in names
    ]


def planned(files: list[SourceFile], *folders: str) -> dict[str, list[str | None]]:
    plan = plan_comparison(files, [Path(folder) for folder in folders])
    assert not plan.strange
    return {str(one.path): [file.folder for file in one.recorded] for one in plan.comparisons}


def test_files_are_looked_for_in_their_own_folder_alone_where_it_is_named() -> None:
    touch("z8/a", "z7/a", "z7/b")
    files = [*recorded("z8", "a", "c"), *recorded("z7", "a", "b")]
    assert planned(files, "z8") == {"z8/a": ["z8"], "z8/c": ["z8"]}
    assert planned(files, "z7/../z7") == {"z7/../z7/a": ["z7"], "z7/../z7/b": ["z7"]}
    assert set(planned(files, "z8", "z7")) == {"z8/a", "z8/c", "z7/a", "z7/b"}


def test_a_folder_that_was_moved_is_looked_into_for_all_that_it_may_hold() -> None:
    touch("moved/a")
    files = [*recorded("z8", "a", "c"), *recorded("z7", "a"), *recorded("z6", "b")]
    assert planned(files, "moved") == {"moved/a": ["z8", "z7"], "moved/c": ["z8"]}


def test_files_recorded_without_a_folder_belong_to_any_but_those_of_others() -> None:
    touch("sim/a", "z7/c")
    files = [*recorded(None, "a", "b"), *recorded("z7", "c")]
    assert planned(files, "sim") == {"sim/a": [None], "sim/b": [None]}
    assert planned(files, "z7") == {"z7/c": ["z7"]}


def test_a_folder_with_nothing_that_was_recorded_is_told() -> None:
    touch("sim/a", "wrong/z")
    plan = plan_comparison(recorded("sim", "a"), [Path("sim"), Path("wrong")])
    assert plan.strange == (Path("wrong"),)
    assert plan_comparison([], [Path("wrong")]).strange == ()


def test_what_was_taken_from_one_file_is_put_together() -> None:
    def file(field: str, redshift: float, digest: str = "x:1") -> SourceFile:
        return SourceFile(
            name="box.h5",
            size_bytes=1,
            digest=digest,
            folder="sim",
            fields=(field,),
            redshifts=(redshift,),
        )

    one = [file("xhii", 8.0), file("n_igm", 8.0), file("n_igm", 9.0)]
    other = file("n_igm", 7.0, "x:2")

    def merged(files: Iterable[SourceFile]) -> list[tuple[object, ...]]:
        return [(each.digest, each.fields, each.redshifts) for each in merge_source_files(files)]

    expected = [("x:1", ("n_igm", "xhii"), (9.0, 8.0)), ("x:2", ("n_igm",), (7.0,))]
    assert merged([other, *one]) == merged([*one, other]) == expected
