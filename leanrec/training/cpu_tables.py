"""Lookups on a CPU by fbgemm's kernel for bags, of one index each.

Its kernel for lookups that are not pooled adds gradients up in a hash map of hash maps, a vector each; the
one for sums over bags sorts, and takes about a fifth of the time. All tables of a group lie one after another
in one piece of memory, so they are looked up as one table, each index moved by the rows before its own. On a
GPU nothing is changed.
"""

from __future__ import annotations

from functools import partial
from itertools import accumulate

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen as Tables,
)
from torch import Tensor, nn
from torchrec.distributed.batched_embedding_kernel import BatchedFusedEmbedding
from torchrec.distributed.embedding import ShardedEmbeddingCollection


def look_up_as_bags(model: nn.Module) -> None:
    """Let the tables of `model` that this process holds on a CPU be looked up so; weights stay in place."""
    collections = (module for module in model.modules() if isinstance(module, ShardedEmbeddingCollection))
    lookups = (lookup for sharded in collections for lookup in sharded._lookups)
    for kernel in (module for lookup in lookups for module in lookup.modules()):
        # Tables on a GPU have no weights on the host, and a part of a table may have no rows.
        if isinstance(kernel, BatchedFusedEmbedding) and kernel.emb_module.weights_host.numel():
            look_up_as_one(kernel.emb_module)


def look_up_as_one(tables: Tables) -> None:
    """Let `tables`, of one width and on a CPU, be looked up as one; see `look_up_as_bags`."""
    looked_up = partial(_look_up, _as_one(tables), _rows_before(tables))
    tables.forward = looked_up


def _as_one(tables: Tables) -> Tables:
    """One table of all rows of `tables`, whose sums are taken over bags, in the memory of `tables`."""
    rows = sum(spec[0] for spec in tables.embedding_specs)
    (dim,) = {spec[1] for spec in tables.embedding_specs}
    one = Tables(
        [(rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        weights_precision=tables.weights_precision,
        optimizer=tables.optimizer,
        eps=tables.optimizer_args.eps,
        pooling_mode=PoolingMode.SUM,
        device=torch.device("cpu"),
    )
    one.weights_host, one.momentum1_host = tables.weights_host, tables.momentum1_host
    one.learning_rate_tensor = tables.learning_rate_tensor
    return one


def _rows_before(tables: Tables) -> Tensor:
    """Of each feature, the rows of the tables before its own."""
    before = [0, *accumulate(spec[0] for spec in tables.embedding_specs)]
    return torch.tensor([before[table] for table in tables.feature_table_map])


def _look_up(one: Tables, rows_before: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
    """Vectors [N, dim] of N indices, feature by feature and, within each, bag by bag as `offsets` say."""
    a_feature = (len(offsets) - 1) // len(rows_before)
    counts = offsets[::a_feature].diff()
    moved = indices + torch.repeat_interleave(rows_before, counts, output_size=len(indices))
    return one(moved, torch.arange(len(moved) + 1))
