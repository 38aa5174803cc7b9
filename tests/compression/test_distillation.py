"""Several teachers: what an ensemble tells is between its members, and the student hears all of them."""

from __future__ import annotations

import copy

import pytest
import torch

from leanrec.compression.distillation import Teacher
from leanrec.compression.recipes import change_model
from leanrec.compression.source import CompressionSource
from leanrec.config.recipes import Recipe
from leanrec.models.recommender import Recommender, save_model
from leanrec.training.examples import popularity_of
from leanrec.training.objectives import RetrieverObjective

HIGHER = 3.0
"""Stars by which the second teacher thinks better of everything."""


@pytest.fixture(scope="module")
def source(tiny_export):
    return CompressionSource(**tiny_export._asdict())


@pytest.fixture(scope="module")
def generous(source) -> Recommender:
    """The trained model, but for higher ratings and other user vectors."""
    other = copy.deepcopy(source.recommender)
    with torch.no_grad():
        other.ranker.over.bias[2] += HIGHER
        other.retriever.user_out.weight.mul_(-3)
    return other


def test_an_ensemble_tells_the_mean_of_its_members(source, generous):
    batch = source.sample(16)
    candidates = torch.arange(1, 13).expand(16, 12)
    one, other = (Teacher([model]).heads(batch, candidates)[0] for model in (source.recommender, generous))
    both, _ = Teacher([source.recommender, generous]).heads(batch, candidates)
    assert (other.rating - one.rating).mean() == pytest.approx(HIGHER, rel=0.1)
    for told, first, second in zip(both, one, other, strict=True):
        torch.testing.assert_close(told, (first + second) / 2)


def test_an_ensemble_tells_probabilities_and_neither_members_alone(source, generous):
    batch, model = source.sample(16), source.recommender
    popularity = popularity_of(source.examples, model.spec.num_items)
    objective = RetrieverObjective(model.retriever, model.settings.retriever, popularity)
    negatives = objective.negatives(batch, torch.Generator().manual_seed(0))
    one, other, both = (
        Teacher(members).retrieval(batch, negatives) for members in ([model], [generous], [model, generous])
    )
    torch.testing.assert_close(both.exp().sum(dim=1), torch.ones(16))
    apart = (one - other).abs().max()
    assert apart > 0.1
    assert (both - one).abs().max() > apart / 10 and (both - other).abs().max() > apart / 10
    torch.testing.assert_close(Teacher([model, model]).retrieval(batch, negatives), one)


def test_a_second_teacher_of_the_recipe_changes_what_the_student_answers(source, generous, tmp_path):
    save_model(generous, tmp_path / "second")
    lesson = {"teacher_weight": 1.0, "rate": 10.0, "retriever_epochs": 10, "ranker_epochs": 20}

    def student(**own) -> Recommender:
        return change_model(
            Recipe.parse({"name": "taught", "steps": [{"distil": {**lesson, **own}}]}), source
        )

    alone, taught = student(), student(teachers=(str(tmp_path / "second"),))
    batch, candidates = source.sample(64), torch.arange(1, 31).expand(64, 30)
    with torch.no_grad():
        told = [model.rank(batch.user, candidates).rating.mean() for model in (alone, taught)]
    assert told[1] - told[0] == pytest.approx(HIGHER / 2, rel=0.2)
    assert not torch.equal(alone.item_vectors, taught.item_vectors)  # its retriever was taught by both, too
