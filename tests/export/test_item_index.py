"""The index inside the fused graph: what it finds, what it must never show, and that the graph agrees."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import NUM_ITEMS, SETTINGS, TinyModel, make_tiny_model

from leanrec.compression.method import gathers_of_tables
from leanrec.compression.methods import GRAPH_METHODS
from leanrec.config import ReleaseSettings
from leanrec.config.storage import RetrievalIndexSettings
from leanrec.export.golden import answer_eagerly, read_golden
from leanrec.export.graph_file import graph_path, read_graph, write_graph
from leanrec.export.graphs import export_graphs
from leanrec.export.item_index import SPREADS, build_index, index_as, lists_of
from leanrec.export.runtime import GraphSession
from leanrec.files import read_json, write_json
from leanrec.models.recommender import MASKED, load_model
from leanrec.models.retrieval.inverted_file import InvertedFile
from leanrec.schema import RECOMMENDER

DIM, NUM, LENGTH = 8, 1000, 16


@pytest.fixture(scope="module")
def vectors() -> torch.Tensor:
    """Items around 25 centres, as trained vectors lie around tastes."""
    random = np.random.default_rng(4)
    centres = random.normal(size=(25, DIM))
    drawn = centres[random.integers(0, 25, NUM)] + 0.3 * random.normal(size=(NUM, DIM))
    return torch.from_numpy(drawn.astype(np.float32))


@pytest.fixture(scope="module")
def users(vectors: torch.Tensor) -> torch.Tensor:
    return vectors[torch.randperm(NUM, generator=torch.Generator().manual_seed(2))[:120]] * 2


def best(vectors: torch.Tensor, users: torch.Tensor, k: int) -> torch.Tensor:
    scores = users @ vectors.T
    scores[:, 0] = MASKED
    return scores.topk(k, dim=1).indices


def nobody_saw(users: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(users), 1, dtype=torch.long)


def test_every_item_lies_in_one_list_and_only_the_last_list_is_not_full(vectors: torch.Tensor) -> None:
    lists = lists_of(vectors.numpy(), LENGTH)
    assert lists.shape == (-(-(NUM - 1) // LENGTH), LENGTH)
    assert (lists[:-1] > 0).all()
    assert sorted(lists[lists > 0].tolist()) == list(range(1, NUM))


def test_equal_vectors_are_cut_too() -> None:
    lists = lists_of(np.ones((50, DIM), np.float32), LENGTH)
    assert sorted(lists[lists > 0].tolist()) == list(range(1, 50))


def test_with_every_list_looked_at_the_search_is_exact(vectors: torch.Tensor, users: torch.Tensor) -> None:
    lists = torch.from_numpy(lists_of(vectors.numpy(), LENGTH))
    items, scores = InvertedFile(vectors, lists, len(lists), MASKED)(users, nobody_saw(users), 30)
    assert torch.equal(items, best(vectors, users, 30))
    assert torch.allclose(scores, (users @ vectors.T).gather(1, items), atol=1e-5)


def test_as_many_lists_are_looked_at_as_the_recall_needs(vectors: torch.Tensor, users: torch.Tensor) -> None:
    found = {}
    for wanted in (0.8, 0.97):
        settings = RetrievalIndexSettings(min_items=1, list_length=LENGTH, min_recall=wanted)
        index, told = build_index(vectors, users, settings, num_candidates=100)
        items, _ = index(users, nobody_saw(users), 100)
        exact = best(vectors, users, 100)
        recall = np.mean(
            [len({*i.tolist()} & {*e.tolist()}) / 100 for i, e in zip(items, exact, strict=True)]
        )
        assert recall == pytest.approx(told, abs=1e-6)
        assert wanted <= recall
        found[wanted] = index.probes
    assert found[0.8] < found[0.97] < NUM // LENGTH


def test_what_was_seen_never_comes_back_wherever_it_lies(vectors: torch.Tensor, users: torch.Tensor) -> None:
    lists = torch.from_numpy(lists_of(vectors.numpy(), LENGTH))
    index = InvertedFile(vectors, lists, 8, MASKED)
    near = best(vectors, users, 20)
    far = torch.randint(0, NUM, (len(users), 200), generator=torch.Generator().manual_seed(5))
    seen = torch.cat([near, far, torch.zeros_like(near)], dim=1)
    items, scores = index(users, seen, 60)
    shown = scores > MASKED / 2
    for row, mask, hidden in zip(items, shown, seen, strict=True):
        assert not {*row[mask].tolist()} & {*hidden.tolist()}
        assert len(set(row[mask].tolist())) == int(mask.sum())
    assert not (items[shown] == 0).any()


def test_a_user_who_saw_all_that_is_near_gets_fewer_items_and_no_wrong_ones(vectors: torch.Tensor) -> None:
    lists = torch.from_numpy(lists_of(vectors.numpy(), LENGTH))
    user = vectors[5:6]
    index = InvertedFile(vectors, lists, 2, MASKED)
    items, _ = index(user, torch.zeros(1, 1, dtype=torch.long), 2 * LENGTH)
    _, scores = index(user, items[:, : 2 * LENGTH - 3], 2 * LENGTH)
    assert int((scores > MASKED / 2).sum()) <= 3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def indexed(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("indexed") / "graphs"
    description = tiny.model / "model.json"
    fewer = read_json(description)
    fewer["settings"] |= {"num_candidates": 12, "top_k": 8}
    write_json(description, fewer)
    index = RetrievalIndexSettings(min_items=10, list_length=4, min_recall=0.5)
    settings = ReleaseSettings(repository="unused", num_golden=24, index=index)
    figures = export_graphs(settings, **tiny._asdict(), output=output)
    assert figures["same_top_10"] == 1.0
    return output


def test_the_fused_graph_answers_what_the_indexed_module_answers(tiny: TinyModel, indexed: Path) -> None:
    facts, golden = read_json(indexed / "index.json"), read_golden(indexed)
    assert facts["probes"] < facts["num_lists"] == -(-(NUM_ITEMS - 1) // 4)
    session = GraphSession(graph_path(indexed, RECOMMENDER))
    requests = golden.inputs[RECOMMENDER]
    model = index_as(load_model(tiny.model), facts)
    for batch in (1, 24):
        answer = session.run_in_batches(requests, batch)
        expected = answer_eagerly(model, RECOMMENDER, requests)
        assert np.array_equal(answer["item_index"], expected["item_index"])
        assert np.allclose(answer["score"], expected["score"], atol=1e-5)
        for items, seen in zip(answer["item_index"], requests["seen"], strict=True):
            assert not {*items[items > 0].tolist()} & {*seen.tolist()}


def test_a_small_catalogue_is_searched_exactly(tiny: TinyModel, tmp_path: Path) -> None:
    figures = export_graphs(
        ReleaseSettings(repository="unused", num_golden=4), **tiny._asdict(), output=tmp_path / "graphs"
    )
    assert "index_recall" not in figures
    assert read_json(tmp_path / "graphs" / "index.json") is None


@pytest.mark.parametrize("method", ["fp16", "int8_tables"])
def test_the_vectors_in_the_index_are_compressed_like_any_table(
    indexed: Path, tmp_path: Path, method: str
) -> None:
    plain = read_graph(graph_path(indexed, RECOMMENDER))
    facts = read_json(indexed / "index.json")
    slots = (facts["num_lists"] * facts["list_length"], SETTINGS.retriever.dim)
    values = {t.name: t for t in plain.graph.initializer}
    tables = [name for name in gathers_of_tables(plain.graph) if tuple(values[name].dims) == slots]
    assert tables
    smaller = GRAPH_METHODS[method].apply(plain)
    assert not {t.name for t in smaller.graph.initializer} & set(tables)
    write_graph(smaller, tmp_path / "model.onnx")
    requests = read_golden(indexed).inputs[RECOMMENDER]
    before = GraphSession(graph_path(indexed, RECOMMENDER)).run_in_batches(requests, 8)
    after = GraphSession(tmp_path / "model.onnx").run_in_batches(requests, 8)
    shared = [
        len({*a.tolist()} & {*b.tolist()}) / len({*a.tolist()})
        for a, b in zip(before["item_index"], after["item_index"], strict=True)
    ]
    assert np.mean(shared) > 0.9


def test_of_lists_with_one_mean_the_wider_is_nearer() -> None:
    narrow, wide = torch.tensor([[1.0, 0.1], [1.0, -0.1]]), torch.tensor([[1.0, 2.0], [1.0, -2.0]])
    vectors = torch.cat([torch.zeros(1, 2), narrow, wide])
    index = InvertedFile(vectors, torch.tensor([[1, 2], [3, 4]]), 1, MASKED)
    user = torch.tensor([[0.5, 1.0]])
    assert torch.equal(index.nearness(user)[:, :1], index.nearness(user)[:, 1:])
    index.look_by(1.0)
    assert index.nearness(user)[0, 1] > index.nearness(user)[0, 0]
    items, _ = index(user, torch.zeros(1, 1, dtype=torch.long), 1)
    assert items.item() == 3


def test_the_spread_that_needs_the_fewest_lists_is_kept(vectors: torch.Tensor, users: torch.Tensor) -> None:
    settings = RetrievalIndexSettings(min_items=1, list_length=LENGTH, min_recall=0.9)
    index, recall = build_index(vectors, users, settings, num_candidates=20)
    fewest, spread = index.probes, index.spread
    assert recall >= 0.9
    exact = best(vectors, users, 100)
    for other in SPREADS:
        index.look_by(other)
        index.probes = fewest - 1
        items, _ = index(users, nobody_saw(users), 100)
        pairs = zip(items.tolist(), exact.tolist(), strict=True)
        assert np.mean([len({*found} & {*wanted}) / 100 for found, wanted in pairs]) < 0.9
    assert spread in SPREADS
