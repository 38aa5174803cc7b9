"""One of four processes that have the tables twice, or the first two of them alone: WORLD OUTCOME REPLICAS.

Both groups see the same events, so that each learns what two processes learn without replicas; then they see
their own. Rank 0 writes what it tells after each.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from resharding_worker import joined, parts_of_all, sharded_of
from safetensors.torch import save_file

from leanrec.training.sparse import in_full
from leanrec.training.watching import Watch

STEPS = 3
SHARE = 24
"""Events of a step that a process has."""


def main(world: Path, outcome: Path, replicas: int) -> None:
    """Learn in `replicas` groups of two."""
    events, objective = joined(world)
    found: dict[str, torch.Tensor] = {}
    for sharding in ("row_wise", "table_wise", "column_wise", "data_parallel"):
        model = sharded_of(objective, sharding, {}, replicas=replicas)
        for part, place in (("alike", dist.get_rank() % 2), ("own", dist.get_rank())):
            with Watch("retriever").epoch(0, 1) as watch:
                for step in range(STEPS):
                    rows = torch.arange(SHARE) + SHARE * (4 * step + place)
                    model.step(events.take(rows), torch.Generator(), watch=watch)
            before = parts_of_all(model)
            model.average_replicas()
            found |= {f"{sharding}/{part}/before/{rank}": parts for rank, parts in enumerate(before)}
            found |= {
                f"{sharding}/{part}/after/{rank}": parts for rank, parts in enumerate(parts_of_all(model))
            }
            for group, held in (("weights", model.weights()), ("sums", model.sums())):
                found |= {f"{sharding}/{part}/{group}/{name}": v for name, v in in_full(held).items()}
        model.gather(copy.deepcopy(objective.model))  # none waits for a process of another replica
    if dist.get_rank() == 0:
        save_file(found, outcome)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
