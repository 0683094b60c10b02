from .config import TrainingConfig as TrainingConfig
from .dense import dense_form as dense_form
from .prediction import load as load
from .prediction import predict_store as predict_store
from .training import train as train

__version__: str
