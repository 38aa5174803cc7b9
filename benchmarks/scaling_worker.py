"""One process of a training that is timed: `torchrun ... -m benchmarks.scaling_worker JOB.json`.

JOB.json holds the settings of benchmarks/scaling.py, and the files `outcome`, `ready` and `wait_for`.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from leanrec.config.optimizer import OptimizerSettings
from leanrec.models.layers import SparseArch
from leanrec.training.batches import measured_speeds, parts_by_speed, weigh
from leanrec.training.layout import Layout
from leanrec.training.sharded_model import ShardedModel, quiet_planner
from leanrec.training.watching import Watch

BATCHES = 8
"""Batches drawn beforehand, and taken in turns."""
Batch = tuple[dict[str, Tensor], Tensor]
"""Table -> indices [B, lookups], and whether each sample was clicked, [B]."""


class EmbeddingBound(nn.Module):
    """Tables, their vectors added up, and one small layer."""

    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__()
        tables = {f"table_{i}": int(job["rows"]) for i in range(job["tables"])}
        self.sparse = SparseArch(tables, {name: name for name in tables}, job["dim"])
        self.mlp = nn.Sequential(nn.Linear(job["dim"], job["hidden"]), nn.ReLU(), nn.Linear(job["hidden"], 1))

    def forward(self, indices: dict[str, Tensor]) -> Tensor:
        """Logits [B] of indices, table -> [B, lookups]."""
        vectors = self.sparse(indices)
        summed = torch.stack([vector.sum(dim=1) for vector in vectors.values()]).sum(dim=0)
        logits: Tensor = self.mlp(summed).squeeze(1)
        return logits


class ClickObjective(nn.Module):
    """Binary cross-entropy of a click. A batch is what `model` takes, and whether each sample was clicked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.weights: tuple[float, ...] = (1.0,)

    def forward(self, *batch: Any) -> Tensor:
        """The mean loss of a batch."""
        *features, clicked = batch
        logits = self.model(*features).float()
        return self.weights[0] * functional.binary_cross_entropy_with_logits(logits, clicked)

    def divisors(self, batch: tuple[Any, ...]) -> list[float]:
        """What the sum over the samples of a batch is divided by."""
        return [float(len(batch[-1]))]


def main(path: str) -> None:
    """Train as the job says; rank 0 writes the samples a second of all its processes."""
    job = json.loads(Path(path).read_text("utf-8"))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    quiet_planner()
    torch.manual_seed(1)
    objective = ClickObjective(EmbeddingBound(job))
    tables = objective.model.sparse.num_rows
    sharded = ShardedModel(
        objective,
        learning_rate=1e-3,
        weight_decay=0.0,
        table_learning_rate=0.05,
        optimizer=OptimizerSettings(),
        layout=Layout(by_hand={} if job["sharding"] == "planner" else dict.fromkeys(tables, job["sharding"])),
        device=torch.device("cpu"),
    )
    shares = _shares(job, objective)
    drawn = [_draw(job, shares) for _ in range(BATCHES)]
    weigh(sharded.objective, drawn[0])
    with Watch("scaling").epoch(0, 1) as watch:

        def train(steps: int) -> None:
            for step in range(steps):
                _wait_as_if_slow(job, drawn[step % BATCHES])
                loss = sharded.step(*drawn[step % BATCHES], watch=watch)
                assert math.isfinite(loss)

        train(job["warm_up_steps"])
        _wait_for_all(job)
        started = time.perf_counter()
        train(job["steps"])
        dist.barrier()
        seconds = time.perf_counter() - started
    if dist.get_rank() == 0:
        Path(job["outcome"]).write_text(str(job["steps"] * job["batch_size"] / seconds), encoding="utf-8")
    dist.destroy_process_group()


def _shares(job: dict[str, Any], objective: ClickObjective) -> list[int]:
    """Samples of a batch for each process."""
    equal = [1.0] * dist.get_world_size()
    if job["balance"] == "equal":
        return parts_by_speed(job["batch_size"], equal)
    batch = _draw(job, parts_by_speed(job["batch_size"], equal))

    @torch.no_grad()
    def probe() -> None:
        _wait_as_if_slow(job, batch)
        objective(*batch)

    return parts_by_speed(job["batch_size"], measured_speeds(probe))


def _draw(job: dict[str, Any], shares: list[int]) -> Batch:
    """This process's share of a batch."""
    size, rank = job["batch_size"], dist.get_rank()
    # Every process draws the whole batch, so that all see one batch whatever their number.
    tables = {f"table_{i}": _ids(job, (size, job["lookups"])) for i in range(job["tables"])}
    clicked = (torch.rand(size) < 0.3).float()
    return {name: drawn.split(shares)[rank] for name, drawn in tables.items()}, clicked.split(shares)[rank]


def _ids(job: dict[str, Any], shape: tuple[int, int]) -> Tensor:
    """Ids of 1 to rows - 1."""
    if job["ids"] == "even":
        return torch.randint(1, job["rows"], shape)
    return popular_ids(job["rows"], shape)


def popular_ids(rows: int, shape: tuple[int, ...]) -> Tensor:
    """Ids of 1 to rows - 1, even on a logarithmic scale: n in proportion to log((n + 1) / n), about 1 / n."""
    return torch.pow(rows, torch.rand(shape, dtype=torch.float64)).long().clamp_(max=rows - 1)


def _wait_as_if_slow(job: dict[str, Any], batch: Batch) -> None:
    """In the last process: as long as the job says for each sample."""
    if job["slow_us"] and dist.get_rank() == dist.get_world_size() - 1:
        time.sleep(len(batch[1]) * job["slow_us"] / 1e6)


def _wait_for_all(job: dict[str, Any]) -> None:
    if dist.get_rank() == 0:
        Path(job["ready"]).touch()
        while not all(Path(path).exists() for path in job["wait_for"]):
            time.sleep(0.01)
    dist.barrier()


if __name__ == "__main__":
    main(sys.argv[1])
