"""A model over several processes: tables model-parallel by TorchRec, the dense part data-parallel by DDP."""

from __future__ import annotations

import logging
import math
import re
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper

from leanrec.config.optimizer import OptimizerSettings
from leanrec.training.cpu_tables import look_up_as_bags
from leanrec.training.data_parallel import DataParallelOptimizer
from leanrec.training.half_precision import LOSS_SCALE, unscale
from leanrec.training.layout import Layout
from leanrec.training.optimizers import dense_optimizer
from leanrec.training.replicas import Replicas
from leanrec.training.sharding import sharding_of
from leanrec.training.sparse import (
    Held,
    Parts,
    ShardedSparseArch,
    as_one,
    gather,
    hold,
    parts_of,
    parts_within,
    refuse_beyond,
    take_back,
    take_over,
)
from leanrec.training.watching import EpochWatch

TABLE = re.compile(r"model\.sparse\.collections\.\d+\.embeddings\.(.+)\.weight")
TABLES = "model.sparse."
"""What all names of tables begin with; those that are sharded are `TABLE`s."""
PRODUCTS = {"bf16": torch.bfloat16, "fp16": torch.float16}


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
        optimizer: OptimizerSettings,
        layout: Layout,
        device: torch.device,
        replicas: Replicas | None = None,
    ) -> None:
        """`replicas`: groups of processes that each have all tables; None: one of all."""
        model: Any = objective.model
        self._replicas = replicas or Replicas.of(1, device.type)
        sharding = sharding_of(
            model.sparse.num_rows,
            layout,
            world_size=self._replicas.group_size,
            local_world_size=self._replicas.local_size,
            device=device.type,
            table_optimizer=optimizer.tables,
            table_learning_rate=table_learning_rate,
            dim=model.sparse.dim,
        )
        plain = sharding.with_sharded_tables(objective)
        self._loss_scale = LOSS_SCALE if optimizer.precision == "fp16" else 1.0
        plain.model.sparse.loss_scale = self._loss_scale
        plain.model.sparse.weight_decay = optimizer.table_weight_decay
        self.num_skipped = 0
        """Steps that the dense part did not make, for gradients left the range of half precision."""
        plan = sharding.plan(plain, self._replicas.env.process_group)
        self.placed = sharding.placed(plan)
        """Table -> how it is sharded and where in the first group."""
        # A static graph exchanges gradients in every backward pass, from the first on.
        accumulates = optimizer.accumulate > 1
        self.parallel = DistributedModelParallel(
            plain,
            env=self._replicas.env,
            device=device,
            plan=self._replicas.place(plan),
            sharders=[sharding.sharder],
            data_parallel_wrapper=DefaultDataParallelWrapper(
                static_graph=not accumulates, find_unused_parameters=accumulates
            ),
        )
        look_up_as_bags(self.parallel)
        self._sparse: ShardedSparseArch = self.parallel.module.model.sparse
        self._sparse.watch_lookups()
        dense = [p for name, p in self.parallel.named_parameters() if _is_dense(name)]
        self.dense = dense_optimizer(optimizer, dense, learning_rate=learning_rate, weight_decay=weight_decay)
        self._whole = DataParallelOptimizer(optimizer.tables, self._sparse.whole, table_learning_rate)
        self._settings = optimizer
        self._rates = (learning_rate, table_learning_rate)
        self._device = device
        self.load(model.state_dict())

    @property
    def objective(self) -> nn.Module:
        """The objective without the wrapping that synchronises gradients."""
        return self.parallel.module

    @property
    def whole_tables(self) -> set[str]:
        """The tables that every process has."""
        return set(self._sparse.whole)

    def step(
        self,
        *batch: object,
        rate: float = 1.0,
        place: int = 0,
        size: int = 1,
        sync: bool = False,
        watch: EpochWatch,
    ) -> float:
        """One step on this process's share of a batch; answers its loss.

        Gradients are means over the processes (of the group, for sharded tables), learning rates are
        multiplied by `rate`. The step is number
        `place` of `size` whose dense gradients are averaged: the dense part moves, and processes exchange its
        gradients, with the last of them. After it the replicas' tables are averaged where `sync` says so.
        """
        self._set_rate(rate)
        self._sparse.phases = watch
        if place == 0:
            self.dense.zero_grad(set_to_none=True)
            self._whole.forget_gradients()
        is_last = place + 1 == size
        with watch.phase("dense"), nullcontext() if is_last else self._without_exchange():
            with watch.span("forward"), self._in_precision():
                loss: Tensor = self.parallel(*batch)
                value = float(loss.detach())
            if not math.isfinite(value):
                return value
            with watch.span("backward"):
                (loss * self._loss_scale if self._loss_scale != 1 else loss).backward()
        if is_last:
            with watch.phase("dense"), watch.span("update"):
                self._move(size)
        if sync:
            with watch.phase("communication"):
                self.average_replicas()
        return value

    def _move(self, size: int) -> None:
        """The optimizers of what DDP averages, on the mean of `size` gradients."""
        self._whole.step(size)
        dense = [p for group in self.dense.param_groups for p in group["params"] if p.grad is not None]
        scale = size * self._loss_scale
        if scale != 1 and not unscale(dense, scale) and self._loss_scale != 1:
            self.num_skipped += 1
            return
        if self._settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(dense, self._settings.clip_norm)
        self.dense.step()

    def _set_rate(self, rate: float) -> None:
        if self._settings.schedule == "constant" and not self._settings.warmup_steps:
            return
        for optimizer, base in zip((self.dense, self.parallel.fused_optimizer), self._rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * rate
        self._whole.set_rate(rate)
        self.parallel.fused_optimizer.step()  # hands the rate to the tables, which move in the backward pass

    def _in_precision(self) -> AbstractContextManager[Any]:
        if self._settings.precision == "fp32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=PRODUCTS[self._settings.precision])

    def _without_exchange(self) -> AbstractContextManager[Any]:
        """Inside it a backward pass leaves the dense gradients on their process."""
        wrapped = self.parallel._dmp_wrapped_module
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take over the plain model's weights; each process keeps its share of the tables.

        Raises a TrainingError for a table that has numbers beyond those that it is to be kept in.
        """
        # Before any is written: to look for them writes back what is cached.
        tables, dense = self._tables(), self._dense_weights()
        for table, own in tables.items():
            refuse_beyond(table, weights[_plain_table(table)], own.dtype)
        with torch.no_grad():
            for table, own in tables.items():
                take_over(weights[_plain_table(table)], parts_of(own))
            for table, whole in self._sparse.whole.items():
                whole.copy_(weights[_plain_table(table)])
            for name, weight in dense.items():
                weight.copy_(weights[name])
        self._sparse.forget_cached()

    def gather(self, model: nn.Module) -> None:
        """Write the weights into the plain `model` on rank 0; every process must call it."""
        fill(model, self.weights())

    def weights(self) -> Held:
        """The weights by the plain model's names, in the memory in which they are trained."""
        tables = {
            _plain_table(table): self._told(own, parts_of(own), own.dtype)
            for table, own in self._tables().items()
        }
        whole = {_plain_table(table): own.detach() for table, own in self._sparse.whole.items()}
        return dict(sorted((tables | whole | self._dense_weights()).items()))

    def sums(self) -> Held:
        """Table -> Adagrad's sums of squared gradients, one for each weight [rows, columns]."""
        parts = self._sums()
        sharded = {
            table: self._told(own, parts[table], torch.float32) for table, own in self._tables().items()
        }
        return dict(sorted((sharded | self._whole.sums()).items()))

    def dense_state(self) -> Held:
        """What the dense part's optimizer knows of each of its weights, "<weight>/<name>"; empty at first."""
        return {
            f"{i}/{name}": value
            for i, values in self.dense.state_dict()["state"].items()
            for name, value in values.items()
        }

    def load_sums(self, sums: Held) -> None:
        """Take over Adagrad's sums, in full or what `sums` gave; a table that is not named keeps its own."""
        self._whole.load_sums(sums)
        for table, parts in self._sums().items():
            found = sums.get(table)
            if isinstance(found, ShardedTensor):
                if self._replicas.is_first:
                    take_back(found, parts)
            elif found is not None:
                take_over(found, parts)

    def average_replicas(self) -> None:
        """Make the tables and their sums the mean of the replicas'; every process must call it."""
        if self._replicas.num > 1:
            with torch.no_grad():
                self._replicas.average(self._parts())
            self._sparse.forget_cached()

    def spread_first_replica(self) -> None:
        """Make the tables and their sums what the first replica's are; every process must call it.

        For weights that were written into the first replica's memory from outside.
        """
        self._sparse.forget_cached()  # before `_parts` writes what is cached over them
        if self._replicas.num > 1:
            with torch.no_grad():
                self._replicas.spread(self._parts())
            self._sparse.forget_cached()

    def _parts(self) -> list[Tensor]:
        """The memory of this process's parts of tables and sums."""
        of_tables = [part for own in self._tables().values() for _, part in parts_of(own)]
        return of_tables + [part for parts in self._sums().values() for _, part in parts]

    def _told(self, layout: ShardedTensor, parts: Parts, dtype: torch.dtype) -> ShardedTensor:
        """What this process tells of a table: its parts, or none where it is not of the first replica."""
        return hold(layout, parts if self._replicas.is_first else [], self._replicas.group_size, dtype)

    def load_dense_state(self, state: Held) -> None:
        """Take over what `dense_state` gave."""
        dense = self.dense.state_dict()
        for key, value in state.items():
            i, name = key.split("/")
            dense["state"].setdefault(int(i), {})[name] = value
        self.dense.load_state_dict(dense)

    def _tables(self) -> dict[str, ShardedTensor]:
        """Table -> its weights, as one tensor though it may be cut into blocks.

        TorchRec writes what a device has cached of them back before it gives them.
        """
        state = self.parallel.state_dict()
        blocks = {found[1]: state[name] for name in state if (found := TABLE.fullmatch(name))}
        return {table: as_one(cut, blocks) for table, cut in self._sparse.cuts.items()}

    def _dense_weights(self) -> dict[str, Tensor]:
        """The weights of the dense part by the plain model's names."""
        state = self.parallel.state_dict()
        return {name.removeprefix("model."): own.detach() for name, own in state.items() if _is_dense(name)}

    def _sums(self) -> dict[str, Parts]:
        """Table -> Adagrad's sums of squared gradients of its parts that this process holds."""
        optimizer = self.parallel.fused_optimizer
        sums: dict[str, Parts] = {table: [] for table in self._sparse.cuts}
        for name, state in optimizer.state_dict()["state"].items():
            found = TABLE.fullmatch(name)
            assert found is not None
            block = self._sparse.blocks[found[1]]
            for key, values in state.items():
                if key.endswith("momentum1"):
                    sums[block.table] += parts_within(block, parts_of(optimizer.params[name], values))
        return sums

    def describe(self) -> dict[str, str]:
        """Table -> how it is sharded and where."""
        of = f" of each of {self._replicas.num} groups" if self._replicas.num > 1 else ""
        return {
            table: f"{placed.sharding} on ranks {placed.ranks}{of}" for table, placed in self.placed.items()
        }


def fill(model: nn.Module, weights: Held) -> None:
    """Write weights that the processes hold into the plain `model` on rank 0; every process must call it."""
    plain = model.state_dict()
    with torch.no_grad():
        for name, value in sorted(weights.items()):
            gather(value, plain[name] if dist.get_rank() == 0 else None)


def quiet_planner() -> None:
    """Keep TorchRec's and torch's notes to developers out of a user's log."""
    for name in ("torchrec", "torch.fx._symbolic_trace"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="torchrec")


def _is_dense(name: str) -> bool:
    """Whether a weight of this name in the sharded model is of no table."""
    return not name.startswith(TABLES)


def _plain_table(table: str) -> str:
    return f"sparse.tables.{table}.weight"
