"""The device and the network of a configuration."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ionmodel.config.training_config import TrainingConfig
from ionmodel.errors import ConfigError
from ionmodel.networks.base import PatchNetwork, build_network
from ionstore.errors import MemoryBudgetError


def choose_device(name: str, *, recompute: bool = False) -> torch.device:
    """Return a device by its name; "auto" is the first of cuda, mps and cpu that serves."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available() and not recompute,  # which needs float64
    }
    if name == "auto":
        name = next((device for device, there in available.items() if there), "cpu")
    elif name not in {*available, "cpu"}:
        raise ConfigError(
            f"device must be 'auto', 'cpu', 'cuda' or 'mps', got {name!r}; one of several GPUs is "
            "chosen with the environment variable CUDA_VISIBLE_DEVICES"
        )
    elif not available.get(name, True):
        raise ConfigError(
            f"this machine has no device {name!r}; use 'cpu' (-o device=cpu of a training "
            "or a resumed one, --device cpu of a prediction)"
        )
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        # Processes of torchrun share out the GPUs; with more processes than GPUs, some share one.
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return torch.device(name)


def network_of(config: TrainingConfig) -> PatchNetwork:
    """Return the network of a configuration with its initial weights, on the CPU."""
    try:
        return build_network(
            config.network,
            radius=config.radius,
            channels=config.n_channels,
            seed=config.seed,
            **config.network_options(),
        )
    except ValueError as error:
        raise ConfigError(f"network {config.network!r}: {error}") from error


@contextmanager
def full_device_as_message(message: str) -> Iterator[None]:
    """Raise MemoryBudgetError with a message where a device runs out of memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryBudgetError(message) from error
