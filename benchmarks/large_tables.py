"""A DLRM whose tables fill a device: samples a second, and how much of its memory and arithmetic is used.

Twenty-six tables of one row each a sample and thirteen numbers, as the Criteo data sets have them, the layers
of TorchRec's DLRM (Naumov et al. 2019, arXiv:1906.00091), row-wise Adagrad fused into the backward pass, one
process. Trained in bfloat16 products and in float32 ones. Ids are drawn as those of a catalogue are met
(Zipf's law); batches lie on the host, and a second thread puts the next one on the device. Of some steps
torch's profiler tells what fbgemm's lookups (with the tables' optimizer) take, what matrix products do, and
what it takes to find a batch's distinct rows and to hand their vectors out to its samples. Beside them stands
what the device itself does in the same run: a copy of memory, and one large matrix product. The tables take
40 GiB on a GPU, elsewhere what a small machine holds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from leanrec.errors import HostError

SETTINGS: dict[str, Any] = {
    "tables": 26,
    "numbers": 13,
    "dim": 128,
    "bottom": [512, 256],
    "over": [1024, 1024, 512, 256],
    "warm_up_steps": 3,
    "traced_steps": 3,
}
ON_GPU: dict[str, Any] = {
    "table_gib": 40.0,
    "batch_size": 32_768,
    "steps": 100,
    "square": 8192,
    "copied_mib": 4096,
}
ON_CPU: dict[str, Any] = {
    "table_gib": 0.5,
    "batch_size": 512,
    "steps": 10,
    "square": 512,
    "copied_mib": 256,
}
"""`square`: rows of the matrix product that stands for the device's own, `copied_mib`: of the copy."""
PRECISIONS = ("bf16", "fp32")
ROOT = Path(__file__).parents[1]


def measure(**settings: Any) -> dict[str, Any]:
    """Samples a second with products in bfloat16 beside float32, and the shares of the device of both."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    job = {**SETTINGS, **(ON_GPU if device == "cuda" else ON_CPU), "device": device, **settings}
    found = {precision: _train({**job, "precision": precision}) for precision in PRECISIONS}
    bf16, fp32 = (found[precision]["samples_per_s"] for precision in PRECISIONS)
    return {
        "name": "large-tables",
        "unit": "samples a second, products in bfloat16 beside float32",
        "ours": bf16,
        "baseline": fp32,
        "ratio": bf16 / fp32,
        "precisions": found,
        "settings": {**job, "cores": os.cpu_count()},
    }


def _train(job: dict[str, Any]) -> dict[str, Any]:
    """What the worker finds; a HostError with its last words where it fails."""
    with tempfile.TemporaryDirectory(prefix="leanrec-bench-") as folder:
        path, outcome = Path(folder) / "job.json", Path(folder) / "outcome.json"
        path.write_text(json.dumps({**job, "outcome": str(outcome)}), encoding="utf-8")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"),
                *("-m", "benchmarks.large_tables_worker", str(path)),
            ],
            cwd=ROOT,
            env={"OMP_NUM_THREADS": str(os.cpu_count()), "PYTHONHASHSEED": "0", **os.environ},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "Error: " in line] or ["it left no word"]
            raise HostError(f"a DLRM in {job['precision']} ended with status {done.returncode}: {errors[0]}")
        found: dict[str, Any] = json.loads(outcome.read_text("utf-8"))
        return found
