from .training_config import TrainingConfig as TrainingConfig
from .training_config import make_config as make_config
