"""Choose where decoded fields live while a network trains: in main memory or on the GPU."""

from dataclasses import dataclass

import torch

from ionstore.errors import bytes_in_words

# A training step needs the rest, for weights, activations and batches.
_SHARE_OF_DEVICE = 0.5


@dataclass(frozen=True, slots=True)
class FieldPlacement:
    """Memory that holds the fields, and the way of batches to the network."""

    on_device: bool = False
    pin_memory: bool = False
    sentence: str = ""  # for the user; empty where there is only one place


def place_fields(
    device_type: str,
    *,
    field_bytes: int,
    budget_bytes: int,
    free_device_bytes: int,
    num_workers: int,
) -> FieldPlacement:
    """Return the GPU where the fields fit both it and the budget, main memory otherwise."""
    if device_type != "cuda":  # on Apple GPUs cutting is untested; a CPU has one memory
        return FieldPlacement()
    if num_workers:
        reason = f"num_workers = {num_workers} asks for worker processes that cut them there"
    elif field_bytes > budget_bytes:
        # Main memory would decode them by region, in another order of samples, and that order
        # must not depend on the device, which may change when a run is resumed.
        reason = "they do not fit memory_budget"
    elif field_bytes > _SHARE_OF_DEVICE * free_device_bytes:
        reason = (
            f"they take {bytes_in_words(field_bytes)}, more than half of the "
            f"{bytes_in_words(free_device_bytes)} that are free on the GPU"
        )
    else:
        return FieldPlacement(
            on_device=True, sentence="all fields are kept in the memory of the GPU and cut there"
        )
    # Copies from pinned memory run while the GPU computes.
    return FieldPlacement(
        pin_memory=True,
        sentence=f"the fields stay in main memory and batches are copied to the GPU: {reason}",
    )


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a GPU; 0 of any other device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
