"""Negative sampling: what is drawn, how often, and what the log-Q correction makes of it."""

from __future__ import annotations

import pytest
import torch
from training_world import SMALL, write_world

from leanrec.config import RetrieverSettings
from leanrec.errors import TrainingError
from leanrec.files import read_json
from leanrec.models.inputs import read_item_inputs
from leanrec.models.retrieval.two_tower import TwoTower
from leanrec.schema import ModelSpec
from leanrec.training.examples import popularity_of, read_examples
from leanrec.training.fitting import temperature_of
from leanrec.training.negatives import NegativeSampler, hardest, mask_known
from leanrec.training.objectives import RetrieverObjective

POPULARITY = torch.tensor([5.0, 1.0, 2.0, 4.0, 8.0, 16.0])
PROBABILITY = {
    "uniform": torch.full((5,), 0.2),
    "popularity": POPULARITY[1:] / 31,
    "in_batch": POPULARITY[1:] / 31,
}


def sampled(**values) -> RetrieverSettings:
    return RetrieverSettings(full_softmax_items=0, **values)


def draw(settings: RetrieverSettings, generator: torch.Generator, size: int = 20):
    """One draw; the batch's own items come by their popularity, as events do."""
    batch = torch.multinomial(PROBABILITY["popularity"], size, replacement=True, generator=generator) + 1
    return NegativeSampler(settings, 6, POPULARITY).draw(batch, generator)


@pytest.mark.parametrize("kind", ["uniform", "popularity", "in_batch"])
def test_items_are_drawn_as_often_as_asked_and_the_correction_makes_each_count_once(kind):
    generator = torch.Generator().manual_seed(1)
    share, corrected, rounds = torch.zeros(6), torch.zeros(6), 3000
    for _ in range(rounds):
        negatives = draw(sampled(negatives=kind, softmax_negatives=20), generator)
        assert (negatives.item_index.diff() > 0).all() and negatives.item_index[0] > 0
        share[negatives.item_index] += negatives.share / rounds
        corrected[negatives.item_index] += negatives.correction.exp() / rounds
    assert torch.allclose(share[1:], PROBABILITY[kind], atol=0.01)
    assert torch.allclose(corrected[1:], torch.ones(5), atol=0.1)


def test_popular_negatives_without_popularity_are_refused():
    sampler = NegativeSampler(sampled(negatives="popularity"), 6)
    with pytest.raises(TrainingError, match="none was given; set"):
        sampler.draw(torch.tensor([1]), torch.Generator())


def test_the_hardest_are_the_best_scores_and_share_alike():
    best, share = hardest(torch.tensor([[0.5, -30_000.0, 2.0, 1.0]]), 2)
    assert best.tolist() == [[2.0, 1.0]] and share.tolist() == [[0.5, 0.5]]
    assert hardest(torch.zeros(1, 3), 9)[1].tolist() == [[pytest.approx(1 / 3)] * 3]


def test_what_an_event_knows_is_masked_and_nothing_else():
    items, known = torch.tensor([2, 5, 7]), torch.tensor([[5, 0, 9], [2, 7, 0]])
    scores = torch.arange(6.0).reshape(2, 3)
    assert mask_known(scores, items, known, -1.0).tolist() == [[0, -1, 2], [-1, 4, -1]]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    features, training_set = write_world(tmp_path_factory.mktemp("negatives"))
    spec = ModelSpec(**read_json(features / "spec.json"), top_k=5)
    torch.manual_seed(1)
    retriever = TwoTower(spec, SMALL.retriever, read_item_inputs(features / "items.parquet")).eval()
    return retriever, read_examples(training_set, "train", spec)


def loss_of(world, settings: RetrieverSettings, events: slice, seed: int = 1) -> float:
    retriever, train = world
    objective = RetrieverObjective(retriever, settings, popularity_of(train, retriever.spec.num_items))
    batch = train.take(torch.arange(len(train))[events])
    with torch.no_grad():
        return float(objective(batch, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("kind", ["uniform", "popularity"])
def test_the_corrected_softmax_comes_near_the_exact_one_as_more_is_drawn(world, kind):
    exact = loss_of(world, SMALL.retriever, slice(200, 300))
    errors = []
    for size in (16, 20_000):
        settings = SMALL.retriever.model_copy(
            update={"negatives": kind, "full_softmax_items": 0, "softmax_negatives": size}
        )
        losses = [loss_of(world, settings, slice(200, 300), seed) for seed in range(8)]
        errors.append(max(abs(loss - exact) for loss in losses))
    assert errors[1] < 0.02 < errors[0]


def test_the_corrected_softmax_over_a_batch_of_all_events_is_the_exact_one(world):
    settings = SMALL.retriever.model_copy(update={"negatives": "in_batch", "full_softmax_items": 0})
    everything = slice(None)
    assert loss_of(world, settings, everything) == pytest.approx(loss_of(world, SMALL.retriever, everything))


@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_hard_negatives_cost_more_than_uniform_ones(world, loss):
    common = {"loss": loss, "full_softmax_items": 0, "num_negatives": 3, "softmax_negatives": 500}
    hard = SMALL.retriever.model_copy(update={**common, "negatives": "hard"})
    easy = SMALL.retriever.model_copy(update={**common, "softmax_negatives": 3})
    assert loss_of(world, hard, slice(200, 300)) > loss_of(world, easy, slice(200, 300))


def test_as_many_hard_negatives_as_there_are_items_make_the_softmax_exact(world):
    values = {"negatives": "hard", "full_softmax_items": 0, "num_negatives": 4000}
    settings = SMALL.retriever.model_copy(update=values)
    events = slice(200, 300)
    assert loss_of(world, settings, events) == pytest.approx(loss_of(world, SMALL.retriever, events))


def test_a_loss_that_learns_an_order_only_gets_the_temperature_that_makes_events_likeliest(world):
    retriever, train = world
    probe = train.take(torch.arange(200, 400))
    order = SMALL.retriever.model_copy(update={"loss": "bpr", "temperature": 3.0})
    assert temperature_of(retriever, SMALL.retriever, probe) == SMALL.retriever.temperature

    def surprise(temperature: float) -> float:
        settings = SMALL.retriever.model_copy(update={"temperature": temperature, "disliked_weight": 1.0})
        return loss_of(world, settings, slice(200, 400))

    best = temperature_of(retriever, order, probe)
    assert surprise(best) <= min(surprise(best * 1.3), surprise(best / 1.3), surprise(3.0))
