"""Measure what spinning threads cost when other work shares the cores.

Times training steps of the preset `small` (batches of 256 random neighborhoods) in processes of
their own, with OpenMP's default way of waiting and with ``OMP_WAIT_POLICY=PASSIVE``, which
``ionmodel train`` sets: alone, and beside one other busy process. Rounds are interleaved.

    python benchmarks/thread_waiting.py
"""

import argparse
import json
import os
import subprocess
import sys

from result import median_and_spread, print_result

STEPS = """
import json, time, torch
from ionmodel.config import make_config
from ionmodel.config.keys import read_preset
from ionmodel.networks.base import build_network

config = make_config(read_preset("small"))
network = build_network("two_branch", radius=4, channels=2, seed=0, **config.network_options())
optimizer = torch.optim.Adam(network.parameters())
inputs = torch.randn(256, 2, 9, 9, 9, generator=torch.Generator().manual_seed(0))
times = []
for _ in range(25):
    start = time.perf_counter()
    loss = network(inputs).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    times.append(time.perf_counter() - start)
print(json.dumps([sorted(times)[len(times) // 2], float(loss)]))
"""
BUSY = "import time\nend = time.monotonic() + 600\nwhile time.monotonic() < end: pass"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    for n_busy in (0, 1):
        steps_ms: dict[str, list[float]] = {"default": [], "passive": []}
        losses = set()
        others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(n_busy)]
        try:
            for _ in range(rounds):
                for policy, times in steps_ms.items():
                    seconds, loss = steps(policy)
                    times.append(1000 * seconds)
                    losses.add(round(loss, 6))
        finally:
            for process in others:
                process.kill()
                process.wait()
        assert len(losses) == 1, losses
        medians = {policy: median_and_spread(times) for policy, times in steps_ms.items()}
        print_result(
            f"{n_busy} other busy processes",
            rounds=rounds,
            step_ms={policy: round(median, 1) for policy, (median, _) in medians.items()},
            spread_ms={policy: round(spread, 1) for policy, (_, spread) in medians.items()},
            default_relative_to_passive=round(medians["default"][0] / medians["passive"][0], 2),
        )


def steps(policy: str) -> tuple[float, float]:
    """Return the median step in seconds and the last loss."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    if policy == "passive":
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    command = [sys.executable, "-c", STEPS]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds, loss = json.loads(shown.stdout)
    return seconds, loss


if __name__ == "__main__":
    main()
