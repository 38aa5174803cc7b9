"""One of two processes that take a batch at once, and in three steps: `accumulating_worker.py WORLD OUTCOME`.

Rank 0 writes the dense gradients that each way moves by, and how many numbers gloo reduced over the processes
in each step, as the profiler saw it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from resharding_worker import joined, sharded_of
from safetensors.torch import save_file

from leanrec.training.watching import Watch

BATCHES = 2
STEPS = 3
SHARE = 24
"""Events of a batch that a process has."""


def main(world: Path, outcome: Path) -> None:
    """Learn from two batches in each way."""
    events, objective = joined(world)
    found: dict[str, torch.Tensor] = {}
    for accumulate in (1, STEPS):
        model = sharded_of(objective, "data_parallel", {"accumulate": accumulate})
        with Watch("retriever").epoch(0, 1) as watch:
            for place, rows in enumerate((torch.arange(SHARE) + SHARE * dist.get_rank()).chunk(accumulate)):
                model.step(events.take(rows), torch.Generator(), place=place, size=accumulate, watch=watch)
        found |= {f"{accumulate}/sums/{table}": value for table, value in model.sums().items()}
        model = sharded_of(objective, "row_wise", {"accumulate": accumulate}, table_learning_rate=0.0)
        with Watch("retriever").epoch(0, 1) as watch:
            for batch in range(BATCHES):
                first = SHARE * (2 * batch + dist.get_rank())
                for place, rows in enumerate((torch.arange(SHARE) + first).chunk(accumulate)):
                    own, draw = events.take(rows), torch.Generator()
                    with torch.profiler.profile(record_shapes=True) as profiler:
                        model.step(own, draw, place=place, size=accumulate, watch=watch)
                    found[f"{accumulate}/{batch}/reduced/{place}"] = _reduced(profiler)
                parameters = [p for group in model.dense.param_groups for p in group["params"]]
                found |= {
                    f"{accumulate}/{batch}/gradient/{i}": p.grad.clone() for i, p in enumerate(parameters)
                }
    if dist.get_rank() == 0:
        save_file(found, outcome)
    dist.destroy_process_group()


def _reduced(profiler: torch.profiler.profile) -> torch.Tensor:
    """How many numbers each reduction had, the most first."""
    sizes = [event.input_shapes[0][0] for event in profiler.events() if event.name == "gloo:all_reduce"]
    return torch.tensor(sorted(sizes, reverse=True), dtype=torch.long)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
