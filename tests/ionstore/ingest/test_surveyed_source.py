import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from ionstore.errors import SourceDataError
from ionstore.ingest.survey import survey_source
from ionstore.ingest.surveyed_source import SurveyedSource
from ionstore.readers.arrays.flat import FlatArray

WHOLE = ((0, 0, 0), (4, 4, 4))


@pytest.fixture
def source(tmp_path: Path) -> SurveyedSource:
    np.random.default_rng(0).random(64).tofile(tmp_path / "values")
    flat = FlatArray(tmp_path / "values", (4, 4, 4), np.dtype("f8"), fortran_order=True)
    return SurveyedSource(flat, survey_source("xhii", flat))


def test_values_are_those_of_the_source_while_its_file_stays(source: SurveyedSource) -> None:
    flat = source.source
    for one in (source, pickle.loads(pickle.dumps(source)), source.absolute()):
        np.testing.assert_array_equal(one.read_block(*WHOLE), flat.read_block(*WHOLE))
        assert (one.path, one.shape, one.dtype) == (flat.path, flat.shape, flat.dtype)
        assert one.fortran_order


def test_a_source_is_absolute_with_its_survey(
    source: SurveyedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.path.parent)
    near = SurveyedSource(FlatArray(Path("values"), (4, 4, 4), np.dtype("f8")), source.survey)
    assert near.absolute().path == source.path
    assert near.absolute().survey == source.survey


@pytest.mark.parametrize("grow", [0, 1])
def test_a_file_that_was_written_since_is_refused(source: SurveyedSource, grow: int) -> None:
    path = source.path
    before = path.stat()
    path.write_bytes(path.read_bytes() + bytes(grow))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1 - grow))
    with pytest.raises(SourceDataError, match="the file changed while it was ingested"):
        source.read_block(*WHOLE)


def test_a_file_that_is_gone_is_named(source: SurveyedSource) -> None:
    source.path.unlink()
    with pytest.raises(FileNotFoundError, match="values"):
        source.read_block(*WHOLE)
