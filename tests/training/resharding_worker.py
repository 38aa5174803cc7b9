"""Run by torchrun: one step of a retriever, or the checkpoint of it; the state in full goes into a file.

resharding_worker.py WORLD (SHARDING CHECKPOINTS FULL.safetensors)...

SHARDING: "row_wise", "row_wise in 2" for as many replicas, or "row_wise in 2 in fp16".
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from training_world import SMALL

from leanrec.config.optimizer import OptimizerSettings
from leanrec.files import read_json
from leanrec.models.inputs import read_item_inputs
from leanrec.models.recommender import Recommender
from leanrec.schema import ModelSpec
from leanrec.training import sparse
from leanrec.training.checkpoint import Checkpoints, Progress
from leanrec.training.course import Course, State, save, take_up
from leanrec.training.examples import TRAIN, Examples, read_examples
from leanrec.training.layout import Layout
from leanrec.training.objectives import RetrieverObjective
from leanrec.training.replicas import Replicas
from leanrec.training.sharded_model import ShardedModel, quiet_planner
from leanrec.training.sparse import in_full
from leanrec.training.watching import Watch

sparse.PIECE = 500
"""Tables travel in several pieces, of which the last is not full."""
WIDE = 512
"""Of which TorchRec makes four parts by column."""


def recommender_of(world: Path, **retriever: Any) -> Recommender:
    """The same plain model in every process, without dropout, its retriever's settings changed."""
    quiet_planner()
    torch.manual_seed(1)
    spec = ModelSpec(**{**read_json(world / "features" / "spec.json"), "top_k": SMALL.top_k})
    changed = SMALL.retriever.model_copy(update={"dropout": 0.0, **retriever})
    settings = SMALL.model_copy(update={"retriever": changed})
    return Recommender(spec, settings, read_item_inputs(world / "features" / "items.parquet"))


def objective_of(recommender: Recommender) -> RetrieverObjective:
    """What its retriever learns."""
    return RetrieverObjective(recommender.retriever, recommender.settings.retriever)


def sharded_of(
    objective: Any,
    sharding: str,
    optimizer: dict[str, Any],
    table_learning_rate: float = 0.1,
    replicas: int = 1,
    precision: str = "fp32",
) -> ShardedModel:
    """`objective`, every table of it sharded in one way."""
    return ShardedModel(
        objective,
        learning_rate=0.01,
        weight_decay=0.0,
        table_learning_rate=table_learning_rate,
        optimizer=OptimizerSettings.parse(optimizer),
        layout=Layout(by_hand=dict.fromkeys(objective.model.sparse.num_rows, sharding), precision=precision),
        device=torch.device("cpu"),
        replicas=Replicas.of(replicas, "cpu"),
    )


def main(world: Path, jobs: list[str]) -> None:
    dist.init_process_group("gloo")
    for sharding, checkpoints, full in zip(jobs[::3], jobs[1::3], jobs[2::3], strict=True):
        step_or_take_up(world, sharding, Path(checkpoints), Path(full))
        dist.barrier()
    dist.destroy_process_group()


def step_or_take_up(world: Path, sharding: str, checkpoints: Path, full: Path) -> None:
    sharding, *others = sharding.split(" in ")
    replicas = int(others[0]) if others else 1
    precision = others[1] if len(others) > 1 else "fp32"
    tables = "rowwise_adagrad" if sharding == "row_wise" else "adagrad"
    recommender = recommender_of(world, dim=WIDE)
    sharded = sharded_of(
        objective_of(recommender), sharding, {"tables": tables}, replicas=replicas, precision=precision
    )
    store = Checkpoints(folder=checkpoints, identity="", keep=1, log=print)
    course = cast(Course, SimpleNamespace(checkpoints=store))
    number = store.newest()
    if number is None:
        state = State(Progress(step=1))
        events = read_examples(world / "training_set.parquet", TRAIN, recommender.spec)
        own = events.take(torch.arange(64).chunk(dist.get_world_size())[dist.get_rank()])
        with Watch("retriever").epoch(0, 1) as watch:
            sharded.step(own, torch.Generator().manual_seed(1), sync=True, watch=watch)
        state.keep_as_best(sharded)
        save(course, state, sharded, {})
    else:
        state = take_up(course, number, sharded)
    groups = {
        "weights": sharded.weights(),
        "sums": sharded.sums(),
        "dense": sharded.dense_state(),
        "best": state.best,
        "best_sums": state.best_sums,
    }
    found = {f"{group}/{name}": v for group, held in groups.items() for name, v in in_full(held).items()}
    found |= {f"parts/{rank}": parts for rank, parts in enumerate(parts_of_all(sharded))}
    if dist.get_rank() == 0:
        save_file(found, full)


def joined(world: Path) -> tuple[Examples, RetrieverObjective]:
    """The training events, and what is learnt of them, once this process is one of those that learn."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    recommender = recommender_of(world, disliked_weight=1.0)
    return read_examples(world / "training_set.parquet", TRAIN, recommender.spec), objective_of(recommender)


def parts_of_all(model: ShardedModel) -> list[torch.Tensor]:
    """What each process has of the sharded tables and their sums."""
    own = torch.cat([torch.zeros(1), *(part.detach().flatten() for part in model._parts())])
    everybody: list[torch.Tensor] = [own] * dist.get_world_size()
    dist.all_gather_object(everybody, own)
    return everybody


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
