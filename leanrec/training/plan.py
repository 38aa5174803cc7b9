"""The parallel plan: tables model-parallel by TorchRec's planner, the dense part data-parallel by DDP."""

from __future__ import annotations

import copy
import logging
import math
from typing import Any, cast

import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.types import ShardingType

from leanrec.models.layers import SparseArch
from leanrec.training.sparse import ShardedSparseArch, copy_rows, gather_rows

MODEL_PARALLEL = [
    ShardingType.TABLE_WISE.value,
    ShardingType.ROW_WISE.value,
    ShardingType.COLUMN_WISE.value,
    ShardingType.TABLE_COLUMN_WISE.value,
    ShardingType.TABLE_ROW_WISE.value,
    ShardingType.GRID_SHARD.value,
]
"""What the planner may choose from. Data-parallel tables would need an optimizer of their own."""

TABLE = "model.sparse.collection.embeddings."
PLAIN_TABLE = "sparse.tables."

Gathered = dict[str, Tensor] | None
"""Full tensors by their plain name on rank 0, None on the others."""


class ShardedModel:
    """An objective and its model, sharded over the processes; the plain model's weights go in and come out.

    `objective` is a module with a field `model`, whose field `sparse` is a plain `SparseArch`.
    """

    def __init__(
        self,
        objective: nn.Module,
        *,
        learning_rate: float,
        weight_decay: float,
        table_learning_rate: float,
        device: torch.device,
    ) -> None:
        plain: Any = copy.deepcopy(objective)
        sparse: SparseArch = plain.model.sparse
        weights = {name: value.clone() for name, value in plain.model.state_dict().items()}
        plain.model.sparse = ShardedSparseArch(sparse)
        sharder = EmbeddingCollectionSharder(
            fused_params={
                "optimizer": EmbOptimType.EXACT_ADAGRAD,
                "learning_rate": table_learning_rate,
                "eps": 1e-8,
            }
        )
        constraints = {
            table: ParameterConstraints(sharding_types=MODEL_PARALLEL) for table in sparse.num_rows
        }
        planner = EmbeddingShardingPlanner(
            topology=Topology(world_size=dist.get_world_size(), compute_device=device.type),
            constraints=constraints,
        )
        group = dist.GroupMember.WORLD
        assert group is not None
        self.plan = planner.collective_plan(plain, [sharder], group)
        self.parallel = DistributedModelParallel(plain, device=device, plan=self.plan, sharders=[sharder])
        dense = [p for name, p in self.parallel.named_parameters() if not name.startswith(TABLE)]
        self.dense = torch.optim.AdamW(dense, lr=learning_rate, weight_decay=weight_decay)
        self.load(weights)

    @property
    def objective(self) -> nn.Module:
        """The objective without the wrapping that synchronises gradients."""
        return self.parallel.module

    def step(self, *batch: object) -> float:
        """One step of both optimizers on this process's share of a batch; answers its loss."""
        self.dense.zero_grad(set_to_none=True)
        loss: Tensor = self.parallel(*batch)
        value = float(loss.detach())
        if math.isfinite(value):
            loss.backward()
            self.dense.step()
        return value

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over the plain model's weights; each process keeps its share of the tables."""
        with torch.no_grad():
            for name, own in self.parallel.state_dict().items():
                full = weights[_plain_name(name)]
                if isinstance(own, ShardedTensor):
                    copy_rows(full, own)
                else:
                    own.copy_(full)

    def gather(self) -> Gathered:
        """The plain model's weights on rank 0, None elsewhere; every process must call it."""
        gathered: dict[str, Tensor | None] = {}
        for name, own in sorted(self.parallel.state_dict().items()):
            full = gather_rows(own, own) if isinstance(own, ShardedTensor) else own.detach().cpu().clone()
            gathered[_plain_name(name)] = full
        return cast(Gathered, gathered) if dist.get_rank() == 0 else None

    def gather_optimizers(self) -> Gathered:
        """The state of both optimizers on rank 0, None elsewhere; every process must call it."""
        state = self.parallel.fused_optimizer.state_dict()["state"]
        gathered: dict[str, Tensor | None] = {}
        for name, table in sorted(self.parallel.state_dict().items()):
            if isinstance(table, ShardedTensor):
                gathered[f"tables/{name}"] = gather_rows(table, _adagrad_sums(state, name))
        for i, values in self.dense.state_dict()["state"].items():
            gathered |= {f"dense/{i}/{name}": value.detach().cpu().clone() for name, value in values.items()}
        return cast(Gathered, gathered) if dist.get_rank() == 0 else None

    def load_optimizers(self, state: dict[str, Tensor]) -> None:
        """Take over what `gather_optimizers` gave; each process keeps its share."""
        own = self.parallel.fused_optimizer.state_dict()["state"]
        for name in own:
            sums = _adagrad_sums(own, name)
            if sums is not None:
                copy_rows(state[f"tables/{name}"], sums)
        dense = self.dense.state_dict()
        for key, value in state.items():
            if key.startswith("dense/"):
                _, i, name = key.split("/")
                dense["state"].setdefault(int(i), {})[name] = value
        self.dense.load_state_dict(dense)

    def load_sums(self, sums: dict[str, Tensor]) -> None:
        """Take over Adagrad's sums of the tables, by table; the dense part's optimizer stays as it is."""
        own = self.parallel.fused_optimizer.state_dict()["state"]
        for name in own:
            target, table = _adagrad_sums(own, name), name.removeprefix(TABLE).removesuffix(".weight")
            if target is not None and table in sums:
                copy_rows(sums[table], target)

    def describe(self) -> dict[str, str]:
        """Table -> how the planner shards it and where."""
        (tables,) = self.plan.plan.values()
        return {name: f"{p.sharding_type} on ranks {p.ranks}" for name, p in tables.items()}


def sums_of(optimizers: Gathered) -> dict[str, Tensor]:
    """Adagrad's sums by table, out of what `gather_optimizers` gave."""
    prefix = f"tables/{TABLE}"
    return {
        name.removeprefix(prefix).removesuffix(".weight"): value
        for name, value in (optimizers or {}).items()
        if name.startswith(prefix)
    }


def quiet_planner() -> None:
    """Keep TorchRec's and torch's notes to developers out of a user's log."""
    for name in ("torchrec", "torch.fx._symbolic_trace"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _adagrad_sums(state: dict[str, dict[str, ShardedTensor]], table: str) -> ShardedTensor | None:
    """Adagrad's sums of squared gradients of a table, where this process holds a part of it."""
    return next((value for key, value in state.get(table, {}).items() if key.endswith("momentum1")), None)


def _plain_name(sharded: str) -> str:
    if sharded.startswith(TABLE):
        return PLAIN_TABLE + sharded.removeprefix(TABLE)
    return sharded.removeprefix("model.")
