"""DCNv2 arranged by side answers what DCNv2 answers, in every form that its layers take."""

from __future__ import annotations

import pytest
import torch
from test_recommender import SETTINGS, SPEC, make_items, make_recommender, make_users

from leanrec.config import RankerSettings
from leanrec.export.graphs import export_graph
from leanrec.models.forms.low_rank import LowRankLinear
from leanrec.models.ranking.dcn_v2 import DCNv2Ranker
from leanrec.schema import RANKER


def make_ranker(seed: int, **options: object) -> DCNv2Ranker:
    torch.manual_seed(seed)
    settings = RankerSettings(model="dcn_v2", **{"dim": 8, "hidden": (16, 8), **options})
    ranker = DCNv2Ranker(SPEC, settings, make_items()).double().eval()
    for parameter in ranker.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return ranker


def make_low_rank(ranker: DCNv2Ranker, *paths: str) -> None:
    for path in paths:
        plain = ranker.get_submodule(path)
        form = LowRankLinear(plain, ranker, rank=5).double()
        form.imitate(plain)
        ranker.set_submodule(path, form)


@torch.no_grad()
def assert_equal(ranker: DCNv2Ranker, num_users: int = 3, num_candidates: int = 7) -> None:
    users = torch.randn(num_users, ranker.user_width, dtype=torch.float64)
    items = torch.randn(num_users, num_candidates, ranker.item_width, dtype=torch.float64)
    retrieval = torch.randn(num_users, num_candidates, dtype=torch.float64)
    plain = ranker.logits(users, items, retrieval)
    by_side = ranker.split_by_side()
    assert by_side is not None
    affinity = ranker.affinity_to_many(users, items)
    torch.testing.assert_close(affinity, ranker.affinity(users, items), rtol=1e-12, atol=1e-12)
    answered = by_side(users, ranker.item_side(items, affinity, retrieval))
    torch.testing.assert_close(answered, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cross_layers", [1, 2, 3, 4])
@pytest.mark.parametrize("hidden", [(16,), (16, 8), (12, 10, 8)], ids=str)
def test_whole_layers(cross_layers, hidden):
    assert_equal(make_ranker(cross_layers, cross_layers=cross_layers, hidden=hidden))


@pytest.mark.parametrize(
    "paths",
    [
        ["cross.layers.0"],
        ["cross.layers.2"],
        ["cross.layers.0", "cross.layers.1", "cross.layers.2", "deep.0", "deep.3"],
        ["deep.0"],
    ],
    ids=" ".join,
)
def test_low_rank_layers_and_both_kinds_mixed(paths):
    ranker = make_ranker(0, cross_layers=3)
    make_low_rank(ranker, *paths)
    assert_equal(ranker)


@pytest.mark.parametrize(("num_users", "num_candidates"), [(1, 1), (1, 40), (5, 1)])
def test_any_number_of_users_and_candidates(num_users, num_candidates):
    assert_equal(make_ranker(1), num_users, num_candidates)


def test_without_a_deep_network_there_is_no_arrangement():
    assert make_ranker(0, hidden=()).split_by_side() is None


def test_a_graph_is_exported_by_side_and_the_model_is_as_it_was_afterwards():
    model = make_recommender(SETTINGS.model_copy(update={"ranker": RankerSettings(dim=8, hidden=(16, 8))}))
    names = set(model.state_dict())
    graph = export_graph(model, RANKER)
    assert any("by_side.cross.0.user_to_user" in tensor.name for tensor in graph.graph.initializer)
    assert model.ranker.by_side is None
    assert set(model.state_dict()) == names


def test_the_model_is_as_it_was_when_export_fails():
    model = make_recommender(SETTINGS)
    with pytest.raises(RuntimeError, match="in between"), model.arranged_by_side():
        model.rank(make_users(2), torch.ones(2, 3, dtype=torch.int64))
        raise RuntimeError("in between")
    assert model.ranker.by_side is None
