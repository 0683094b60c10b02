"""Figures of trainings, drawn but not rendered, for tests that are not about them."""

from pathlib import Path
from typing import Any

import pytest

from ionstore.storage.files import whole_file

RENDERED = "rendered_figures"


@pytest.fixture
def rendered_figures() -> None:
    """Let trainings of this test render their figures."""


@pytest.fixture(autouse=True)
def drawn_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a file that is no image in the place of each figure.

    Rendering takes longer than all else in a tiny training.
    """
    if RENDERED not in request.fixturenames:
        monkeypatch.setattr("ionmodel.training.figures._save", _save)


def _save(figure: Any, path: Path) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(f"figure of {len(figure.axes)} axes")
