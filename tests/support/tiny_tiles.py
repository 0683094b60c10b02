"""Configurations of runs on tiles that take a second."""

from typing import Any

from ionmodel.config.keys import over_preset, read_preset
from ionmodel.config.training_config import TrainingConfig, make_config

TINY: dict[str, Any] = {
    "network": "residual",
    "radius": 1,
    "tile": 4,
    "scales": "none",
    "samples_per_epoch": "none",
    "validation_samples": "none",
    "width": 6,
    "batch_size": 4,
    "epochs": 2,
    "device": "cpu",
}


def tiny(**changes: Any) -> TrainingConfig:
    return make_config(over_preset(read_preset("dense"), {**TINY, **changes}))
