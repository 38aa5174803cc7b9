"""What each process of a training would hold and send, before any of them starts (whether it fits: fits.py).

    tables      a process's part of the embedding tables and of Adagrad's sums; with tables that every process
                has whole go their gradients. They lie on the host behind a device's cache of them
                (training.table_cache)
    dense       all other weights, their gradients and the optimizer's two averages
    plain       both plain models, which every process makes on the host and keeps on its device, or their
                tables on the host (training.plain_tables)
    best        the best weights and sums of its tables, which every process keeps on the host, and what a
                checkpoint is put together in
    gathered    Adagrad's sums in full, which rank 0 writes in the end

Activations are not counted. What is sent is an upper bound: each distinct index of a step travels once, and
here none is taken to repeat beyond its table's rows. On CPUs all of it lies in the same memory.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from leanrec.config import RankerSettings, RetrieverSettings, TrainingSettings
from leanrec.models.inputs import ItemInputs, UserInputs
from leanrec.models.recommender import Recommender
from leanrec.models.retrieval.retriever import LearnedRetriever
from leanrec.schema import USER_STATISTICS, ModelSpec
from leanrec.training.data_parallel import DATA_PARALLEL
from leanrec.training.exchange import vector_bytes
from leanrec.training.layout import FLOAT, INDEX, Layout, Part, added, whole_part
from leanrec.training.replicas import group_size
from leanrec.training.sharding import Placed, refuse_unknown_tables, sharding_of

COPIES = 4
"""Of a dense weight: itself, its gradient, Adam's two averages."""
Settings = RetrieverSettings | RankerSettings

NO_PART = Part(0, 0, 0, 0, 0)
GPUS_A_HOST = 8
"""What a plan for more GPUs takes a host to have."""


@dataclass(frozen=True, kw_only=True)
class PlannedTable:
    """One table of one model."""

    model: str
    table: str
    rows: int
    dim: int
    sharding: str
    ranks: tuple[int, ...]
    columns: int
    """Into how many parts its columns are cut: an index travels to each of them."""
    parts: dict[int, Part]
    """Rank -> what it holds."""

    @property
    def is_everywhere(self) -> bool:
        """Whether each process has all of it, so that gradients travel in the place of vectors."""
        return self.sharding == DATA_PARALLEL

    def kept_by(self, rank: int, group: int) -> int:
        """Bytes that `rank` keeps beside; the first `group` ranks do it for all of sharded tables."""
        return self.part_of(rank).kept if rank < group or self.is_everywhere else 0

    def part_of(self, rank: int) -> Part:
        """What `rank` holds."""
        return self.parts.get(rank, NO_PART)


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What processes would hold (bytes of each rank) and send (bytes a step of one rank, at most)."""

    num_processes: int
    device: str
    tables: tuple[PlannedTable, ...]
    table_bytes: tuple[int, ...]
    """Of each rank on its device, of the model that takes more there: one is trained after the other."""
    behind_cache_bytes: tuple[int, ...]
    """Of each rank on its host: tables and sums of which its device has a cache (training.table_cache)."""
    dense_bytes: int
    plain_bytes: int
    plain_on_host: bool
    """Whether the plain models' tables stay there, on GPUs too (training.plain_tables)."""
    kept_bytes: tuple[int, ...]
    """Of each rank, on the host."""
    gathered_bytes: int
    """On rank 0's host."""
    sent_bytes: int
    averaged_bytes: int
    """What one rank sends when the replicas' tables and sums are averaged (training.replicas)."""

    @property
    def plain_device_bytes(self) -> int:
        """What of the plain models is on each device."""
        return self.plain_bytes - (self.gathered_bytes if self.plain_on_host else 0)

    @property
    def on_device(self) -> int:
        """Bytes that the fullest process needs in its device's memory; on CPUs that is the host's."""
        if self.device != "cpu":
            return max(self.table_bytes) + self.dense_bytes + self.plain_device_bytes
        fullest = max(held + kept for held, kept in zip(self.table_bytes, self.kept_bytes, strict=True))
        return fullest + self.dense_bytes + self.plain_bytes + self.gathered_bytes

    @property
    def on_host(self) -> int:
        """Bytes that all processes of one host need on it; a host has all CPU processes, or eight GPUs."""
        here = on_a_host(self.num_processes, self.device)
        a_rank = list(map(sum, zip(self.kept_bytes, self.behind_cache_bytes, strict=True)))
        kept = max(sum(a_rank[i : i + here]) for i in range(0, self.num_processes, here))
        everywhere = here * self.plain_bytes + kept + self.gathered_bytes
        if self.device != "cpu":
            return everywhere
        return everywhere + sum(self.table_bytes) + here * self.dense_bytes

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        derived = ("plain_device_bytes", "on_device", "on_host")
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}


