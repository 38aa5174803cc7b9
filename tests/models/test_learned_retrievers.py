"""What is particular to each learned retriever, against its formula or another way to the answer."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from leanrec.config import RetrieverSettings
from leanrec.errors import TrainingError
from leanrec.models.inputs import ItemInputs, UserInputs
from leanrec.models.retrieval import RETRIEVERS
from leanrec.models.retrieval.light_gcn import Graph
from leanrec.models.retrieval.retriever import LearnedRetriever
from leanrec.schema import ModelSpec

NUM_USERS, NUM_ITEMS, HISTORY = 7, 20, 6
SPEC = ModelSpec(
    num_users=NUM_USERS,
    num_items=NUM_ITEMS,
    num_categories=3,
    attribute_cardinalities={},
    history_length=HISTORY,
    top_k=5,
    liked_threshold=4.0,
)
ITEMS = ItemInputs(
    torch.ones(NUM_ITEMS, 1, dtype=torch.long), torch.zeros(NUM_ITEMS), torch.ones(NUM_ITEMS, 3)
)


def make(model: str, **values) -> LearnedRetriever:
    torch.manual_seed(1)
    retriever = RETRIEVERS[model](SPEC, RetrieverSettings(model=model, dim=8, **values), ITEMS).eval()
    assert isinstance(retriever, LearnedRetriever)
    for parameter in retriever.parameters():  # what starts as zero would hide what it does
        torch.nn.init.normal_(parameter, std=0.5) if not parameter.any() else None
    return retriever


def users(histories: list[list[int]], index: list[int] | None = None, rating: float = 5.0) -> UserInputs:
    history = torch.tensor([row + [0] * (HISTORY - len(row)) for row in histories])
    return UserInputs(
        torch.tensor([[i] for i in index or range(1, len(histories) + 1)]),
        torch.zeros(len(histories), 1, dtype=torch.long),
        torch.ones(len(histories), 3),
        history,
        torch.where(history > 0, rating, 0.0),
    )


def interactions() -> sp.csr_matrix:
    draw = np.random.default_rng(1)
    dense = np.where(draw.random((NUM_USERS, NUM_ITEMS)) < 0.4, draw.random((NUM_USERS, NUM_ITEMS)), 0.0)
    dense[0] = dense[:, 0] = dense[NUM_USERS - 1] = 0.0
    return sp.csr_matrix(dense.astype(np.float32))


@torch.no_grad()
def test_light_gcn_is_the_mean_of_the_powers_of_the_normalized_adjacency():
    retriever, edges = make("light_gcn", light_gcn={"layers": 3}), interactions()
    torch.nn.init.zeros_(retriever.layer_weight)
    retriever.connect(edges)
    retriever.freeze()
    size = NUM_USERS + NUM_ITEMS
    adjacency = torch.zeros(size, size)
    adjacency[:NUM_USERS, NUM_USERS:] = torch.from_numpy((edges.toarray() > 0).astype(np.float32))
    adjacency += adjacency.T.clone()
    inverse_root = adjacency.sum(1).clamp(min=1.0) ** -0.5
    normalized = inverse_root[:, None] * adjacency * inverse_root
    tables = retriever.sparse.tables
    layer = total = torch.cat([tables["user"].weight, tables["item"].weight])
    for _ in range(3):
        layer = normalized @ layer
        total = total + layer
    known = list(range(1, NUM_USERS - 1))
    served = retriever.user_vectors(users([[1]] * len(known), known))
    assert torch.allclose(served, total[known] / 4, atol=1e-6)
    assert torch.allclose(retriever.item_vectors(), total[NUM_USERS:] / 4, atol=1e-6)


@torch.no_grad()
def test_light_gcn_serves_a_user_without_edges_by_his_history_or_as_the_average_user():
    retriever = make("light_gcn")
    retriever.connect(interactions())
    retriever.freeze()
    vectors = retriever.user_vectors(users([[3, 5], [3, 5], []], [0, NUM_USERS - 1, 999]))
    items = retriever.item_vectors(torch.tensor([3, 5]))
    assert torch.allclose(vectors[:2], items.mean(0).expand(2, -1))
    assert torch.allclose(vectors[2], retriever.user_table[1 : NUM_USERS - 1].mean(0), atol=1e-6)


def test_light_gcns_gradient_is_that_of_the_dense_product():
    edges = interactions()
    graph = Graph(edges, torch.device("cpu"))
    dense = graph.to_users.times(torch.eye(NUM_ITEMS))
    draw = torch.Generator().manual_seed(1)
    people = torch.randn(NUM_USERS, 4, generator=draw, requires_grad=True)
    things = torch.randn(NUM_ITEMS, 4, generator=draw, requires_grad=True)
    gradients = []
    for forth, back in (graph.step(people, things), (dense @ things, dense.T @ people)):
        (forth.square().sum() + back.exp().sum()).backward()
        gradients.append((people.grad.clone(), things.grad.clone()))
        people.grad = things.grad = None
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_light_gcn_without_a_graph_says_what_to_call_and_a_loaded_one_serves_its_tables():
    retriever, fresh = make("light_gcn"), make("light_gcn")
    with pytest.raises(TrainingError, match="call connect"):
        retriever.towers(
            users([[1]]), torch.tensor([1]), retriever.sparse(retriever.user_indices(users([[1]])))
        )
    retriever.connect(interactions())
    retriever.freeze()
    fresh.load_state_dict(retriever.state_dict())
    fresh.freeze()
    people = users([[3, 5], [2], []], [1, 2, 0])
    assert torch.equal(fresh.user_vectors(people), retriever.user_vectors(people))
    assert torch.equal(fresh.item_vectors(), retriever.item_vectors())


@torch.no_grad()
def test_matrix_factorization_is_factors_and_biases_and_folds_a_stranger_in():
    retriever = make("matrix_factorization")
    user, item = (retriever.sparse.tables[name].weight for name in ("user", "item"))
    score = retriever.user_vectors(users([[3, 5]] * 2, [4, 0])) @ retriever.item_vectors().T
    for i in range(NUM_ITEMS):
        expected = retriever.mean + user[4, 6] + item[i, 7] + user[4, :6] @ item[i, :6]
        assert score[0, i] == pytest.approx(float(expected), abs=1e-5)
        stranger = retriever.mean + item[i, 7] + item[[3, 5], :6].mean(0) @ item[i, :6]
        assert score[1, i] == pytest.approx(float(stranger), abs=1e-5)


@pytest.mark.parametrize("model", ["gru4rec", "sasrec"])
@torch.no_grad()
def test_a_state_has_heard_what_came_before_it_and_nothing_later(model):
    retriever = make(model)

    def states(history: list[int], rating: float = 5.0) -> torch.Tensor:
        people = users([history], rating=rating)
        return retriever.user_states(people, retriever.sparse(retriever.user_indices(people)))[0]

    whole, other = states([1, 2, 3, 4]), states([1, 2, 9, 4])
    assert torch.allclose(whole[:3], other[:3], atol=1e-6)
    assert not torch.allclose(whole[3], other[3]) and not torch.allclose(whole[4], other[4])
    assert not torch.allclose(whole[4], states([2, 1, 3, 4])[4])
    assert not torch.allclose(whole[4], states([1, 2, 3, 4], rating=1.0)[4])
    served = retriever.user_vectors(users([[1, 2, 3, 4], [1, 2], []]))
    assert torch.allclose(served, whole[[4, 2, 0]], atol=1e-6)


@torch.no_grad()
def test_caser_sees_the_latest_items_in_their_order_and_the_user():
    retriever = make("caser", caser={"length": 3})
    base = retriever.user_vectors(users([[1, 2, 3, 4]], [1]))
    assert torch.allclose(base, retriever.user_vectors(users([[9, 2, 3, 4]], [1])))
    for histories, index in (([[1, 9, 3, 4]], [1]), ([[1, 3, 2, 4]], [1]), ([[1, 2, 3, 4]], [2])):
        assert not torch.allclose(base, retriever.user_vectors(users(histories, index)))
    assert torch.isfinite(retriever.user_vectors(users([[]]))).all()
    assert retriever.item_vectors().shape == (NUM_ITEMS, retriever.width) == (NUM_ITEMS, 16)


@pytest.mark.parametrize("model", ["gru4rec", "sasrec"])
def test_a_sequence_model_s_inner_width_is_its_own_setting(model):
    """Vectors keep `dim`; what lies between them is as wide as asked."""
    plain, wide = make(model), make(model, **{model: {"hidden": 11}})
    assert any(11 in parameter.shape for parameter in wide.parameters())
    assert not any(11 in parameter.shape for parameter in plain.parameters())
    assert wide.user_vectors(users([[1, 2], [3]])).shape == (2, 8)
