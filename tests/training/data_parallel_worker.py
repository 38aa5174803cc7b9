"""One of two processes that learn the same with tables whole in each, and by rows: WORLD OUTCOME.

Rank 0 writes the weights and the sums that each way leaves, by each of the tables' optimizers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from resharding_worker import joined, sharded_of
from safetensors.torch import save_file

from leanrec.training.sparse import in_full
from leanrec.training.watching import Watch

STEPS = 4
SHARE = 24
"""Events of a step that a process has."""
WAYS: dict[str, dict[str, Any]] = {
    "adagrad": {"tables": "adagrad"},
    "rowwise_adagrad": {"tables": "rowwise_adagrad"},
    "falling": {"tables": "adagrad", "schedule": "cosine"},
    "decay": {"tables": "adagrad", "table_weight_decay": 0.1},
    "half": {"tables": "rowwise_adagrad", "precision": "fp16"},
}


def main(world: Path, outcome: Path) -> None:
    """Take the same steps in each way."""
    events, objective = joined(world)
    found: dict[str, torch.Tensor] = {}
    for way, optimizer in WAYS.items():
        for sharding in ("row_wise", "data_parallel"):
            model = sharded_of(objective, sharding, optimizer)
            with Watch("retriever").epoch(0, 1) as watch:
                for step in range(STEPS):
                    rows = torch.arange(SHARE) + SHARE * (2 * step + dist.get_rank())
                    model.step(events.take(rows), torch.Generator(), rate=1 / (1 + step), watch=watch)
            for group, held in (("weights", model.weights()), ("sums", model.sums())):
                found |= {f"{way}/{sharding}/{group}/{name}": v for name, v in in_full(held).items()}
    if dist.get_rank() == 0:
        save_file(found, outcome)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
