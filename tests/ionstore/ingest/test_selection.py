from pathlib import Path

import pytest

from ionstore.errors import SourceDataError
from ionstore.ingest.selection import ALL_FILES, FileSelection


def test_what_is_left_out_is_not_required() -> None:
    assert ALL_FILES.required == ("n_igm", "n_src", "xhii")
    assert FileSelection(without=["xhii"]).required == ("n_igm", "n_src")
    assert FileSelection(without=["xhii", "n_src"]).required == ("n_igm",)
    assert FileSelection(without=["n_igm"]).required == ("n_src", "xhii")


@pytest.mark.parametrize(
    ("without", "said"),
    [
        (["temperature"], "--without must name one of n_igm, n_src, xhii, got temperature"),
        (["n_src"], "--without n_src leaves out what --map n_src names files for"),
        (["n_igm", "n_src"], "must hold n_igm or n_src, .*, got --without n_igm --without n_src"),
    ],
)
def test_selections_that_contradict_themselves_are_refused(without: list[str], said: str) -> None:
    maps = {"n_src": [Path("sources")]} if without == ["n_src"] else {}
    with pytest.raises(SourceDataError, match=said):
        FileSelection(maps=maps, without=without)
