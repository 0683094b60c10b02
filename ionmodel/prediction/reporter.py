"""`PredictionReporter`: receives notes, plan and progress of a prediction."""

from typing import TYPE_CHECKING

from ionstore.reporter import Reporter

if TYPE_CHECKING:  # it needs torch, which the command line must not wait for
    from ionmodel.prediction.plan import PredictionPlan

CHANNELS_STAGE = "Derived channels"
PREDICTING_STAGE = "Predicting"


class PredictionReporter(Reporter):
    """Receive notes, plan and progress of `predict_store`; this one is silent.

    Subclass it and override what you want to show. The stages are "Derived channels", counted in
    channels, and "Predicting", counted in cells of this process. Processes other than the first
    report only the latter.
    """

    def unlike(self, sentence: str) -> None:
        """Take a sentence on a property of the store outside the training range."""

    def plan(self, plan: "PredictionPlan") -> None:
        """Take the plan, with the shards that are left."""


SILENT = PredictionReporter()
