"""Our retrievers beside RecBole's, on RecBole's own MovieLens-100K, its split and its full ranking.

Every rating is an event, liked or not. For models without time each user's events are split 8:1:1 at random;
for SASRec the last is the test and the one before it the validation. Every item is ranked that the user has
not met before (RecBole's own evaluator leaves what SASRec has seen in its lists; here it is left out of both
lists). NDCG@10 and Recall@10 are means over users, by one implementation for both.

Both train with one thread until NDCG@10 on valid has not risen for ten epochs, and are judged on test as they
were at the best one. RecBole has its own defaults; ours has the settings in `MATCHES`. Epochs are timed in
turns, in CPU seconds, which a busy neighbour hardly changes. What is finished is kept, so that a run that was
stopped goes on.

A match may have a bound: no side begins an epoch once it has trained for so many CPU seconds, one seed is
all, and an epoch's seconds are those of that very training. The row says what ended it on each side.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.only import those
from benchmarks.peers.environment import CACHE
from benchmarks.peers.recbole import REQUIREMENTS, RecBole
from benchmarks.quality_matches import MATCHES, Match
from leanrec.config import RetrieverSettings
from leanrec.evaluation import metrics
from leanrec.evaluation.lists import best_items
from leanrec.files import read_json, write_json
from leanrec.training.interactions import Pairs, Training

K, SEEDS, PATIENCE, ROUNDS, THREADS = 10, (1, 2, 3), 10, 5, 1
SEQUENCE_LENGTH = 50
"""Items of the past that both SASRecs read."""


class Split(NamedTuple):
    """RecBole's split. U users and N items, the unknown index 0 counted."""

    train: Pairs
    valid: Pairs
    test: Pairs
    num_users: int
    num_items: int

    def seen(self, name: str) -> Pairs:
        """What a user met before the split `name`, and is not shown again."""
        return self.train if name == "valid" else self.train.and_then(self.valid)


class Contender(Protocol):
    """What trains by epochs and scores."""

    build_s: float
    """CPU seconds of making the model, which is all of the training where no gradient teaches it."""

    def epoch(self) -> float:
        """Train for an epoch; its CPU seconds."""

    def scores(self, name: str) -> np.ndarray:
        """Scores [U, N] for the users of split `name`."""


class Peer:
    """A model of RecBole."""

    def __init__(self, process: RecBole) -> None:
        self.process = process
        self.build_s = float(process.ask("build")["cpu_s"])

    def epoch(self) -> float:
        """Train for an epoch; its CPU seconds."""
        return float(self.process.ask("epoch")["cpu_s"])

    def scores(self, name: str) -> np.ndarray:
        """Scores [U, N] for the users of split `name`."""
        return self.process.scores(name)


class Ours:
    """A retriever of ours. For test, only a model of sequences hears of the events in valid, as RecBole's."""

    def __init__(self, match: Match, split: Split, seed: int) -> None:
        options = dict(match.ours)
        if options["model"] == "als":
            options["als"] = {**options["als"], "seed": seed}
        settings = RetrieverSettings(**options)
        self.split, self.sequential = split, settings.model == "sasrec"
        most = int(np.bincount(split.train.user).max())
        length = SEQUENCE_LENGTH if self.sequential else 1 if match.by_gradient else most
        started = time.process_time()
        self.training = Training(
            settings,
            split.train,
            num_users=split.num_users,
            num_items=split.num_items,
            history_length=length,
            seed=seed,
        )
        self.build_s = time.process_time() - started

    def epoch(self) -> float:
        """Train for an epoch; its CPU seconds."""
        started = time.process_time()
        self.training.epoch()
        return time.process_time() - started

    def scores(self, name: str) -> np.ndarray:
        """Scores [U, N] for the users of split `name`."""
        past = self.split.seen(name) if self.sequential else self.split.train
        return np.asarray(self.training.scores(past).numpy())


