"""The ids that the scaling benchmark draws."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks import scaling_worker


@pytest.mark.parametrize("ids", ["popular", "even"])
def test_ids_lie_within_their_table(ids: str) -> None:
    torch.manual_seed(0)
    drawn = scaling_worker._ids({"ids": ids, "rows": 4}, (2000, 3))
    assert drawn.shape == (2000, 3) and drawn.unique().tolist() == [1, 2, 3]


def test_popular_ids_are_drawn_as_zipf_has_it() -> None:
    torch.manual_seed(0)
    drawn = scaling_worker._ids({"ids": "popular", "rows": 1000}, (100_000, 1))
    for number in (1, 2, 10):
        share = float((drawn == number).float().mean())
        assert share == pytest.approx(math.log((number + 1) / number) / math.log(1000), rel=0.1)
