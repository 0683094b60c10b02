from .predictor import load as load
from .store import predict_store as predict_store
