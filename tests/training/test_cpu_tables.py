"""Tables on a CPU learn by the kernel for bags what they learn by the one for lookups not pooled."""

from __future__ import annotations

import copy

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen as Tables,
)
from torch.profiler import ProfilerActivity, profile

from leanrec.training.cpu_tables import look_up_as_one

ROWS, DIM, BAGS = (7, 40, 3), 8, 2
"""Two processes ask for rows of three tables."""
COUNTS = (5, 0, 30, 12, 0, 4)
"""Of each table and process."""


def tables_of(optimizer: EmbOptimType) -> Tables:
    tables = Tables(
        [(rows, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU) for rows in ROWS],
        optimizer=optimizer,
        learning_rate=0.1,
        eps=1e-8,
        pooling_mode=PoolingMode.NONE,
    )
    tables.weights_host.data.normal_(generator=torch.Generator().manual_seed(1))
    return tables


def learn(tables: Tables) -> set[str]:
    """Three steps, the last at another rate; the names of what ran."""
    draw = torch.Generator().manual_seed(2)
    offsets = torch.tensor([0, *COUNTS]).cumsum(0)
    with profile(activities=[ProfilerActivity.CPU]) as ran:
        for step in range(3):
            tables.set_learning_rate(0.1 if step < 2 else 0.01)
            parts = [
                torch.randint(ROWS[i // BAGS], (count,), generator=draw) for i, count in enumerate(COUNTS)
            ]
            vectors = tables(torch.cat(parts), offsets)
            vectors.backward(torch.randn(vectors.shape, generator=draw))
    return {event.key for event in ran.key_averages()}


@pytest.mark.parametrize("optimizer", [EmbOptimType.EXACT_ADAGRAD, EmbOptimType.EXACT_ROWWISE_ADAGRAD])
def test_weights_and_sums_are_the_same_by_either_kernel(optimizer: EmbOptimType) -> None:
    theirs, ours = tables_of(optimizer), tables_of(optimizer)
    before = copy.deepcopy(ours.weights_host.data)
    look_up_as_one(ours)
    assert any("nobag" in name for name in learn(theirs))
    assert not any("nobag" in name for name in learn(ours))
    assert float((ours.weights_host.data - before).abs().max()) > 0.05
    torch.testing.assert_close(ours.weights_host.data, theirs.weights_host.data, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.momentum1_host.data, theirs.momentum1_host.data, rtol=1e-4, atol=1e-5)


def test_tables_answer_the_rows_that_are_asked_for() -> None:
    tables = tables_of(EmbOptimType.EXACT_ADAGRAD)
    weights = [part.view(-1, DIM) for part in tables.weights_host.data.split([rows * DIM for rows in ROWS])]
    look_up_as_one(tables)
    # Table by table, and of each the first process's before the second's.
    vectors = tables(torch.tensor([3, 6, 39, 0, 2]), torch.tensor([0, 1, 2, 2, 3, 4, 5]))
    expected = [weights[0][3], weights[0][6], weights[1][39], weights[2][0], weights[2][2]]
    assert torch.equal(vectors, torch.stack(expected))