def measure(
    only: Sequence[str] = (),
    matches: tuple[Match, ...] = MATCHES,
    seeds: tuple[int, ...] = SEEDS,
    rounds: int = ROUNDS,
    kept: Path = CACHE / "quality",
) -> dict[str, Any]:
    """The table. `only`: names of matches, none: all; `kept` is the folder of what is finished."""
    chosen = those([match.name for match in matches], only)
    with _one_thread():
        table = [_compare(match, seeds, rounds, kept) for match in matches if match.name in chosen]
    both = [row for row in table if "recbole" in row]
    ours, peer = (
        statistics.mean(row[side]["ndcg"]["mean"] for row in both) if both else None
        for side in ("ours", "recbole")
    )
    return {
        "name": "quality",
        "ours": ours,
        "baseline": peer,
        "ratio": ours / peer if ours and peer else None,
        "unit": "NDCG@10 on test, the mean over the models that both have",
        "models": table,
        "settings": {
            "seeds": list(seeds),
            "threads": THREADS,
            "patience": PATIENCE,
            "torch": version("torch"),
            "implicit": version("implicit"),
            "recbole": next(
                line.split("==")[1] for line in REQUIREMENTS.read_text().splitlines() if "recbole==" in line
            ),
        },
    }


def _compare(match: Match, seeds: tuple[int, ...], rounds: int, kept: Path) -> dict[str, Any]:
    """One row of the table."""
    asked = match.peer or "EASE"  # any model without time has the split that ours needs
    with RecBole(asked, seed=seeds[0], threads=THREADS) as process:
        split = read_split(process)

    def train_ours(seed: int) -> dict[str, Any]:
        return _train(Ours(match, split, seed), match, split, f"{match.name} of ours, seed {seed}")

    def train_peer(seed: int) -> dict[str, Any]:
        with RecBole(asked, seed=seed, threads=THREADS) as process:
            return _train(Peer(process), match, split, f"{asked} of RecBole, seed {seed}")

    row: dict[str, Any] = {"model": match.name}
    if match.cpu_s is not None:
        seeds = seeds[:1]
        row["bound"] = f"no epoch begun after {match.cpu_s:g} CPU seconds of training; seed {seeds[0]} alone"
    runs = [_kept(kept, ["ours", *match], seed, train_ours) for seed in seeds]
    row["ours"] = _summarize(runs)
    if match.peer is None:
        return row
    bounds = [match.epochs, match.cpu_s]
    peer_runs = [_kept(kept, ["recbole", match.peer, *bounds], seed, train_peer) for seed in seeds]
    row["recbole"] = _summarize(peer_runs)
    if match.cpu_s is None:
        with RecBole(asked, seed=seeds[0], threads=THREADS) as process:
            row["seconds"] = _in_turns(
                lambda: Ours(match, split, seeds[0]), Peer(process), match.by_gradient, rounds
            )
    else:
        row["seconds"] = _beside({"ours": runs[0]["epoch_s"], "recbole": peer_runs[0]["epoch_s"]})
    ours, peer = row["ours"]["ndcg"], row["recbole"]["ndcg"]
    row["as_good"] = ours["mean"] >= peer["mean"] - max(ours["spread"], peer["spread"])
    return row


def read_split(process: RecBole) -> Split:
    """The split of RecBole in `process`."""
    arrays, num_users, num_items = process.split()
    parts = [Pairs(arrays[f"{name}_user"], arrays[f"{name}_item"]) for name in ("train", "valid", "test")]
    return Split(*parts, num_users, num_items)


def judge(scores: np.ndarray, split: Split, name: str) -> dict[str, float]:
    """NDCG@10 and Recall@10 of scores [U, N], every item ranked that the user has not met before."""
    relevant, seen = getattr(split, name), split.seen(name)
    scores = scores.copy()
    scores[seen.user, seen.item] = -np.inf
    users = np.unique(relevant.user)
    lists = best_items(scores[users], np.zeros((len(users), 1), np.int64), K)
    matrix = relevant.matrix(split.num_users, split.num_items)[users]
    items = [row.indices.astype(np.int64) for row in matrix]
    relevance, counts = metrics.relevance_of(lists, items, split.num_items), np.diff(matrix.indptr)
    return {
        "ndcg": float(metrics.ndcg_at(relevance, counts, K).mean()),
        "recall": float(metrics.recall_at(relevance, counts, K).mean()),
    }


