"""`PredictionReporter`: how the prediction of a store tells what it does."""

from typing import TYPE_CHECKING

from ionstore.reporter import Reporter

if TYPE_CHECKING:  # it needs torch, which the command line must not wait for
    from ionmodel.prediction.plan import PredictionPlan

CHANNELS_STAGE = "Derived channels"
PREDICTING_STAGE = "Predicting"


class PredictionReporter(Reporter):
    """Told by `predict_store` what it does; this one stays silent.

    Subclass it and override what is to be shown. The stages are "Derived channels", where some are
    computed, with progress in channels, and "Predicting", with progress in the cells of this
    process. In processes other than the first, only the latter is told.
    """

    def unlike(self, sentence: str) -> None:
        """Take one thing in which the store is unlike the training, with the numbers."""

    def plan(self, plan: "PredictionPlan") -> None:
        """Take what will be done, and what of it is left."""


SILENT = PredictionReporter()
