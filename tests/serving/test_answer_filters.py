"""What is left out of an answer, and the order of what stays."""

import numpy as np
import pytest

from leanrec.release.catalogue import Catalogue
from serving.gateway.filters import Filter, diversify


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue(
        item_ids=["", "a", "b", "c", "d"],
        titles=["unknown", "A", "B", "C", "D"],
        categories=[[], ["x"], ["x", "y"], ["y"], []],
        num_liked=np.array([99, 1, 4, 3, 2]),
        vectors=np.array([[0, 0], [1, 0], [1, 0], [0, 1], [0.6, 0.8]], np.float32),
    )


@pytest.mark.parametrize(
    ("unwanted", "stays"),
    [
        (Filter(), ["d", "c", "b", "a"]),
        (Filter(seen={4}), ["c", "b", "a"]),
        (Filter(excluded={3}, seen={4}), ["b", "a"]),
        (Filter(categories={"x"}), ["b", "a"]),
        (Filter(categories={"x", "y"}, seen={2}), ["c", "a"]),
        (Filter(categories={"z"}), []),
    ],
)
def test_what_is_hidden_or_of_other_categories_goes_and_the_rest_keeps_its_order(
    catalogue: Catalogue, unwanted: Filter, stays: list[str]
) -> None:
    items, scores = np.array([4, 3, 0, 2, 1]), np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
    scored = unwanted.scored(items, scores, catalogue)
    assert [catalogue.item_ids[item] for item, _ in scored] == stays
    assert [score for _, score in scored] == sorted((score for _, score in scored), reverse=True)
    for most in range(6):
        assert unwanted.scored(items, scores, catalogue, most) == scored[:most]


def test_popular_items_pass_the_same_filter(catalogue: Catalogue) -> None:
    assert Filter(seen={2}).popular(2, catalogue) == [(3, 3 / 99), (4, 2 / 99)]
    assert [item for item, _ in Filter(categories={"x"}).popular(5, catalogue)] == [2, 1]


def test_diversity_takes_the_unlike_before_the_alike(catalogue: Catalogue) -> None:
    scored = [(1, 1.0), (2, 0.99), (3, 0.5), (4, 0.4)]

    def order(diversity: float, k: int = 4) -> list[int]:
        return [item for item, _ in diversify(scored, k, diversity, catalogue.vectors)]

    assert order(0.0) == [1, 2, 3, 4]
    # 2 is the twin of 1 (cosine 1), 3 is at right angles: 0.5 * 0.5 - 0 beats 0.5 * 0.99 - 0.5 * 1.
    assert order(0.5) == [1, 3, 2, 4]
    assert order(0.5, k=2) == [1, 3]
    assert order(1.0, k=2) == [1, 3]
    assert sorted(order(1.0)) == [1, 2, 3, 4]
    assert diversify([], 3, 0.5, catalogue.vectors) == []


def test_diversity_follows_the_published_formula(catalogue: Catalogue) -> None:
    """Against a plain double loop over random vectors."""
    random = np.random.default_rng(3)
    vectors = random.normal(size=(30, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scored = [(item, float(score)) for item, score in enumerate(sorted(random.random(30), reverse=True))]
    best = scored[0][1]
    left, taken = dict(scored), []
    while len(taken) < 8:

        def worth(item: int) -> float:
            alike = max((float(vectors[item] @ vectors[other]) for other in taken), default=0.0)
            return 0.7 * left[item] / best - 0.3 * alike

        chosen = max(left, key=worth)
        del left[chosen]
        taken.append(chosen)
    assert [item for item, _ in diversify(scored, 8, 0.3, vectors)] == taken
