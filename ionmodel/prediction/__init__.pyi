from .predictor import load as load
from .reporter import PredictionReporter as PredictionReporter
from .store import predict_store as predict_store
