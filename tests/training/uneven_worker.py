"""Run by torchrun: one step on unequal shares of a batch; or the speeds of processes of which one is slowed.

uneven_worker.py step WORLD FULL.safetensors PART...    the state in full after a step on so many rows each
uneven_worker.py speeds OUTPUT.json SECONDS...          speeds of processes whose probes sleep so long
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from resharding_worker import retriever_of
from safetensors.torch import save_file

from leanrec.training.batches import measured_speeds
from leanrec.training.examples import TRAIN, read_examples
from leanrec.training.sparse import in_full
from leanrec.training.watching import Watch


def step(world: Path, full: Path, parts: list[int]) -> None:
    sharded, spec = retriever_of(world, dim=8, sharding="row_wise", optimizer={})
    events = read_examples(world / "training_set.parquet", TRAIN, spec).take(torch.arange(sum(parts)))
    rows = torch.arange(sum(parts)).split(parts)[dist.get_rank()]
    weight = len(rows) * len(parts) / sum(parts)
    with Watch("retriever").epoch(0, 1) as watch:
        sharded.step(events.take(rows), torch.Generator().manual_seed(1), weight=weight, watch=watch)
    gradients: dict[str, Any] = {
        str(i): cast(torch.Tensor, p.grad)
        for group in sharded.dense.param_groups
        for i, p in enumerate(group["params"])
    }
    found = in_full(gradients | {f"sums/{table}": value for table, value in sharded.sums().items()})
    if dist.get_rank() == 0:
        save_file(found, full)


def speeds(output: Path, seconds: list[float]) -> None:
    found = measured_speeds(lambda: time.sleep(seconds[dist.get_rank()]))
    if dist.get_rank() == 0:
        output.write_text(json.dumps(found))


if __name__ == "__main__":
    dist.init_process_group("gloo")
    if sys.argv[1] == "step":
        step(Path(sys.argv[2]), Path(sys.argv[3]), [int(part) for part in sys.argv[4:]])
    else:
        speeds(Path(sys.argv[2]), [float(value) for value in sys.argv[3:]])
    dist.barrier()
    dist.destroy_process_group()