def converge(
    contender: Contender,
    split: Split,
    epochs: int,
    patience: int = PATIENCE,
    cpu_s: float | None = None,
    who: str = "a model",
) -> dict[str, Any]:
    """Train until NDCG on valid has not risen for `patience` epochs, or to a bound; the best epoch's figures.

    Also what ended it, and each epoch's CPU seconds. Each epoch is told as it ends, for some take minutes.
    """
    best: dict[str, Any] = {"valid": {"ndcg": -1.0}, "best_epoch": 0}
    epoch_s: list[float] = []

    def ended_by() -> str | None:
        if len(epoch_s) - best["best_epoch"] >= patience:
            return "patience"
        if len(epoch_s) >= epochs:
            return "epochs"
        return "CPU seconds" if cpu_s is not None and sum(epoch_s) >= cpu_s else None

    while ended_by() is None:
        epoch_s.append(contender.epoch())
        valid = judge(contender.scores("valid"), split, "valid")
        figures = f"NDCG@{K} {valid['ndcg']:.4f} on valid, {epoch_s[-1]:.2f} CPU seconds"
        print(f"quality: {who}, epoch {len(epoch_s)}: {figures}", file=sys.stderr, flush=True)
        if valid["ndcg"] > best["valid"]["ndcg"]:
            test = judge(contender.scores("test"), split, "test")
            best = {"valid": valid, "test": test, "best_epoch": len(epoch_s)}
    return {**best, "epochs": len(epoch_s), "ended_by": ended_by(), "epoch_s": epoch_s}


def _train(contender: Contender, match: Match, split: Split, who: str) -> dict[str, Any]:
    if match.by_gradient:
        return converge(contender, split, match.epochs, cpu_s=match.cpu_s, who=who)
    return {name: judge(contender.scores(name), split, name) for name in ("valid", "test")}


def _in_turns(make_ours: Callable[[], Ours], peer: Peer, by_gradient: bool, rounds: int) -> dict[str, float]:
    """CPU seconds at the median of an epoch, or of the whole fit; the first epoch of each is not counted."""
    ours = make_ours()
    seconds: dict[str, list[float]] = {"ours": [], "recbole": []}
    if by_gradient:
        ours.epoch(), peer.epoch()
    for _ in range(rounds):
        seconds["ours"].append(ours.epoch() if by_gradient else make_ours().build_s)
        seconds["recbole"].append(peer.epoch() if by_gradient else Peer(peer.process).build_s)
    return _beside(seconds)


def _beside(seconds: dict[str, list[float]]) -> dict[str, float]:
    """The median of each, and how many times longer RecBole's is."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {**medians, "ratio": medians["recbole"] / medians["ours"]}


def _summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread (largest less smallest) over the seeds, on test; epochs where there were any."""
    figures: dict[str, Any] = {
        name: {"mean": statistics.mean(values), "spread": max(values) - min(values)}
        for name in ("ndcg", "recall")
        for values in [[run["test"][name] for run in runs]]
    }
    trained = [run for run in runs if "best_epoch" in run]
    if trained:
        figures["best_epochs"] = [run["best_epoch"] for run in trained]
        figures["epochs"] = [run["epochs"] for run in trained]
        figures["ended_by"] = [run["ended_by"] for run in trained]
    return figures


def _kept(folder: Path, what: list[Any], seed: int, train: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """The outcome of `what` with `seed`, out of `folder` where an earlier run left it."""
    key = json.dumps([*what, seed, PATIENCE, version("torch"), REQUIREMENTS.read_text("utf-8")])
    file = folder / f"{what[0]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, train(seed))
    kept: dict[str, Any] = read_json(file)
    return kept


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with threadpool_limits(THREADS):
            yield
    finally:
        torch.set_num_threads(before)
