"""Embedding tables while they train: TorchRec's EmbeddingCollection in the place of `SparseArch`.

The planner decides which process holds which rows or columns of a table; the optimizer of the tables is fused
into the backward pass (Adagrad, Duchi et al. 2011, or one sum a row), so a step costs what its rows cost and
not the table.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed._shard.sharding_spec import ShardMetadata
from torch.nn import functional
from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor

from leanrec.models.inputs import known_index
from leanrec.models.layers import SparseArch

CPU = torch.device("cpu")


class ShardedSparseArch(nn.Module):
    """`SparseArch` with tables that DistributedModelParallel may shard; same `forward`.

    Each distinct index travels to the process that holds its row once a lookup, whatever the batch.
    """

    def __init__(self, plain: SparseArch) -> None:
        super().__init__()
        self.features = dict(plain.features)
        self.num_rows = dict(plain.num_rows)
        self.dim = plain.dim
        self.collection = EmbeddingCollection(
            tables=[
                EmbeddingConfig(
                    name=table,
                    embedding_dim=plain.dim,
                    num_embeddings=rows,
                    feature_names=[table],
                )
                for table, rows in plain.num_rows.items()
            ],
            device=torch.device("meta"),
        )

    def forward(self, indices: dict[str, Tensor]) -> dict[str, Tensor]:
        """Feature -> int64 indices of any shape [...]; answers feature -> vectors [..., dim]."""
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
        vectors = self.collection(
            KeyedJaggedTensor(
                keys=list(rows),
                values=torch.cat(list(rows.values())),
                lengths=torch.tensor([len(row) for row in rows.values()], device=device),
            )
        )
        return {
            feature: functional.embedding(
                next(places[self.features[feature]]), vectors[self.features[feature]].values()
            ).reshape(*index.shape, -1)
            for feature, index in indices.items()
        }


Parts = list[tuple[ShardMetadata, Tensor]]
"""What this process holds of a table [rows, columns], or of a value a row of it [rows], with its place."""


def parts_of(table: ShardedTensor, values: ShardedTensor | None = None) -> Parts:
    """This process's parts of `table`, or of `values` of an optimizer that go with its weights."""
    values = table if values is None else values
    shards = zip(table.local_shards(), values.local_shards(), strict=True)
    return [(weights.metadata, value.tensor) for weights, value in shards]


def copy_rows(full: Tensor, parts: Parts) -> None:
    """Copy from `full` into `parts`, in place; a value a row is the mean of the row."""
    with torch.no_grad():
        for place, part in parts:
            (row, column), (rows, columns) = place.shard_offsets, place.shard_sizes
            taken = full[row : row + rows, column : column + columns]
            # In float64 the mean of equal numbers is that number, to the last bit.
            part.copy_(taken if part.dim() == 2 else taken.double().mean(dim=1))


def gather_rows(layout: ShardedTensor, parts: Parts) -> Tensor | None:
    """The full tensor on rank 0 (in CPU memory), None elsewhere; every process must call it.

    `layout` tells which process holds what, and `parts` what this one holds. A value a row stands in each
    column of the row, so that what is gathered has one shape, however tables are sharded.
    """
    rank = dist.get_rank()
    own = {
        tuple(place.shard_offsets): part if part.dim() == 2 else part[:, None].expand(*place.shard_sizes)
        for place, part in parts
    }
    full = torch.empty(tuple(layout.size())) if rank == 0 else None
    for shard in layout.metadata().shards_metadata:
        assert shard.placement is not None
        owner = shard.placement.rank()
        part = own[tuple(shard.shard_offsets)].contiguous() if owner == rank else None
        if owner != 0 and part is not None:
            dist.send(part, dst=0)
        if full is None:
            continue
        if part is None:
            part = torch.empty(shard.shard_sizes, device=collective_device())
            dist.recv(part, src=owner)
        (row, column), (rows, columns) = shard.shard_offsets, shard.shard_sizes
        full[row : row + rows, column : column + columns] = part.cpu()
    return full


def collective_device() -> torch.device:
    """Where tensors must lie that processes exchange."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else CPU
