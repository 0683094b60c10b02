"""Settings and errors of the device on which a network predicts."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolve in full float32 on CUDA devices."""
    # TensorFloat-32, the default of cuDNN, rounds tiles in another way than single cells.
    convolution = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolution.fp32_precision
    convolution.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolution.fp32_precision = before


def prediction_must_fit(device: torch.device) -> str:
    """Return the message for a device whose memory is too small for a prediction."""
    return (
        "the network and what it predicts at once must fit the free memory of device "
        f"{device.type}, which is too small; end what else runs there, lower the memory of a "
        "predicted store (--memory), or predict on the CPU (device cpu)"
    )
