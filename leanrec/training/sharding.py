"""Which process holds which part of a table: by TorchRec's planner, or as the settings say."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.types import (
    CacheParams,
    ParameterSharding,
    ShardingPlan,
    ShardingType,
    ShardMetadata,
)

from leanrec.config.section import nearest
from leanrec.errors import ConfigError, TrainingError
from leanrec.training.data_parallel import DATA_PARALLEL, EPS, named_in
from leanrec.training.exchange import codecs_of
from leanrec.training.grid import COLUMNS, GRID, Cut, cut_tables
from leanrec.training.layout import Layout
from leanrec.training.sparse import ShardedSparseArch

FUSED = {
    "adagrad": EmbOptimType.EXACT_ADAGRAD,
    "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
}
ENOUGH = 2**60
"""Bytes of memory that the planner takes to be there: whether it is, footprint.py says."""
MODEL_PARALLEL = [
    ShardingType.TABLE_WISE.value,
    ShardingType.ROW_WISE.value,
    ShardingType.COLUMN_WISE.value,
]
"""What the planner may choose from: all that TorchRec offers for lookups that are not pooled, data-parallel
tables aside, which are ours and by hand (data_parallel.py)."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """How a table is sharded, and which processes hold a part of it."""

    sharding: str
    ranks: list[int]
    shards: list[ShardMetadata]
    """Their sizes and ranks."""
    columns: int
    """Into how many parts its columns are cut."""


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """A planner, the sharder that carries its plan out, and where the tables are cut before it plans."""

    planner: EmbeddingShardingPlanner
    sharder: EmbeddingCollectionSharder
    cuts: dict[str, Cut]
    whole: dict[str, Placed]
    """The tables that every process has, of which the planner does not hear."""
    precision: str
    """In what sharded tables are kept."""

    def plan(self, objective: nn.Module, group: dist.ProcessGroup | None = None) -> ShardingPlan:
        """The plan for the tables of `objective`, made once for all processes of `group` where it is given.

        A TrainingError where there is none.
        """
        if not self.cuts:
            return ShardingPlan(plan={})
        try:
            if group is None:
                return self.planner.plan(objective, [self.sharder])
            return self.planner.collective_plan(objective, [self.sharder], group)
        except PlannerError as error:
            raise TrainingError(f"no plan shards the tables so ({_reason(error)}); {WAY_OUT}") from None

    def with_sharded_tables(self, objective: nn.Module) -> Any:
        """A copy of `objective` whose tables TorchRec may shard; they hold no memory until it does."""
        model: Any = objective.model
        sparse = model.sparse
        model.sparse = ShardedSparseArch(sparse, self.cuts, self.precision)
        try:
            return copy.deepcopy(objective)
        finally:
            model.sparse = sparse

    def placed(self, plan: ShardingPlan) -> dict[str, Placed]:
        """Table -> where its parts are, by `plan` those that are sharded, the blocks of a grid together."""
        found = {name: placed for tables in plan.plan.values() for name, placed in tables.items()}
        cut = {table: _placed(cut, [found[block.name] for block in cut]) for table, cut in self.cuts.items()}
        return cut | self.whole


WAY_OUT = (
    "let the planner choose (training.sharding: {}), change training.num_processes, or lower retriever.dim "
    "and ranker.dim"
)


def sharding_of(
    tables: Mapping[str, int],
    layout: Layout,
    *,
    world_size: int,
    local_world_size: int,
    device: str,
    table_optimizer: str,
    table_learning_rate: float,
    dim: int,
) -> Sharding:
    """For `tables` (name -> rows) of `dim` columns over `world_size` processes on `device` ("cpu", "cuda").

    `local_world_size` of them share a host. Raises a ConfigError for vectors that cannot travel as `layout`
    says.
    """
    by_hand = layout.by_hand
    whole = named_in(by_hand, tables)
    sharded = {table: rows for table, rows in tables.items() if table not in whole}
    cuts = cut_tables(sharded, by_hand, dim=dim, world_size=world_size)
    constraints = {
        block.name: ParameterConstraints(
            sharding_types=_choice(by_hand.get(table)), **_cached(layout.cache_of(device))
        )
        for table, cut in cuts.items()
        for block in cut
    }
    sharder = EmbeddingCollectionSharder(
        fused_params={
            "optimizer": FUSED[table_optimizer],
            "learning_rate": table_learning_rate,
            "eps": EPS,
        },
        qcomm_codecs_registry=codecs_of(layout.exchange, device, dim) if world_size > 1 else None,
    )
    planner = EmbeddingShardingPlanner(
        topology=Topology(
            world_size=world_size,
            local_world_size=local_world_size,
            compute_device=device,
            hbm_cap=ENOUGH,
            ddr_cap=ENOUGH,
        ),
        constraints=constraints,
    )
    everywhere = {table: _everywhere(rows, dim, world_size, device) for table, rows in whole.items()}
    return Sharding(planner=planner, sharder=sharder, cuts=cuts, whole=everywhere, precision=layout.precision)


def _reason(error: PlannerError) -> str:
    """The planner's first line, and the table that it found no process for, from its pages of advice."""
    said = (str(error).strip().splitlines() or ["the planner finds none"])[0].rstrip(". ")
    table = re.search(r" of table ([^,]+),", str(error))
    return f"{said}: no process can hold its part of the table {table[1]!r}" if table else said


def _choice(by_hand: str | None) -> list[str]:
    """What the planner may choose from for a block."""
    if by_hand is None:
        return MODEL_PARALLEL
    return [ShardingType.TABLE_WISE.value if by_hand == GRID else by_hand]


def _cached(share: float | None) -> dict[str, Any]:
    """What the planner is told of a block of which a GPU caches a share of the rows; None: nothing."""
    if share is None:
        return {}
    kernel = EmbeddingComputeKernel.FUSED_UVM_CACHING.value
    return {"compute_kernels": [kernel], "cache_params": CacheParams(load_factor=share)}


def _placed(cut: Cut, blocks: list[ParameterSharding]) -> Placed:
    shards = [shard for block in blocks for shard in block.sharding_spec.shards]
    ranks = [rank for block in blocks for rank in block.ranks or []]
    if cut.is_grid:
        return Placed(sharding=GRID, ranks=sorted(set(ranks)), shards=shards, columns=COLUMNS)
    columns = len({shard.shard_offsets[1] for shard in shards})
    return Placed(sharding=blocks[0].sharding_type, ranks=ranks, shards=shards, columns=columns)


def _everywhere(rows: int, dim: int, world_size: int, device: str) -> Placed:
    """A table of which every process has all."""
    shards = [ShardMetadata([0, 0], [rows, dim], f"rank:{rank}/{device}") for rank in range(world_size)]
    return Placed(sharding=DATA_PARALLEL, ranks=list(range(world_size)), shards=shards, columns=1)


def refuse_unknown_tables(by_hand: Mapping[str, str], tables: set[str]) -> None:
    """A ConfigError for a table of `training.sharding` that neither model has."""
    for name in by_hand:
        if name not in tables:
            raise ConfigError(
                f"training.sharding names the table {name!r}, which no model has; {nearest(name, tables)}"
            )
