"""Estimate how long a run will take, from a few timed steps on its device."""

import copy
import time

import torch

from ionmodel.config.training_config import TrainingConfig
from ionmodel.networks.base import PatchNetwork, flops_per_sample
from ionmodel.training.losses import make_loss

_PROBE_FLOPS = 2e11  # seconds on two cores at most, unless two samples cost more
_STEP_OVER_FORWARD = {False: 3, True: 4}  # with recompute, the forward pass runs twice


def estimate_seconds(
    network: PatchNetwork,
    config: TrainingConfig,
    *,
    n_training_cells: int,
    n_validation_cells: int,
) -> float:
    """Estimate the seconds of training steps and validation; reading and cutting are left out."""
    probe = copy.deepcopy(network)  # gradients and running statistics of the network stay
    device = next(probe.parameters()).device
    forwards = _STEP_OVER_FORWARD[bool(config.recompute)]
    n, tile = config.batch_size, config.tile or 1
    if device.type == "cpu":
        step_flops = forwards * flops_per_sample(network, tile)
        n = int(min(n, max(2, _PROBE_FLOPS / step_flops)))
    loss_of = make_loss(config.loss, final_activation=network.final_activation)
    width = network.receptive_field + tile - 1
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        inputs = torch.randn((n, network.channels, width, width, width), device=device)
        target = torch.rand(n * tile**3, device=device)
        # The first step also sets things up, and a busy machine can only slow a step down.
        repeats = 6 if n == config.batch_size else 1
        steps_s = []
        for _ in range(repeats):
            start = time.perf_counter()
            loss = loss_of(probe(inputs, activate=False).flatten(), target)
            loss.backward()  # type: ignore[no-untyped-call]
            if device.type != "cpu":  # steps are queued there
                torch.accelerator.synchronize(device)
            steps_s.append(time.perf_counter() - start)
    per_cell_s = min(steps_s) / (n * tile**3)
    return per_cell_s * (n_training_cells + n_validation_cells / forwards)
