"""Losses, candidates and figures against results worked out another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score, roc_auc_score
from training_world import SMALL, write_world

from leanrec.config import RetrieverSettings
from leanrec.files import read_json
from leanrec.models.inputs import read_item_inputs
from leanrec.models.recommender import Recommender
from leanrec.schema import ModelSpec
from leanrec.training.candidates import CandidateSampler
from leanrec.training.examples import read_examples
from leanrec.training.objectives import RankerObjective, RetrieverObjective
from leanrec.training.validation import Holdout, area_under_curve, ndcg


@pytest.fixture
def world(tmp_path):
    features, training_set = write_world(tmp_path)
    spec = ModelSpec(**read_json(features / "spec.json"), top_k=5)
    torch.manual_seed(1)
    recommender = Recommender(spec, SMALL, read_item_inputs(features / "items.parquet")).eval()
    return recommender, *(read_examples(training_set, split, spec) for split in ("train", "valid"))


def test_the_retriever_loss_is_the_cross_entropy_over_items_not_seen(world):
    recommender, train, _ = world
    batch = train.take(torch.arange(200, 232))
    settings = SMALL.retriever.model_copy(update={"disliked_weight": 1.0})
    loss = RetrieverObjective(recommender.retriever, settings)(batch, torch.Generator())
    scores = recommender.retriever.user_vectors(batch.user) @ recommender.retriever.item_vectors().T
    expected = []
    for i in range(len(batch)):
        seen = set(batch.user.history[i].tolist()) | {0}
        allowed = [item for item in range(scores.shape[1]) if item not in seen]
        expected.append(torch.logsumexp(scores[i, allowed], 0) - scores[i, batch.item_index[i]])
    assert float(loss) == pytest.approx(float(torch.stack(expected).mean()), rel=1e-4)


def test_the_sampled_softmax_comes_near_the_exact_one(world):
    recommender, train, _ = world
    batch = train.take(torch.arange(40))  # first events: nothing seen yet, so both exclude the same
    exact = RetrieverObjective(recommender.retriever, SMALL.retriever)(batch, torch.Generator())
    settings = RetrieverSettings(dim=8, hidden=(16,), full_softmax_items=1, softmax_negatives=50_000)
    draw = torch.Generator().manual_seed(1)
    sampled = RetrieverObjective(recommender.retriever, settings)(batch, draw)
    assert float(sampled) == pytest.approx(float(exact), abs=0.02)


def test_candidates_start_with_the_item_taken_up_and_no_negative_that_counts_was_seen(world):
    recommender, train, _ = world
    batch = train.take(torch.arange(300, 364))
    sampler = CandidateSampler(recommender.retriever, SMALL.ranker, recommender.num_candidates)
    drawn = sampler.draw(batch, torch.Generator().manual_seed(1))
    assert torch.equal(drawn.item_index[:, 0], batch.item_index)
    assert (drawn.weight[:, 0] == 1).all()
    for items, weight, history, own in zip(
        drawn.item_index, drawn.weight, batch.user.history, batch.item_index, strict=True
    ):
        forbidden = {*history.tolist(), int(own)}
        assert not set(items[1:][weight[1:] > 0].tolist()) & (forbidden - {0})
    assert (drawn.weight[:, 1:] > 0).float().mean() > 0.5


def test_a_ranker_that_knows_nothing_keeps_the_order_of_the_retriever(world):
    recommender, _train, valid = world
    recommender.ranker.start_from_retrieval(3.0)
    sampler = CandidateSampler(recommender.retriever, SMALL.ranker, recommender.num_candidates)
    candidates = sampler.draw(valid.take(torch.arange(20)), torch.Generator().manual_seed(1))
    heads = RankerObjective(recommender.ranker, SMALL.ranker).heads(valid.take(torch.arange(20)), candidates)
    assert torch.allclose(heads.watch, candidates.retrieval_score - 3.0, atol=1e-5)


def test_ndcg_and_auc_agree_with_scikit_learn():
    draw = np.random.default_rng(1)
    scores, relevance = draw.random((20, 30)), draw.random((20, 30)) < 0.2
    relevance[:, 0] = False  # index 0 pads
    relevance[:, 1] = True
    order = np.argsort(-np.where(np.arange(30) == 0, -1, scores), axis=1)[:, :10]
    width = relevance.sum(axis=1).max()
    liked = np.stack([np.pad(np.flatnonzero(row), (0, width - row.sum())) for row in relevance])
    ours = ndcg(torch.from_numpy(order), torch.from_numpy(liked))
    assert ours == pytest.approx(ndcg_score(relevance[:, 1:], scores[:, 1:], k=10))
    label, value = draw.integers(0, 2, 200), draw.integers(0, 20, 200)
    assert area_under_curve(torch.tensor(value), torch.tensor(label)) == pytest.approx(
        roc_auc_score(label, value)
    )


def test_the_holdout_asks_for_liked_items_of_users_as_they_were_before(world):
    recommender, train, valid = world
    holdout = Holdout(train, valid, recommender.spec)
    for user, seen, liked in zip(holdout.user.user_index[:, 0], holdout.seen, holdout.liked, strict=True):
        own = valid.user.user_index[:, 0] == user
        assert set(liked.tolist()) - {0} == set(valid.item_index[own & (valid.liked > 0)].tolist())
        assert set(seen.tolist()) == set(train.item_index[train.user.user_index[:, 0] == user].tolist())
    assert 0 <= holdout.retrieval_ndcg(recommender.retriever) <= 1
    assert set(holdout.chain_figures(recommender)) == {"ndcg", "auc", "rmse"}
