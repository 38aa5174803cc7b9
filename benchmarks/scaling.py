"""Training on two processes beside one: samples a second where tables are nearly all of the work.

Tables of which each sample looks up a list of rows, and one small dense layer: tables go over the processes
as the planner says, the dense part by DDP. The batch is the same for one process and for two, each with one
thread. Ids are drawn as those of a catalogue are met, the n-th most popular in proportion to 1/n (Zipf's
law), twenty a sample, a short history; a row that a process's batch has several times is sent to it once.
Beside it stands what is hardest to exchange, ids drawn evenly: nearly all of a batch are distinct. What the
machine itself allows is measured in the same run: two single processes that know nothing of each other, side
by side, share memory and caches as the two of one training do.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from leanrec.errors import HostError

SETTINGS: dict[str, Any] = {
    "tables": 4,
    "rows": 200_000,
    "dim": 64,
    "ids": "popular",
    "lookups": 20,
    "hidden": 16,
    "batch_size": 4096,
    "warm_up_steps": 3,
    "steps": 20,
    "sharding": "planner",
    "slow_us": 0,
    "balance": "equal",
}
EVEN: dict[str, Any] = {"tables": 8, "ids": "even", "lookups": 3}
ROUNDS = 3
ROOT = Path(__file__).parents[1]


def measure(rounds: int = ROUNDS, **settings: Any) -> dict[str, Any]:
    """Samples a second of two processes, of one, and of two alone; under `even` those of ids drawn evenly."""
    return {
        "name": "scaling",
        "unit": "samples a second, two processes beside one",
        **_compare(rounds, {**SETTINGS, **settings}),
        "even": _compare(rounds, {**SETTINGS, **EVEN, **settings, "ids": "even"}),
    }


def _compare(rounds: int, job: dict[str, Any]) -> dict[str, Any]:
    one, two, ceiling = [], [], []
    for _ in range(rounds):
        one.append(samples_per_s([1], job))
        two.append(samples_per_s([2], job))
        ceiling.append(samples_per_s([1, 1], job))
    return {
        "ours": statistics.median(two),
        "baseline": statistics.median(one),
        "ratio": statistics.median(b / a for a, b in zip(one, two, strict=True)),
        "ceiling": {
            "samples_per_s": statistics.median(ceiling),
            "ratio": statistics.median(c / a for a, c in zip(one, ceiling, strict=True)),
            "reached": statistics.median(b / c for b, c in zip(two, ceiling, strict=True)),
            "what": "two single processes side by side that share nothing",
        },
        "rounds": {"one": one, "two": two, "ceiling": ceiling},
        "settings": {**job, "rounds": rounds, "threads_a_process": 1, "cores": os.cpu_count()},
    }


def samples_per_s(groups: list[int], job: dict[str, Any]) -> float:
    """Samples a second of trainings of so many processes each, side by side, added up."""
    with tempfile.TemporaryDirectory(prefix="leanrec-bench-") as folder:
        jobs = [Path(folder) / f"{i}.json" for i in range(len(groups))]
        # A training's clock starts when all of them are ready.
        all_ready = [f"{path}.ready" for path in jobs]
        running: dict[Path, subprocess.Popen[bytes]] = {}
        try:
            for path, size in zip(jobs, groups, strict=True):
                told = {"outcome": f"{path}.out", "ready": f"{path}.ready", "wait_for": all_ready}
                path.write_text(json.dumps(job | told), encoding="utf-8")
                running[path] = _start(size, path)
            _wait(running)
            return sum(float(Path(f"{path}.out").read_text("utf-8")) for path in jobs)
        finally:
            for process in running.values():
                if process.poll() is None:
                    process.terminate()  # torchrun ends its own processes
                    process.wait()


def _start(num_processes: int, job: Path) -> subprocess.Popen[bytes]:
    with Path(f"{job}.err").open("wb") as words:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *(f"--nproc-per-node={num_processes}", "-m", "benchmarks.scaling_worker", str(job)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=words,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
        )


def _wait(running: dict[Path, subprocess.Popen[bytes]]) -> None:
    """Until all have ended; a HostError as soon as one fails, for the others may be waiting for it."""
    while any(process.poll() is None for process in running.values()):
        _refuse_failures(running)
        time.sleep(0.05)
    _refuse_failures(running)


def _refuse_failures(running: dict[Path, subprocess.Popen[bytes]]) -> None:
    for path, process in running.items():
        if process.poll():
            lines = Path(f"{path}.err").read_text("utf-8", errors="replace").splitlines()
            own = (line.strip() for line in lines if "Error: " in line or "Signal " in line)
            reason = next(own, "; ".join(lines[-12:]) or "it left no word")
            raise HostError(f"a training that was timed ended with status {process.returncode}: {reason}")
