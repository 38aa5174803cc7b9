"""One of two processes that take a step with weight decay of tables: `decay_worker.py WORLD OUTCOME`.

Rank 0 writes Adagrad's sums of each table, and what they are if a row is pulled by the mean of the processes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from resharding_worker import objective_of, recommender_of, sharded_of
from safetensors.torch import save_file

from leanrec.models.recommender import Recommender
from leanrec.training.examples import TRAIN, Examples, read_examples
from leanrec.training.sparse import in_full
from leanrec.training.watching import Watch

DECAY = 0.5


def main(world: Path, outcome: Path) -> None:
    """Take a step, each process on its half of 64 events."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    recommender = recommender_of(world, disliked_weight=1.0)
    events = read_examples(world / "training_set.parquet", TRAIN, recommender.spec)
    halves = [events.take(torch.arange(32) + 32 * rank) for rank in range(2)]
    expected = _expected(recommender, halves)
    objective = objective_of(recommender)
    model = sharded_of(objective, sharding="table_wise", optimizer={"table_weight_decay": DECAY})
    with Watch("retriever").epoch(0, 1) as watch:
        model.step(halves[dist.get_rank()], torch.Generator(), watch=watch)
    sums = in_full(model.sums())
    if dist.get_rank() == 0:
        found = {f"sums/{name}": sums[name].contiguous() for name in expected}
        save_file(found | {f"expected/{name}": value for name, value in expected.items()}, outcome)
    dist.destroy_process_group()


def _expected(recommender: Recommender, halves: list[Examples]) -> dict[str, torch.Tensor]:
    """Squares of the mean over both halves of gradient + DECAY * row, where the half looks the row up."""
    total: dict[str, torch.Tensor] = {}
    for half in halves:
        recommender.zero_grad()
        objective_of(recommender)(half, torch.Generator()).backward()
        for name in ("user", "item"):
            weight = recommender.retriever.sparse.tables[name].weight
            looked_up = (weight.grad.abs().sum(dim=1, keepdim=True) > 0).float()
            pulled = weight.grad + DECAY * weight.detach() * looked_up
            total[name] = total.get(name, torch.zeros_like(pulled)) + pulled
    recommender.zero_grad()
    return {name: (value / len(halves)).square() for name, value in total.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
