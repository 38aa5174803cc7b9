"""Embedding tables while they train: TorchRec's EmbeddingCollection in the place of `SparseArch`.

The planner decides which process holds which rows, columns or blocks of a table; their optimizer is fused
into the backward pass (Adagrad, Duchi et al. 2011, or one sum a row), so a step costs what its rows cost and
not the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import (
    Shard,
    ShardedTensor,
    ShardedTensorMetadata,
    TensorProperties,
)
from torch.distributed._shard.sharding_spec import ShardMetadata
from torch.nn import functional
from torchrec import EmbeddingCollection, EmbeddingConfig, JaggedTensor, KeyedJaggedTensor
from torchrec.modules.embedding_configs import DataType

from leanrec.errors import TrainingError
from leanrec.models.inputs import known_index
from leanrec.models.layers import SparseArch
from leanrec.training.grid import Block, Cut
from leanrec.training.half_precision import unscaled
from leanrec.training.watching import Phases

CPU = torch.device("cpu")
PIECE = 2**24
"""Weights that travel at once when a table is gathered: a device need not hold another's part as well."""
NUMBERS = {"fp32": DataType.FP32, "fp16": DataType.FP16}
"""What a table's weights are kept in."""


class ShardedSparseArch(nn.Module):
    """`SparseArch` with tables that DistributedModelParallel may shard; same `forward`.

    Each distinct index travels to the process that holds its row once a lookup, whatever the batch.
    """

    def __init__(self, plain: SparseArch, cuts: Mapping[str, Cut], precision: str) -> None:
        """`cuts`: table -> the blocks into which it is cut, each a table to TorchRec; others stay whole.

        `precision`: in what the blocks are kept; vectors are in float32 all the same.
        """
        super().__init__()
        self.features = dict(plain.features)
        self.num_rows = dict(plain.num_rows)
        self.dim = plain.dim
        self.loss_scale = 1.0
        """What the loss is multiplied by, and the tables' gradients are not."""
        self.weight_decay = 0.0
        """What a row adds to its gradient, times the row."""
        self.phases = Phases()
        """The clock of who watches."""
        self.cuts = dict(cuts)
        self.blocks = {block.name: block for cut in cuts.values() for block in cut}
        by_width: dict[str, list[Block]] = {}
        for block in self.blocks.values():
            by_width.setdefault(str(block.sizes[1]), []).append(block)
        self.collections = nn.ModuleDict(
            {width: _collection(each, NUMBERS[precision]) for width, each in by_width.items()}
        )
        """Width -> the blocks of so many columns, for a collection has one width."""
        self.whole = nn.ParameterDict(
            {
                table: nn.Parameter(torch.empty_like(cast(nn.Embedding, held).weight))
                for table, held in plain.tables.items()
                if table not in cuts
            }
        )
        """The tables that every process has (data_parallel.py)."""

    def forward(self, indices: dict[str, Tensor]) -> dict[str, Tensor]:
        """Feature -> int64 indices of any shape [...]; answers feature -> vectors [..., dim]."""
        with self.phases.phase("embedding"):
            return self._forward(indices)

    def _forward(self, indices: dict[str, Tensor]) -> dict[str, Tensor]:
        wanted: dict[str, list[Tensor]] = {table: [] for table in self.num_rows}
        for feature, index in indices.items():
            table = self.features[feature]
            wanted[table].append(known_index(index, self.num_rows[table]).reshape(-1))
        rows, places = {}, {}
        device = next(iter(indices.values())).device
        nothing = torch.zeros(0, dtype=torch.long, device=device)
        for table, parts in wanted.items():
            joined = torch.cat(parts) if parts else nothing
            rows[table], place = torch.unique(joined, return_inverse=True)
            places[table] = iter(place.split([len(part) for part in parts]))
        values = self._look_up(rows)
        if self.weight_decay:
            values = {table: _Decaying.apply(found, self.weight_decay) for table, found in values.items()}
        if self.loss_scale != 1:
            values = {table: unscaled(found, self.loss_scale) for table, found in values.items()}
        vectors = {
            feature: functional.embedding(
                next(places[self.features[feature]]), values[self.features[feature]]
            ).reshape(*index.shape, -1)
            for feature, index in indices.items()
        }
        self.phases.enter_with_gradients(vectors.values(), "embedding")
        return vectors

    def _look_up(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Table -> the vectors [N, dim] of distinct rows [N] in rising order."""
        wanted = {name: own for table, cut in self.cuts.items() for name, own in cut.ask(rows[table]).items()}
        found: dict[str, Tensor] = {}
        for width, collection in self.collections.items():
            names = [name for name, block in self.blocks.items() if str(block.sizes[1]) == width]
            asked = KeyedJaggedTensor(
                keys=names,
                values=torch.cat([wanted[name] for name in names]),
                lengths=torch.tensor([len(wanted[name]) for name in names], device=wanted[names[0]].device),
            )
            found |= {name: vectors.values() for name, vectors in self._exchange(collection, asked).items()}
        self.phases.enter_with_gradients(found.values(), "communication")
        whole = {table: functional.embedding(rows[table], weight) for table, weight in self.whole.items()}
        return whole | {table: cut.join(found) for table, cut in self.cuts.items()}

    def _exchange(self, collection: Any, asked: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """What the sharded `collection` answers, its steps one by one."""
        context = collection.create_context()
        with self.phases.phase("communication"):
            ids = collection.input_dist(context, asked).wait().wait()
        sent = collection.compute_and_output_dist(context, ids)
        with self.phases.phase("communication"):
            vectors: dict[str, JaggedTensor] = sent.wait()
        return vectors

    def forget_cached(self) -> None:
        """Empty a device's caches of rows, once the tables behind them have been written."""
        for collection in self.collections.values():
            for lookup in cast(Any, collection)._lookups:
                lookup.purge()

    def watch_lookups(self) -> None:
        """Let the clock know of lookups in the backward pass, once the collections are sharded.

        Models look everything up at once, before all else: when the tables have moved, gradients of the dense
        part are all that is left to wait for.
        """

        def watch(_ids: KeyedJaggedTensor, looked_up: Tensor, _collection: Any, _state: Any) -> None:
            self.phases.enter_around(looked_up, during="embedding", after="communication")

        for collection in self.collections.values():
            cast(Any, collection).register_post_lookup_tracker_fn(watch)


def _collection(blocks: list[Block], numbers: DataType) -> EmbeddingCollection:
    """TorchRec's tables of `blocks`, which hold no memory yet."""
    return EmbeddingCollection(
        tables=[
            EmbeddingConfig(
                name=block.name,
                num_embeddings=block.sizes[0],
                embedding_dim=block.sizes[1],
                feature_names=[block.name],
                data_type=numbers,
            )
            for block in blocks
        ],
        device=torch.device("meta"),
    )


class _Decaying(torch.autograd.Function):
    """Rows as they are; their gradient grows by `weight_decay` times the row, as by an L2 of the loss.

    fbgemm's kernel of Adagrad has no weight decay, and on CPUs neither has that of row-wise Adagrad.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight_decay: float) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.weight_decay = weight_decay
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return gradients[0] + ctx.weight_decay * rows, None


Parts = list[tuple[ShardMetadata, Tensor]]
"""What this process holds of a table [rows, columns], or of a value a row of it [rows], with its place."""

Held = dict[str, Tensor]
"""Tensors by name as processes hold them: whole and the same in each, or each its parts (ShardedTensor)."""


def parts_of(table: ShardedTensor, values: ShardedTensor | None = None) -> Parts:
    """This process's parts of `table`, or of `values` of an optimizer that go with its weights."""
    values = table if values is None else values
    shards = zip(table.local_shards(), values.local_shards(), strict=True)
    return [(weights.metadata, value.tensor) for weights, value in shards]


def parts_within(block: Block, parts: Parts) -> Parts:
    """`parts` of `block`, with their places in its table."""
    return [(_within(block, place), part) for place, part in parts]


def as_one(cut: Cut, blocks: Mapping[str, ShardedTensor]) -> ShardedTensor:
    """A table from its blocks, in the memory in which they are."""
    if not cut.is_grid:
        return blocks[cut.table]
    places = [_within(block, s) for block in cut for s in blocks[block.name].metadata().shards_metadata]
    parts = [part for block in cut for part in parts_within(block, parts_of(blocks[block.name]))]
    properties = blocks[next(iter(cut)).name].metadata().tensor_properties
    return ShardedTensor._init_from_local_shards_and_global_metadata(
        [Shard(part, place) for place, part in parts],
        ShardedTensorMetadata(places, torch.Size((cut.rows, cut.dim)), properties),
    )


def hold(layout: ShardedTensor, parts: Parts, group_size: int, dtype: torch.dtype) -> ShardedTensor:
    """`parts` as one tensor that is divided among the processes as `layout` is; empty parts are left out.

    They are of `dtype`.

    Where there are groups of `group_size`, among those of the first as `layout` is among this one's.

    A value a row stands in each column of the row, so that what is held has one shape, however tables are
    sharded; being as large as the table, it stands in the host's memory. Other parts stay where they are.
    """
    parts = [(place, _in_each_column(part, place)) for place, part in parts]
    device = parts[0][1].device if parts else CPU
    metadata = ShardedTensorMetadata(
        [_placed(place, device, group_size) for place in layout.metadata().shards_metadata if _size(place)],
        layout.metadata().size,
        TensorProperties(dtype=dtype),
    )
    shards = [Shard(part, _placed(place, device, group_size)) for place, part in parts if _size(place)]
    return ShardedTensor._init_from_local_shards_and_global_metadata(shards, metadata)


def copied(held: Held) -> Held:
    """A copy of what this process holds, in the host's memory."""

    def copy(value: Tensor) -> Tensor:
        if not isinstance(value, ShardedTensor):
            return value.detach().to(CPU, copy=True)
        parts = [(place, part.detach().to(CPU, copy=True)) for place, part in parts_of(value)]
        return hold(value, parts, dist.get_world_size(), value.dtype)

    return {name: copy(value) for name, value in held.items()}


def refuse_beyond(table: str, weights: Tensor, dtype: torch.dtype) -> None:
    """A TrainingError where `dtype` has no numbers as large as the largest of `weights`."""
    largest = max((float(edge) for edge in weights.aminmax()), key=abs)
    if abs(largest) >= torch.finfo(dtype).max:
        raise TrainingError(
            f"the table {table!r} has a weight {largest:g}, and what it is to be kept in ends at "
            f"{torch.finfo(dtype).max:g}; set training.table_precision: fp32"
        )


def take_over(full: Tensor, parts: Parts) -> None:
    """Copy from `full` into `parts`, in place; a value a row is the mean of the row."""
    for place, part in parts:
        (row, column), (rows, columns) = place.shard_offsets, place.shard_sizes
        _fill(part, full[row : row + rows, column : column + columns])


def take_back(held: Tensor, parts: Parts) -> None:
    """Copy what `hold` made of `parts`, or of others of the same places, into them."""
    assert isinstance(held, ShardedTensor)
    found = {tuple(place.shard_offsets): part for place, part in parts_of(held)}
    for place, part in parts:
        if _size(place):
            _fill(part, found[tuple(place.shard_offsets)])


def gather(held: Tensor, full: Tensor | None) -> None:
    """Write what all processes hold into `full` on rank 0 (None on the others); each must call it."""
    if not isinstance(held, ShardedTensor):
        if full is not None:
            full.copy_(held.detach())
        return
    own = {tuple(place.shard_offsets): part for place, part in parts_of(held)}
    for shard in held.metadata().shards_metadata:
        assert shard.placement is not None
        owner = shard.placement.rank()
        part = own.get(tuple(shard.shard_offsets)) if owner == dist.get_rank() else None
        (row, column), (rows, columns) = shard.shard_offsets, shard.shard_sizes
        at_once = _rows_at_once(columns)
        for first in range(0, rows, at_once):
            num_rows = min(at_once, rows - first)
            piece = part[first : first + num_rows] if part is not None else None
            if owner != 0 and piece is not None:
                dist.send(piece.clone().to(collective_device()), dst=0)
            if full is None:
                continue
            if piece is None:
                piece = torch.empty(num_rows, columns, dtype=held.dtype, device=collective_device())
                dist.recv(piece, src=owner)
            place = slice(row + first, row + first + num_rows), slice(column, column + columns)
            full[place] = piece.to(full.device)


def pieces_of(part: Tensor) -> Iterator[Tensor]:
    """`part` [rows, columns], or [rows], some rows at a time: views of it."""
    return iter(part.split(_rows_at_once(part.shape[1] if part.dim() > 1 else 1)))


def _rows_at_once(columns: int) -> int:
    return max(1, PIECE // columns)


def in_full(held: Held) -> dict[str, Tensor]:
    """Every tensor whole on rank 0, in the host's memory, none elsewhere; every process must call it."""
    whole: dict[str, Tensor] = {}
    for name, value in sorted(held.items()):
        full = torch.empty(tuple(value.size())) if dist.get_rank() == 0 else None
        gather(value, full)
        if full is not None:
            whole[name] = full
    return whole


def _in_each_column(part: Tensor, place: ShardMetadata) -> Tensor:
    if part.dim() == 2:
        return part.detach()
    return part.detach().to(CPU)[:, None].repeat(1, place.shard_sizes[1])


def _fill(part: Tensor, taken: Tensor) -> None:
    # In float64 the mean of equal numbers is that number, to the last bit.
    part.copy_(taken if part.dim() == 2 else taken.double().mean(dim=1))


def _within(block: Block, place: ShardMetadata) -> ShardMetadata:
    offsets = [a + b for a, b in zip(block.offsets, place.shard_offsets, strict=True)]
    return ShardMetadata(offsets, place.shard_sizes, place.placement)


def _size(place: ShardMetadata) -> int:
    rows, columns = place.shard_sizes
    return rows * columns


def _placed(place: ShardMetadata, device: torch.device, group_size: int) -> ShardMetadata:
    """`place` with its tensor on `device` of the process that has it in the first group."""
    rank = place.placement.rank() if place.placement is not None else None
    assert rank is not None
    return ShardMetadata(place.shard_offsets, place.shard_sizes, f"rank:{rank % group_size}/{device}")


def collective_device() -> torch.device:
    """Where tensors must lie that processes exchange."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else CPU
