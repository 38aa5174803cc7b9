"""A checkpoint of one number of processes and one sharding, taken up by another: the same numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_world import write_world

pytestmark = pytest.mark.integration

WORKER = Path(__file__).parents[1] / "training" / "resharding_worker.py"


def state_in_full(folder: Path, num_processes: int, sharding: str, name: str) -> dict[str, torch.Tensor]:
    """What the worker holds after its step, or after it took up the checkpoint that is there."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={num_processes}", str(WORKER), str(folder), sharding]
    done = subprocess.run(
        [*command, str(folder / "checkpoints"), str(folder / name)],
        env=os.environ
        | {"PYTHONPATH": str(WORKER.parents[1]), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return load_file(folder / name)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, "column_wise"), (1, "table_wise")),
        ((3, "row_wise"), (2, "row_wise")),
    ],
)
def test_every_number_comes_back(tmp_path: Path, before: tuple[int, str], after: tuple[int, str]) -> None:
    write_world(tmp_path)
    saved = state_in_full(tmp_path, *before, "saved")
    taken_up = state_in_full(tmp_path, *after, "taken up")
    assert {name.split("/")[0] for name in saved} == {"weights", "sums", "dense", "best", "best_sums"}
    assert saved.keys() == taken_up.keys()
    for name, value in saved.items():
        assert torch.equal(value, taken_up[name]), name
    assert any(float(value.abs().max()) > 0 for name, value in saved.items() if name.startswith("sums/"))
    written = list((tmp_path / "checkpoints" / "000001").glob("*.safetensors"))
    assert {file.name.split("-")[1] for file in written} == {f"{i + 1:05d}" for i in range(before[0])}
