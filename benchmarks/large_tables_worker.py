"""What benchmarks/large_tables.py times: `torchrun ... -m benchmarks.large_tables_worker JOB.json`."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torchrec.models.dlrm import InteractionArch

from benchmarks.scaling_worker import ClickObjective, popular_ids
from leanrec.config.optimizer import OptimizerSettings
from leanrec.models.layers import MLP, SparseArch
from leanrec.training.layout import FLOAT, Layout
from leanrec.training.prefetch import Prefetcher
from leanrec.training.sharded_model import ShardedModel, quiet_planner
from leanrec.training.watching import Watch

PARTS = {
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "lookups": ("split_embedding", "SplitLookup", "SplitNoBagLookup", "bounds_check"),
    "rows_to_samples": ("aten::_unique", "aten::index_select", "aten::embedding"),
}
"""What the names of a part's operators begin with, after fbgemm's own prefix: matrix products; lookups of
distinct rows, and in the backward pass their optimizer; finding distinct rows and handing them out."""
BATCHES = 8
"""Batches drawn beforehand, and taken in turns."""
REPEATS = 10
Batch = tuple[dict[str, Tensor], Tensor, Tensor]
"""Table -> indices [B], the numbers [B, N], and whether each sample was clicked, [B]."""


class DLRM(nn.Module):
    """A network of the numbers, dot products of its outcome and all vectors, and a network over them."""

    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__()
        tables = {f"table_{i}": rows_of(job) for i in range(job["tables"])}
        with torch.device("meta"):  # drawing as many numbers would take minutes
            self.sparse = SparseArch(tables, {name: name for name in tables}, job["dim"])
        self.sparse.to_empty(device="cpu")
        self.bottom = MLP(job["numbers"], (*job["bottom"], job["dim"]), 0.0)
        self.interaction = InteractionArch(job["tables"])
        pairs = (job["tables"] + 1) * job["tables"] // 2
        self.over = MLP(job["dim"] + pairs, tuple(job["over"]), 0.0)
        self.last = nn.Linear(self.over.width, 1)
        some = torch.randn(job["dim"]) * job["dim"] ** -0.5
        with torch.no_grad():
            for weight in self.sparse.parameters():
                weight.copy_(some)

    def forward(self, indices: dict[str, Tensor], numbers: Tensor) -> Tensor:
        """Logits [B]."""
        vectors = torch.stack(list(self.sparse(indices).values()), dim=1)
        crossed = self.interaction(self.bottom(numbers), vectors)
        logits: Tensor = self.last(self.over(crossed)).squeeze(1)
        return logits


def rows_of(job: dict[str, Any]) -> int:
    """Rows of each table, so that all together take `table_gib`."""
    return max(2, int(job["table_gib"] * 2**30 / (job["tables"] * job["dim"] * FLOAT)))


def main(path: str) -> None:
    """Train as the job says, and write what was found into its `outcome`."""
    job = json.loads(Path(path).read_text("utf-8"))
    device = torch.device(job["device"], 0) if job["device"] == "cuda" else torch.device("cpu")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    quiet_planner()
    torch.manual_seed(1)
    objective = ClickObjective(DLRM(job))
    sharded = ShardedModel(
        objective,
        learning_rate=1e-3,
        weight_decay=0.0,
        table_learning_rate=0.01,
        optimizer=OptimizerSettings.parse({"tables": "rowwise_adagrad", "precision": job["precision"]}),
        layout=Layout(),
        device=device,
    )
    found = _time(job, sharded, device)
    Path(job["outcome"]).write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def _time(job: dict[str, Any], sharded: ShardedModel, device: torch.device) -> dict[str, Any]:
    """Samples a second, shares of the device, and of the time that steps wait for their batch."""
    drawn = [_pinned(draw(job), device) for _ in range(BATCHES)]
    turns = cycle(torch.arange(BATCHES).split(1))

    def make(which: Tensor) -> Batch:
        batch: Batch = tree_map(lambda value: value.to(device, non_blocking=True), drawn[int(which)])
        if device.type == "cuda":  # a batch that is not there yet is waited for where the clock sees it
            torch.cuda.current_stream(device).synchronize()
        return batch

    with Prefetcher(make, device) as batches, Watch("large tables").epoch(0, 1) as watch:

        def train(steps: int) -> float:
            """Seconds of so many steps."""
            started = time.perf_counter()
            turn = next(turns)
            for _ in range(steps):
                with watch.phase("data"):
                    batch = batches.take(turn)
                turn = next(turns)
                batches.ahead(turn)
                loss = sharded.step(*batch, watch=watch)
                if not math.isfinite(loss):
                    raise ValueError(f"the loss is {loss}")
            batches.take(turn)
            _finish(device)
            return time.perf_counter() - started

        train(job["warm_up_steps"])
        waited = watch.seconds["data"]
        seconds = train(job["steps"])
        waited = watch.seconds["data"] - waited
        parts = _profiled(lambda: train(job["traced_steps"]), device)
    of_a_step = {name: total / job["traced_steps"] for name, total in parts.items()}
    distinct = sum(len(index.unique()) for batch in drawn for index in batch[0].values()) / BATCHES
    moved, computed = bytes_moved(job, distinct), products(job)
    memory, arithmetic = _copied_per_s(job, device), _products_per_s(job, device)
    return {
        "samples_per_s": job["steps"] * job["batch_size"] / seconds,
        "waiting_for_data": waited / seconds,
        "table_bytes": job["tables"] * rows_of(job) * job["dim"] * FLOAT,
        "distinct_rows_a_step": distinct,
        **{f"{part}_s_a_step": seconds for part, seconds in of_a_step.items()},
        "lookups_bytes_per_s": moved / of_a_step["lookups"],
        "products_per_s": computed / of_a_step["products"],
        "device_bytes_per_s": memory,
        "device_products_per_s": arithmetic,
        "share_of_memory": moved / of_a_step["lookups"] / memory,
        "share_of_arithmetic": computed / of_a_step["products"] / arithmetic,
    }


def draw(job: dict[str, Any]) -> Batch:
    """A batch on the host."""
    size, rows = job["batch_size"], rows_of(job)
    clicked = (torch.rand(size) < 0.3).float()
    indices = {f"table_{i}": popular_ids(rows, (size,)) for i in range(job["tables"])}
    return indices, torch.rand(size, job["numbers"]), clicked


def _pinned(batch: Batch, device: torch.device) -> Batch:
    """`batch` where a GPU fetches from by itself."""
    return tree_map(Tensor.pin_memory, batch) if device.type == "cuda" else batch


def bytes_moved(job: dict[str, Any], distinct: float) -> float:
    """What fbgemm's lookups and row-wise Adagrad must read and write of a device's memory in a step.

    Of each distinct row: read and handed out in the forward pass; its gradient read, itself read and written,
    and its sum read and written in the backward pass.
    """
    return distinct * (5 * job["dim"] + 2) * FLOAT


def products(job: dict[str, Any]) -> int:
    """Multiplications and additions of a step's matrix products: forward, and twice that backward.

    Of the numbers themselves nobody needs the gradient.
    """
    vectors = job["tables"] + 1
    pairs = vectors * job["tables"] // 2
    widths = [job["numbers"], *job["bottom"], job["dim"]], [job["dim"] + pairs, *job["over"], 1]
    layers = sum(a * b for each in widths for a, b in pairwise(each))
    interactions = vectors * vectors * job["dim"]
    unneeded = widths[0][0] * widths[0][1]
    return int(2 * job["batch_size"] * (3 * (layers + interactions) - unneeded))


def _profiled(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Seconds of the device in each of PARTS, forward and backward, during `work`."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        work()
    return seconds_of_parts(profiler.key_averages(), device.type)


def seconds_of_parts(events: Iterable[Any], device: str) -> dict[str, float]:
    """Part -> seconds of its operators' own on `device`: of the kernels that they started, or on a CPU."""
    seconds = dict.fromkeys(PARTS, 0.0)
    for event in events:
        if event.device_type != torch.autograd.DeviceType.CPU:  # kernels are listed once more by themselves
            continue
        own = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        for part, names in PARTS.items():
            if event.key.removeprefix("fbgemm::").startswith(names):
                seconds[part] += own / 1e6
    return seconds


def _copied_per_s(job: dict[str, Any], device: torch.device) -> float:
    """Bytes a second read and written by a copy within the device's memory."""
    source = torch.ones(job["copied_mib"] * 2**20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _seconds(lambda: target.copy_(source), device)


def _products_per_s(job: dict[str, Any], device: torch.device) -> float:
    """Multiplications and additions a second of one large matrix product in the job's precision."""
    numbers = torch.bfloat16 if job["precision"] == "bf16" else torch.float32
    square = torch.rand(job["square"], job["square"], device=device).to(numbers)
    return float(2 * job["square"] ** 3 / _seconds(lambda: square @ square, device))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of one time, the best of several."""
    best = math.inf
    for _ in range(REPEATS):
        _finish(device)
        started = time.perf_counter()
        work()
        _finish(device)
        best = min(best, time.perf_counter() - started)
    return best


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main(sys.argv[1])
