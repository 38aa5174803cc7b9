"""What each task of the ranker teaches and leaves alone, and the order that follows from it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from training_world import SMALL, write_world

from leanrec.files import read_json
from leanrec.models.inputs import read_item_inputs
from leanrec.models.recommender import Recommender, load_model, save_model
from leanrec.schema import ModelSpec
from leanrec.training.candidates import CandidateSampler
from leanrec.training.examples import Examples, read_examples
from leanrec.training.objectives import RankerObjective


@pytest.fixture
def world(tmp_path):
    features, training_set = write_world(tmp_path)
    spec = ModelSpec(**read_json(features / "spec.json"), top_k=5)
    items = read_item_inputs(features / "items.parquet")
    batch = read_examples(training_set, "train", spec).take(torch.arange(200, 264))

    def make(task: str):
        torch.manual_seed(1)
        settings = SMALL.model_copy(update={"ranker": SMALL.ranker.model_copy(update={"task": task})})
        recommender = Recommender(spec, settings, items).eval()
        sampler = CandidateSampler(recommender.retriever, settings.ranker, recommender.num_candidates)
        candidates = sampler.draw(batch, torch.Generator().manual_seed(1))
        return recommender, RankerObjective(recommender.ranker, settings.ranker), batch, candidates

    return make


def gradients(objective, loss) -> dict[str, torch.Tensor]:
    loss.backward()
    return {name: value.grad for name, value in objective.model.named_parameters() if value.grad is not None}


def test_rating_is_taught_by_the_squared_error_alone_and_orders_the_list(world):
    recommender, objective, batch, candidates = world("rating")
    learnt = gradients(objective, objective(batch, candidates))
    objective.zero_grad()
    rating = objective.heads(batch, candidates).rating[:, 0]
    weight = objective.settings.rating_weight
    alone = gradients(objective, weight * functional.mse_loss(rating, batch.rating))
    assert set(learnt) - set(alone) == {"task.log_slope", "task.offset"}
    for name, value in alone.items():
        torch.testing.assert_close(learnt[name], value)
    with torch.no_grad():
        heads = recommender.freeze_items().rank(batch.user, candidates.item_index)
    assert torch.equal(heads.score().argsort(dim=1), heads.rating.argsort(dim=1))


def test_click_is_taught_no_rating(world):
    _, objective, batch, candidates = world("click")
    learnt = gradients(objective, objective(batch, candidates))
    objective.zero_grad()
    other = Examples(batch.user, batch.item_index, torch.ones_like(batch.rating), batch.liked)
    again = gradients(objective, objective(other, candidates))
    moved = {name for name, value in learnt.items() if not torch.equal(value, again[name])}
    assert moved == {"task.slope", "task.offset"}


def test_multi_task_is_the_sum_of_three_losses(world):
    _, objective, batch, candidates = world("multi_task")
    heads, settings = objective.heads(batch, candidates), objective.settings
    like = functional.binary_cross_entropy_with_logits(heads.like[:, 0], batch.liked)
    rating = functional.mse_loss(heads.rating[:, 0], batch.rating)
    watch = objective.watch_loss(heads, batch, candidates)
    expected = settings.watch_weight * watch + like + settings.rating_weight * rating
    torch.testing.assert_close(objective(batch, candidates), expected)
    assert not list(objective.model.task.parameters())


@pytest.mark.parametrize("task", ["click", "rating"])
def test_what_follows_from_a_head_is_fitted_to_what_people_did(world, task, tmp_path):
    recommender, objective, batch, candidates = world(task)
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        objective(batch, candidates).backward()
        optimizer.step()
    with torch.no_grad():
        heads = objective.heads(batch, candidates)
    error = functional.mse_loss(heads.rating[:, 0], batch.rating)
    assert error < 0.5 * batch.rating.var()
    like = torch.sigmoid(heads.like[:, 0])
    assert float(like.mean()) == pytest.approx(float(batch.liked.mean()), abs=0.1)
    assert like[batch.liked > 0].mean() > 0.7 > 0.3 > like[batch.liked == 0].mean()
    save_model(recommender.freeze_items(), tmp_path / "model")
    again = load_model(tmp_path / "model").rank(batch.user, candidates.item_index)
    torch.testing.assert_close(again.score(), recommender.rank(batch.user, candidates.item_index).score())


def test_the_epoch_that_is_kept_is_the_best_at_the_task(world):
    good_lists, good_ratings = {"ndcg": 0.3, "auc": 0.5, "rmse": 1.2}, {"ndcg": 0.1, "auc": 0.5, "rmse": 0.9}
    for task, better, worse in (
        ("multi_task", good_lists, good_ratings),
        ("click", good_lists, good_ratings),
        ("rating", good_ratings, good_lists),
    ):
        merit = world(task)[0].ranker.task.merit
        assert merit(better) > merit(worse)
