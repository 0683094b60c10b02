"""A source whose blocks are taken only from the file that was surveyed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ionstore.cube import Array
from ionstore.layout import Corner
from ionstore.readers.base import FieldSource, OnBytes
from ionstore.survey import SourceSurvey, check_unchanged


@dataclass(frozen=True)
class SurveyedSource(FieldSource):
    """The values of a source, refused once its file is another than it was when it was surveyed.

    Parameters
    ----------
    source : FieldSource
        Reads the values.
    survey : SourceSurvey
        What was found of its file.

    Notes
    -----
    Without it, a part made of a file that was another for a while would be taken for done when
    the file is back as it was and the build is resumed. Each block costs one look at the file.
    """

    source: FieldSource
    survey: SourceSurvey

    @property
    def path(self) -> Path:  # type: ignore[override]
        """File that holds the values."""
        return self.source.path

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """Shape of the values."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        """Dtype of the values."""
        return self.source.dtype

    @property
    def fortran_order(self) -> bool:  # type: ignore[override]
        """Whether the first index runs fastest."""
        return self.source.fortran_order

    def stream(self, on_bytes: OnBytes) -> Iterator[Array]:
        """Yield the values in the order of the file, which is not looked at again."""
        return self.source.stream(on_bytes)

    def read_block(self, start: Corner, shape: Corner) -> Array:
        """Return the values of a block.

        Raises
        ------
        SourceDataError
            If the file has been written since the survey.
        OSError
            If it cannot be read.
        """
        values = self.source.read_block(start, shape)
        # After the values: what was written while they were read is seen too.
        check_unchanged(self.source, self.survey)
        return values

    def absolute(self) -> "SurveyedSource":
        """Return the same source, to be read from any working folder."""
        return replace(self, source=self.source.absolute())
