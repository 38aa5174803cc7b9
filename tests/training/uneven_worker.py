"""Run by torchrun: one step on unequal shares of a batch; or the speeds of processes of which one is slowed.

uneven_worker.py step WORLD FULL.safetensors PART...    gradients of a step on shares in this proportion
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
from resharding_worker import sharded_of
from safetensors.torch import save_file
from training_world import SMALL

from leanrec.config import RetrieverSettings
from leanrec.files import read_json
from leanrec.models.inputs import read_item_inputs
from leanrec.models.recommender import Recommender
from leanrec.models.retrieval.retriever import LearnedRetriever
from leanrec.schema import ModelSpec
from leanrec.training.batches import measured_speeds, weigh
from leanrec.training.candidates import CandidateSampler
from leanrec.training.examples import TRAIN, read_examples
from leanrec.training.objectives import RankerObjective, lesson_of
from leanrec.training.sparse import in_full
from leanrec.training.watching import Watch


def step(world: Path, full: Path, parts: list[int]) -> None:
    found: dict[str, torch.Tensor] = {}
    spec = ModelSpec(**{**read_json(world / "features" / "spec.json"), "top_k": SMALL.top_k})
    retrievers = {
        "events": SMALL.retriever.model_copy(update={"dropout": 0.0}),
        "sequences": RetrieverSettings(model="sasrec", dim=8, dropout=0.0),
    }
    settings = SMALL.model_copy(update={"ranker": SMALL.ranker.model_copy(update={"dropout": 0.0})})
    events = read_examples(world / "training_set.parquet", TRAIN, spec)
    for name, retriever in retrievers.items():
        settings = settings.model_copy(update={"retriever": retriever})
        torch.manual_seed(1)
        recommender = Recommender(spec, settings, read_item_inputs(world / "features" / "items.parquet"))
        taught, rows, _ = lesson_of(cast(LearnedRetriever, recommender.retriever), retriever, events)
        own = own_share(rows, parts, at_most=32 if name == "sequences" else 64)
        found |= after_step(name, taught, (own, torch.Generator()), own)
    sampler = CandidateSampler(recommender.retriever, settings.ranker, settings.num_candidates)
    own = own_share(events, parts, at_most=64)
    # The same candidates in every process and for every number of them.
    drawn = sampler.draw(events.take(torch.arange(64)), torch.Generator().manual_seed(1))
    candidates = type(drawn)(*(value.split(sizes(parts, 64))[dist.get_rank()] for value in drawn))
    found |= after_step(
        "ranker", RankerObjective(recommender.ranker, settings.ranker), (own, candidates), own
    )
    if dist.get_rank() == 0:
        save_file(found, full)


def sizes(parts: list[int], number: int) -> list[int]:
    return [number * part // sum(parts) for part in parts]


def own_share(rows: Any, parts: list[int], at_most: int) -> Any:
    return rows.take(torch.arange(at_most).split(sizes(parts, at_most))[dist.get_rank()])


def after_step(name: str, objective: Any, batch: tuple[Any, ...], own: Any) -> dict[str, torch.Tensor]:
    """Gradients of the dense part, and Adagrad's sums, after one step on unequal shares."""
    sharded = sharded_of(objective, sharding="row_wise", optimizer={})
    weigh(sharded.objective, own)
    with Watch(name).epoch(0, 1) as watch:
        sharded.step(*batch, watch=watch)
    gradients = {
        str(i): cast(torch.Tensor, p.grad)
        for group in sharded.dense.param_groups
        for i, p in enumerate(group["params"])
    }
    sums = {f"sums/{table}": value for table, value in sharded.sums().items()}
    return {f"{name}/{key}": value for key, value in in_full(gradients | sums).items()}


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
