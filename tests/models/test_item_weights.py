"""Retrievers of items x items: what they hold is what their formulas say, written here the plain way."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from leanrec.config import RetrieverSettings
from leanrec.errors import TrainingError
from leanrec.models.inputs import blank_items
from leanrec.models.retrieval import RETRIEVERS, gram
from leanrec.schema import ModelSpec

NUM_USERS, NUM_ITEMS = 50, 150


def interactions(num_users: int = NUM_USERS, share: float = 0.2) -> sp.csr_matrix:
    """Liked (1) and disliked (0.3) events; row, column 0 and the last item have none."""
    draw = np.random.default_rng(1)
    dense = draw.choice([1.0, 0.3], (num_users, NUM_ITEMS)) * (draw.random((num_users, NUM_ITEMS)) < share)
    dense[0], dense[:, 0], dense[:, -1] = 0.0, 0.0, 0.0
    return sp.csr_matrix(dense.astype(np.float32))


def fitted(model: str, events: sp.csr_matrix, **options: object) -> torch.Tensor:
    spec = ModelSpec(
        num_users=events.shape[0],
        num_items=events.shape[1],
        num_categories=1,
        attribute_cardinalities={},
        history_length=5,
        top_k=1,
        liked_threshold=1.0,
    )
    settings = RetrieverSettings(model=model, **options)
    retriever = RETRIEVERS[model](spec, settings, blank_items(spec.num_items, 1))
    retriever.fit(events)
    return retriever.item_table


@pytest.mark.parametrize("gain", [0, 1e9], ids=["sparse", "dense"])
def test_both_ways_to_the_gram_matrix_are_one(monkeypatch, gain):
    monkeypatch.setattr(gram, "DENSE_GAIN", gain)
    monkeypatch.setattr(gram, "DENSE_NUMBERS", 7 * NUM_ITEMS)  # parts of seven users
    events = interactions()
    dense = events.toarray().astype(np.float64)
    assert gram.gram_of(events) == pytest.approx(dense.T @ dense, abs=1e-5)


def by_definition(kind: str, dense: np.ndarray) -> np.ndarray:
    if kind == "euclidean":
        found = 1 / (1 + np.linalg.norm(dense[:, :, None] - dense[:, None], axis=0))
    else:
        moved = dense - dense.mean(axis=0) if kind == "pearson" else dense
        lengths = np.linalg.norm(moved, axis=0)
        found = moved.T @ moved / np.maximum(np.outer(lengths, lengths), 1e-9)
    met = dense.any(axis=0)
    found = np.where(np.outer(met, met), found, 0.0)
    np.fill_diagonal(found, 0.0)
    return found


@pytest.mark.parametrize("kind", ["cosine", "pearson", "euclidean"])
def test_item_neighbours_hold_the_nearest_by_definition(kind):
    """Distances come out of products, so of two that are alike in the sixth place either may be kept."""
    count, events = 10, interactions()
    table = fitted("item_neighbours", events, neighbours={"similarity": kind, "count": count}).numpy()
    wanted = by_definition(kind, events.toarray().astype(np.float64))
    kept = np.maximum(np.sort(wanted, axis=1)[:, -count:], 0.0)
    assert np.sort(table, axis=1)[:, -count:] == pytest.approx(kept, abs=1e-5)
    assert table[table > 0] == pytest.approx(wanted[table > 0], abs=1e-5)
    assert (table > 0).sum(axis=1).max() == count and not table[0].any() and not table[:, -1].any()


def test_ease_is_its_closed_form():
    events = interactions()
    dense = events.toarray().astype(np.float64)
    inverse = np.linalg.inv(dense.T @ dense + 5 * np.eye(NUM_ITEMS))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    assert fitted("ease", events, ease={"l2": 5}).numpy() == pytest.approx(weights.T, abs=1e-6)


def test_an_l2_under_which_twins_cannot_be_told_apart_is_refused():
    twins = sp.csr_matrix(np.array([[0, 0, 0], [0, 1, 1]], np.float32))
    with pytest.raises(TrainingError, match=r"ease\.l2 1e-20 is too small .* raise it"):
        fitted("ease", twins, ease={"l2": 1e-20})