def plan_training(
    settings: TrainingSettings, spec: ModelSpec, items: ItemInputs, *, num_processes: int, device: str
) -> TrainingPlan:
    """The plan for `num_processes` processes on `device` ("cpu", "cuda"), of which none need be there.

    Raises a ConfigError for a table that no model has, a TrainingError where tables cannot be sharded so.
    """
    with torch.device("meta"):
        recommender = Recommender(spec, settings, items)
    models: dict[str, Any] = {
        name: model
        for name, model in (("retriever", recommender.retriever), ("ranker", recommender.ranker))
        if name == "ranker" or isinstance(model, LearnedRetriever)
    }
    group = group_size(num_processes, settings.replicas)
    refuse_unknown_tables(
        settings.sharding, {table for model in models.values() for table in model.sparse.num_rows}
    )
    tables, held, behind, kept, dense, sent, synced = [], [], [], [], [], [], []
    for name, model in models.items():
        own: Settings = getattr(settings, name)
        planned = _tables_of(name, model, own, settings, num_processes, group, device)
        tables += planned
        ranks = range(num_processes)
        held.append([sum(t.part_of(rank).on_device for t in planned) for rank in ranks])
        behind.append([sum(t.part_of(rank).on_host for t in planned) for rank in ranks])
        kept.append([sum(t.kept_by(rank, group) for t in planned) for rank in ranks])
        weights = sum(p.numel() for p in model.parameters()) - _table_weights(model)
        dense.append(weights * FLOAT * COPIES)
        exchange = settings.exchange if group > 1 else "fp32"  # one sends nothing
        vector = sum(vector_bytes(exchange, model.sparse.dim))
        columns = {table.table: table.columns for table in planned if not table.is_everywhere}
        averaged = weights + sum(table.rows * table.dim for table in planned if table.is_everywhere)
        sent.append(
            _sent(model, own, spec, (num_processes, group), vector, columns)
            + _reduced(averaged * FLOAT, num_processes)
        )
        fullest = max(sum(t.part_of(rank).held for t in planned if not t.is_everywhere) for rank in ranks)
        synced.append(_reduced(fullest, settings.replicas))
    return TrainingPlan(
        num_processes=num_processes,
        device=device,
        tables=tuple(tables),
        table_bytes=_of_the_larger(held),
        behind_cache_bytes=_of_the_larger(behind),
        dense_bytes=max(dense),
        plain_bytes=FLOAT * sum(p.numel() for p in recommender.parameters()),
        plain_on_host=settings.plain_tables == "host",
        kept_bytes=_of_the_larger(kept),
        gathered_bytes=FLOAT * sum(_table_weights(model) for model in models.values()),
        sent_bytes=max(sent),
        averaged_bytes=max(synced),
    )


