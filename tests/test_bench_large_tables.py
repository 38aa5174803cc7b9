"""What the benchmark of large tables counts, and one run of it with small ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import large_tables
from benchmarks.large_tables_worker import (
    DLRM,
    bytes_moved,
    draw,
    products,
    rows_of,
    seconds_of_parts,
)
from benchmarks.scaling_worker import ClickObjective
from leanrec.errors import HostError

TINY = {
    **large_tables.SETTINGS,
    **large_tables.ON_CPU,
    **{"device": "cpu", "precision": "fp32", "table_gib": 26 * 50 * 16 * 4 / 2**30},
    **{"dim": 16, "bottom": [32], "over": [24, 8], "batch_size": 64, "square": 64, "copied_mib": 1},
    **{"warm_up_steps": 1, "steps": 2, "traced_steps": 2},
}


def test_the_products_of_a_step_are_those_that_torch_counts() -> None:
    objective = ClickObjective(DLRM(TINY))
    assert set(objective.model.sparse.num_rows.values()) == {rows_of(TINY)} == {50}
    with FlopCounterMode(display=False) as counted:
        objective(*draw(TINY)).backward()
    assert counted.get_total_flops() == products(TINY)


def test_a_batch_has_an_id_of_each_table_and_popular_ones_often() -> None:
    torch.manual_seed(1)
    indices, numbers, clicked = draw({**TINY, "batch_size": 2000})
    assert len(indices) == 26 and numbers.shape == (2000, 13) and set(clicked.tolist()) == {0.0, 1.0}
    ids = torch.stack(list(indices.values()))
    assert int(ids.min()) == 1 and int(ids.max()) == 49
    assert float((ids == 1).float().mean()) == pytest.approx(0.177, abs=0.01)  # log 2 / log 50


@pytest.mark.parametrize(("device", "seconds"), [("cpu", 0.001), ("cuda", 0.002)])
def test_of_the_profiler_s_events_operators_count_and_their_kernels_do_not_again(
    device: str, seconds: float
) -> None:
    def event(name: str, kind: torch.autograd.DeviceType = torch.autograd.DeviceType.CPU) -> SimpleNamespace:
        return SimpleNamespace(
            key=name, device_type=kind, self_cpu_time_total=1000, self_device_time_total=2000
        )

    events = [
        *map(event, ("aten::mm", "aten::addmm", "aten::add", "aten::mul", "fbgemm::permute_2D_sparse_data")),
        *map(
            event, ("fbgemm::split_embedding_nobag_backward", "SplitNoBagLookupFunction_rowwise_adagrad_Op")
        ),
        *map(event, ("aten::_unique2", "aten::embedding_dense_backward", "aten::index_select")),
        event("sm90_xmma_gemm", torch.autograd.DeviceType.CUDA),
        event("split_embedding_backward_kernel", torch.autograd.DeviceType.CUDA),
    ]
    found = seconds_of_parts(events, device)
    assert found == pytest.approx(
        {"products": 2 * seconds, "lookups": 2 * seconds, "rows_to_samples": 3 * seconds}
    )


@pytest.mark.integration
def test_a_run_tells_speeds_and_shares_of_what_the_machine_does() -> None:
    found = large_tables._train(TINY)
    assert found["samples_per_s"] > 0 and 0 <= found["waiting_for_data"] < 1
    assert found["table_bytes"] == 26 * 50 * 16 * 4 and 26 < found["distinct_rows_a_step"] <= 26 * 49
    moved = bytes_moved(TINY, found["distinct_rows_a_step"])
    assert found["lookups_bytes_per_s"] == pytest.approx(moved / found["lookups_s_a_step"])
    assert found["share_of_memory"] == pytest.approx(
        found["lookups_bytes_per_s"] / found["device_bytes_per_s"]
    )
    assert found["rows_to_samples_s_a_step"] > 0
    assert found["products_per_s"] == pytest.approx(products(TINY) / found["products_s_a_step"])
    assert found["share_of_arithmetic"] == pytest.approx(
        found["products_per_s"] / found["device_products_per_s"]
    )


@pytest.mark.integration
def test_a_run_that_fails_says_why() -> None:
    with pytest.raises(HostError, match=r"a DLRM in fp32 ended with status 1: .*Error: "):
        large_tables._train({**TINY, "over": "none"})
