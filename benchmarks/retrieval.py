"""Inverted-file retrieval inside the graph beside exact retrieval: one user at a time in ONNX Runtime.

Both graphs are the search alone, from a user vector and the items seen to candidates, exported as a release
exports them. The vectors are made up, drawn as trained ones lie: 4,000 topics of unequal size around 40
genres, columns of falling weight (1/sqrt), items around their topic, lengths log-normal (sigma 0.25). A user
is three times the mean of 21 items out of three topics and has seen 50 items. As many lists are looked at as
one half of the users needs for the recall aimed at; recall is told of the other half.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leanrec.config.storage import RetrievalIndexSettings
from leanrec.export.item_index import DEPTH, build_index
from leanrec.export.onnx_export import trace
from leanrec.export.runtime import GraphSession
from leanrec.models.recommender import MASKED
from leanrec.schema import UNKNOWN_INDEX

NUM_ITEMS, DIM, NUM_USERS, NUM_SEEN, NUM_CANDIDATES = 1_000_000, 64, 400, 50, 200
TOPICS, GENRES, SEED = 4000, 40, 1
NUM_WARM_UP, NUM_REQUESTS = 5, 100


class ExactSearch(nn.Module):
    """Every item scored."""

    vectors: Tensor

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors)

    def forward(self, users: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """[B, D] and [B, S]; answers items and scores [B, C]."""
        hidden = nn.functional.pad(seen, (1, 0), value=UNKNOWN_INDEX)
        scores = (users @ self.vectors.T).scatter(1, hidden, MASKED)
        best, items = torch.topk(scores, NUM_CANDIDATES, dim=1)
        return items, best


class IndexedSearch(nn.Module):
    """The same answer from the lists nearest to the user."""

    def __init__(self, index: nn.Module) -> None:
        super().__init__()
        self.index = index

    def forward(self, users: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """[B, D] and [B, S]; answers items and scores [B, C]."""
        return self.index(users, seen, NUM_CANDIDATES)


def measure(num_items: int = NUM_ITEMS, num_users: int = NUM_USERS) -> dict[str, Any]:
    """p50 in milliseconds at batch 1 and one thread."""
    vectors, users, seen = draw(num_items, num_users)
    half = num_users // 2
    settings = RetrievalIndexSettings()
    clock = time.perf_counter()
    index, aimed = build_index(
        torch.from_numpy(vectors), torch.from_numpy(users[:half]), settings, NUM_CANDIDATES
    )
    build_s = time.perf_counter() - clock
    with tempfile.TemporaryDirectory(prefix="leanrec-bench-") as work:
        ours = _session(IndexedSearch(index), Path(work) / "indexed")
        exact = _session(ExactSearch(torch.from_numpy(vectors)), Path(work) / "exact")
        times, recall, hidden = _ask_in_turns(ours, exact, users[half:], seen[half:])
    p50 = {name: float(np.median(values)) for name, values in times.items()}
    return {
        "name": "retrieval",
        "ours": p50["ours"],
        "baseline": p50["exact"],
        "ratio": float(np.median(times["exact"] / times["ours"])),
        "recall": recall,
        "unit": "ms at the median, one user, one thread, ONNX Runtime",
        "settings": {
            "items": num_items,
            "dim": DIM,
            "seed": SEED,
            "recall_at": DEPTH,
            "recall_of_the_other_half": aimed,
            "candidates": NUM_CANDIDATES,
            "lists": index.num_lists,
            "list_length": index.length,
            "probes": index.probes,
            "spread": index.spread,
            "share_scored": index.probes / index.num_lists,
            "build_s": build_s,
            "seen_items_shown": hidden,
            "requests": len(times["ours"]),
        },
    }


def draw(num_items: int, num_users: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Item vectors [N, D] (row 0 unknown), user vectors [U, D] and the items each has seen [U, S]."""
    random = np.random.default_rng(SEED)
    topics = min(TOPICS, max(1, num_items // 50))
    genres = random.normal(size=(GENRES, DIM))
    centres = 0.7 * (genres[random.integers(0, GENRES, topics)] + random.normal(size=(topics, DIM)))
    share = 1 / (1 + np.arange(topics)) ** 0.6
    share /= share.sum()
    topic = random.choice(topics, num_items, p=share)
    vectors = (centres[topic] + 0.6 * random.normal(size=(num_items, DIM))) / np.sqrt(1 + np.arange(DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = (vectors * np.exp(0.25 * random.normal(size=(num_items, 1)))).astype(np.float32)
    vectors[UNKNOWN_INDEX] = 0
    by_topic = np.argsort(topic, kind="stable")
    starts = np.searchsorted(topic[by_topic], np.arange(topics + 1))
    history = np.empty((num_users, 21), np.int64)
    for row in history:
        liked = random.choice(topics, 3, p=share, replace=False)
        row[:] = np.concatenate([by_topic[random.integers(starts[t], starts[t + 1], 7)] for t in liked])
    others = random.integers(1, num_items, (num_users, NUM_SEEN - history.shape[1]))
    users = 3 * vectors[history].mean(axis=1)
    return vectors, users, np.concatenate([history, others], axis=1)


def _session(module: nn.Module, folder: Path) -> GraphSession:
    example = (torch.ones(2, DIM), torch.ones(2, 3, dtype=torch.long))
    folder.mkdir()
    graph = trace(module, example, ["users", "seen"], ["items", "scores"])
    path = folder / "model.onnx"
    path.write_bytes(graph.SerializeToString(deterministic=True))
    return GraphSession(path, num_threads=1)


def _ask_in_turns(
    ours: GraphSession, exact: GraphSession, users: np.ndarray, seen: np.ndarray
) -> tuple[dict[str, np.ndarray], float, int]:
    """Milliseconds of each request by graph, the recall at `DEPTH`, and how many seen items came back."""
    times: dict[str, list[float]] = {"ours": [], "exact": []}
    recalls, hidden = [], 0
    for turn in range(NUM_WARM_UP + NUM_REQUESTS):
        row = turn % len(users)
        request = {"users": users[row : row + 1], "seen": seen[row : row + 1]}
        answers = {}
        for name, session in (("ours", ours), ("exact", exact)):
            clock = time.perf_counter()
            answers[name] = session.run(request)
            times[name].append((time.perf_counter() - clock) * 1e3)
        found, best = (set(answers[name]["items"][0, :DEPTH].tolist()) for name in ("ours", "exact"))
        recalls.append(len(found & best) / DEPTH)
        shown = answers["ours"]["items"][answers["ours"]["scores"] > MASKED / 2]
        hidden += len(set(shown.tolist()) & set(seen[row].tolist()))
    taken = {name: np.array(values[NUM_WARM_UP:]) for name, values in times.items()}
    return taken, float(np.mean(recalls)), hidden
