"""What each ranking model computes, beside the same worked out another way."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from test_recommender import SETTINGS, SPEC, make_items, make_recommender, make_users

from leanrec.config import RankerSettings
from leanrec.config.zoo import RANKERS as NAMES
from leanrec.errors import ConfigError
from leanrec.models.attention import TransformerLayer
from leanrec.models.ranking import RANKERS
from leanrec.models.ranking.din import LocalActivation
from leanrec.models.ranking.factorization_machine import PairwiseProducts
from leanrec.models.ranking.fields import Fields
from leanrec.models.ranking.history_model import HistoryModel

CANDIDATES = torch.randint(1, SPEC.num_items, (3, 5), generator=torch.Generator().manual_seed(4))


def with_ranker(name: str, **options: object):
    ranker = RankerSettings(model=name, dim=8, hidden=(16, 8), **options)
    return make_recommender(SETTINGS.model_copy(update={"ranker": ranker}))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_an_untrained_ranker_keeps_the_order_of_the_retriever(name):
    model, users = with_ranker(name), make_users(3)
    model.ranker.start_from_retrieval(2.0, temperature=0.5)
    retrieval = (model.retriever.user_vectors(users).unsqueeze(1) * model.item_vectors[CANDIDATES]).sum(2)
    heads = model.rank(users, CANDIDATES)
    torch.testing.assert_close(heads.watch, retrieval / 0.5 - 2.0)


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_of_a_ranker_gets_a_gradient(name):
    model = with_ranker(name, behaviour_sequence_transformer={"layers": 2}).train()
    features = model.ranker.item_features(CANDIDATES)
    torch.nn.init.normal_(model.ranker.over.weight)
    heads = model.ranker(model.ranker.user_features(make_users(3)), features, torch.randn(3, 5))
    (heads.score().sum() + heads.rating.square().sum()).backward()
    without = [name for name, each in model.ranker.named_parameters() if each.grad is None]
    assert not without


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_candidate_scores_the_same_whatever_stands_beside_it(name):
    model, users = with_ranker(name), make_users(3)
    together = model.rank(users, CANDIDATES)
    alone = model.rank(users, CANDIDATES[:, 2:3])
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours[:, 2:3], theirs)


@pytest.mark.parametrize("name", [name for name in NAMES if issubclass(RANKERS[name], HistoryModel)])
@torch.no_grad()
def test_the_history_s_padding_says_nothing_and_its_order_does(name):
    model, users = with_ranker(name, behaviour_sequence_transformer={"layers": 2}), make_users(3)
    torch.nn.init.normal_(model.ranker.event_vectors.age)
    history = torch.tensor([[1, 2, 3, 0, 0, 0]] * 3)
    users = users._replace(history=history, history_ratings=torch.full_like(users.history_ratings, 5.0))
    first = model.rank(users, CANDIDATES).rating
    noise = users.history_ratings + 7 * (history == 0)
    torch.testing.assert_close(model.rank(users._replace(history_ratings=noise), CANDIDATES).rating, first)
    model.ranker.pooling.recency.zero_()  # the pooled history now takes no account of the order
    before = model.rank(users, CANDIDATES).rating
    turned = users._replace(history=torch.tensor([[3, 2, 1, 0, 0, 0]] * 3))
    assert (model.rank(turned, CANDIDATES).rating - before).abs().max() > 1e-4


@torch.no_grad()
def test_the_products_of_all_pairs_are_those_of_a_double_loop():
    products = PairwiseProducts(num_numbers=2, dim=4)
    vectors, numbers = torch.randn(3, 4), torch.randn(2)
    every = [*vectors, *(number * vector for number, vector in zip(numbers, products.of_number, strict=True))]
    expected = sum(one * other for one, other in combinations(every, 2))
    torch.testing.assert_close(products(vectors, numbers), expected)


@torch.no_grad()
def test_local_activation_is_one_network_over_event_candidate_and_product():
    layer = LocalActivation(dim=4, hidden=5)
    candidates, events = torch.randn(2, 3, 4), torch.randn(2, 6, 4)
    present = torch.tensor([[True] * 4 + [False] * 2, [False] * 6])
    first = torch.cat([layer.event.weight, layer.candidate.weight, layer.product.weight], dim=1)
    answered = layer(candidates, events, present)
    for b, c in ((0, 0), (0, 2), (1, 1)):
        expected = torch.zeros(4)
        for h in range(6):
            row = torch.cat([events[b, h], candidates[b, c], events[b, h] * candidates[b, c]])
            weight = layer.weight(layer.activation(first @ row + layer.event.bias))
            expected += weight * events[b, h] * present[b, h]
        torch.testing.assert_close(answered[b, c], expected)


@torch.no_grad()
def test_a_transformer_layer_answers_as_torch_s_own():
    ours, theirs = (
        TransformerLayer(8, 2, 0.0).eval(),
        torch.nn.TransformerEncoderLayer(
            8, 2, 32, 0.0, torch.nn.functional.leaky_relu, batch_first=True
        ).eval(),
    )
    attention = theirs.self_attn
    attention.in_proj_weight.copy_(torch.cat([part.weight for part in (ours.query, ours.key, ours.value)]))
    attention.in_proj_bias.copy_(torch.cat([part.bias for part in (ours.query, ours.key, ours.value)]))
    attention.out_proj.load_state_dict(ours.out.state_dict())
    theirs.linear1.load_state_dict(ours.feed_forward[0].state_dict())
    theirs.linear2.load_state_dict(ours.feed_forward[2].state_dict())
    tokens = torch.randn(3, 6, 8)
    own = torch.eye(6, dtype=torch.bool).expand(3, 6, 6)
    torch.testing.assert_close(ours(tokens, tokens, own), theirs(tokens), atol=1e-5, rtol=1e-4)
    target, history = tokens[:, 5:], tokens[:, :5]  # the last sees all, and is seen by none
    nothing = torch.zeros(3, 1, 5, dtype=torch.bool)
    torch.testing.assert_close(ours(target, history, nothing), theirs(tokens)[:, 5:], atol=1e-5, rtol=1e-4)


def test_fields_lie_side_by_side():
    fields = Fields({"a": 2, "b": 2, "c": 3})
    row = torch.arange(14).reshape(2, 7)
    assert fields.width == 7
    assert fields.view(row, "c").tolist() == [[4, 5, 6], [11, 12, 13]]
    assert fields.stack(row, ["b", "a"]).tolist() == [[[2, 3], [0, 1]], [[9, 10], [7, 8]]]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model": "deepfm"}, "did you mean 'deep_fm'"),
        ({"model": "behaviour_sequence_transformer", "dim": 10}, "make dim a multiple of heads"),
        ({"task": "stars"}, "task"),
        ({"din": {"hidden": 3}}, "hidden"),
    ],
)
def test_a_ranker_that_cannot_be_is_refused_in_one_sentence(options, told):
    with pytest.raises(ConfigError, match=told):
        RankerSettings.parse(options)


def test_the_names_that_settings_know_are_the_models_that_there_are():
    assert set(NAMES) == set(RANKERS) and make_items().statistics.shape[0] == SPEC.num_items
