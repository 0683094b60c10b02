"""A source whose blocks are taken only from the file that was surveyed."""

from dataclasses import dataclass

from ionstore.cube.mesh import Array, Corner
from ionstore.ingest.survey import SourceSurvey, check_unchanged
from ionstore.readers.base import SourceOfSource


@dataclass(frozen=True)
class SurveyedSource(SourceOfSource):
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

    survey: SourceSurvey

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