def _of_the_larger(models: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Of each rank the most that one of `models` takes."""
    return tuple(max(a_rank) for a_rank in zip(*models, strict=True))


def _tables_of(
    name: str,
    model: Any,
    settings: Settings,
    training: TrainingSettings,
    num_processes: int,
    group: int,
    device: str,
) -> list[PlannedTable]:
    layout, optimizer = Layout.of(training), settings.optimizer.tables
    sharding = sharding_of(
        model.sparse.num_rows,
        layout,
        world_size=group,
        local_world_size=min(group, on_a_host(num_processes, device)),
        device=device,
        table_optimizer=optimizer,
        table_learning_rate=settings.table_learning_rate,
        dim=model.sparse.dim,
    )
    plan = sharding.plan(sharding.with_sharded_tables(_Holder(model)))
    firsts = range(0, num_processes, group)
    whole = partial(whole_part, optimizer=optimizer)
    sharded = partial(layout.part, optimizer=optimizer, device=device)
    return [
        PlannedTable(
            model=name,
            table=table,
            rows=model.sparse.num_rows[table],
            dim=model.sparse.dim,
            sharding=placed.sharding,
            ranks=tuple(sorted({first + rank for first in firsts for rank in placed.ranks})),
            columns=placed.columns,
            parts=_in_each_group(
                _by_rank(placed, whole if placed.sharding == DATA_PARALLEL else sharded), firsts
            ),
        )
        for table, placed in sharding.placed(plan).items()
    ]


def _in_each_group(of_first: dict[int, Part], firsts: Iterable[int]) -> dict[int, Part]:
    """What each rank has, by what the ranks of the first group have."""
    return {first + rank: part for first in firsts for rank, part in of_first.items()}


def on_a_host(num_processes: int, device: str) -> int:
    """Processes of one host."""
    return GPUS_A_HOST if device == "cuda" and num_processes % GPUS_A_HOST == 0 else num_processes


def _table_weights(model: Any) -> int:
    return sum(rows * model.sparse.dim for rows in model.sparse.num_rows.values())


class _Holder(nn.Module):
    """What the planner walks through: a model in the place where an objective has it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


def _by_rank(placed: Placed, part_of: Callable[[int, int], Part]) -> dict[int, Part]:
    """Rank -> what it holds of a table, by what a shard of so many rows and columns is."""
    held: defaultdict[int, list[Part]] = defaultdict(list)
    for shard in placed.shards:
        held[shard.placement.rank()].append(part_of(*shard.shard_sizes))
    return {rank: added(parts) for rank, parts in held.items()}


def _sent(
    model: Any,
    settings: Settings,
    spec: ModelSpec,
    processes: tuple[int, int],
    vector: int,
    columns: dict[str, int],
) -> int:
    """Bytes that one process sends for the lookups of a step at most: indices, vectors, their gradients.

    `processes`: how many there are, and how many a group has; `vector`: bytes of a vector and its gradient on
    their way; `columns`: sharded table -> parts of its columns.
    """
    num_processes, group = processes
    share = settings.batch_size / num_processes
    elsewhere = (group - 1) / group
    lookups: Counter[str] = Counter()
    user = UserInputs(
        torch.zeros(1, 1, dtype=torch.long),
        torch.zeros(1, spec.num_attribute_columns, dtype=torch.long),
        torch.zeros(1, len(USER_STATISTICS)),
        torch.zeros(1, spec.history_length, dtype=torch.long),
        torch.zeros(1, spec.history_length),
    )
    for feature, index in model.user_indices(user).items():
        lookups[model.sparse.features[feature]] += round(share * index.numel())
    num_items = _items_a_step(settings, spec, share)
    for feature, index in model.item_indices(torch.zeros(1, dtype=torch.long)).items():
        lookups[model.sparse.features[feature]] += round(num_items * index.numel())
    rows = sum(
        min(count, model.sparse.num_rows[table]) * (INDEX * columns[table] + vector)
        for table, count in lookups.items()
        if table in columns
    )
    return round(elsewhere * rows)


def _reduced(size: int, num_processes: int) -> int:
    """Bytes that each of `num_processes` sends so that all have the mean of `size` bytes."""
    return round(2 * size * (num_processes - 1) / num_processes)


def _items_a_step(settings: Settings, spec: ModelSpec, share: float) -> float:
    if isinstance(settings, RankerSettings):
        return share * (1 + settings.negatives)
    exact = settings.loss == "softmax" and spec.num_items <= settings.full_softmax_items
    return share + (spec.num_items if exact else settings.softmax_negatives)
