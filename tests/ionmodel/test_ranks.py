"""Processes that share out work, started as users start them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from ionmodel.prediction.predictor import load
from ionmodel.prediction.store import predict_store
from ionmodel.runs.folder import RunFolder
from ionstore.store.cube_store import CubeStore
from tests.support.predicted_runs import REDSHIFTS

# Slow: torchrun and each rank import torch in processes of their own, seconds each.
pytestmark = pytest.mark.process

ON_ONE_MACHINE = ["--nproc-per-node=2", "--standalone"]

COMMAND = """
import os, sys
written = open(f"{sys.argv[0]}.{os.environ['RANK']}", "a", buffering=1)
sys.addaudithook(lambda event, told: event == "os.rename" and print(told[1], file=written))
from ioncli.main import ionmodel
ionmodel()
"""
"""Notes for each rank the files that it brings to their places: none is written there directly."""


@pytest.fixture
def torchrun(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start ``ionmodel`` with some arguments by torchrun with some options; end all at the end."""
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    started: list[subprocess.Popen[str]] = []

    def start(options: Sequence[str], arguments: Sequence[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                *options,
                "--",
                str(script),
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        return process

    yield start
    running = [process for process in started if process.poll() is None]
    for process in running:
        process.terminate()  # torchrun then ends its workers; killed, it would leave them behind
    for process in running:
        with process:
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return status, output and errors."""
    stdout, stderr = process.communicate(timeout=300)
    return process.returncode, stdout, stderr


def predict(run: RunFolder, store: CubeStore, out: str) -> list[str]:
    return [
        "predict", "--run", str(run.path), "--store", str(store.path), "--out", out,
        "--device", "cpu",
    ]  # fmt: skip


def shards_written(folder: Path, rank: int) -> list[str]:
    """Return the shards of predictions that a rank wrote, as often as it did."""
    paths = (folder / f"command.py.{rank}").read_text().splitlines()
    return [
        path.partition("/xhii_predicted/c/")[2] for path in paths if "/xhii_predicted/c/" in path
    ]


def test_ranks_share_out_the_shards(
    runs: Callable[[str], RunFolder],
    odd_store: CubeStore,
    tmp_path: Path,
    torchrun: Callable[..., subprocess.Popen[str]],
) -> None:
    arguments = predict(runs("wide"), odd_store, str(tmp_path / "two.zarr"))
    status, stdout, stderr = ended(torchrun(ON_ONE_MACHINE, arguments))
    assert status == 0, stderr
    assert stdout.count("Wrote") == 1
    written = [shards_written(tmp_path, rank) for rank in (0, 1)]
    everything = [f"{z}/{i}/{j}/{k}" for z, i, j, k in np.ndindex(len(REDSHIFTS), 2, 2, 2)]
    assert sorted(written[0] + written[1]) == everything
    assert len(written[0]) == len(written[1])
    status, _, stderr = ended(torchrun(ON_ONE_MACHINE, arguments))
    assert status != 0
    assert "two.zarr: already exists" in stderr
    assert "broadcast_object_list" not in stderr  # no rank waits in vain for the first
    predict_store(load(runs("wide"), device="cpu"), odd_store, tmp_path / "one.zarr")
    for redshift in REDSHIFTS:
        one, two = (
            CubeStore.open(tmp_path / f"{name}.zarr").read_field("xhii_predicted", redshift)
            for name in ("one", "two")
        )
        np.testing.assert_allclose(two, one, atol=1e-6)


def test_training_takes_one_process(
    store: CubeStore, tmp_path: Path, torchrun: Callable[..., subprocess.Popen[str]]
) -> None:
    run = tmp_path / "run"
    arguments = ["train", "--store", str(store.path), "--run", str(run), "-o", "device=cpu"]
    status, _, stderr = ended(torchrun(ON_ONE_MACHINE, arguments))
    assert status != 0
    assert "Error: training runs in one process, got 2 of torchrun; start it without" in stderr
    assert not run.exists()


@pytest.mark.usefixtures("server")
def test_machines_that_share_no_folder_are_told_so(
    runs: Callable[[str], RunFolder],
    odd_store: CubeStore,
    tmp_path: Path,
    torchrun: Callable[..., subprocess.Popen[str]],
) -> None:
    # Machines that meet in a file need no port chosen beforehand, which others could take first.
    shared = [
        "--nnodes=2",
        "--nproc-per-node=1",
        "--rdzv-backend=c10d",
        "--rdzv-conf=store_type=file",
        f"--rdzv-endpoint={tmp_path / 'meeting'}",
        "--rdzv-id=two",
        "--local-addr=127.0.0.1",
    ]
    arguments = predict(runs("wide"), odd_store, "s3://box/two/predicted.zarr")
    machines = [torchrun(shared, arguments) for _ in range(2)]
    for status, _, stderr in map(ended, machines):
        assert status != 0
        assert "got processes on 2; predict into a folder that all of them see" in stderr
