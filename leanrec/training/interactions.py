"""A retriever learnt from (user, item) pairs alone: one process, no features, no process group.

For a notebook, for data that has nothing else, and for holding our models against another library's on that
library's own split (benchmarks/quality.py). Models, losses, negatives and optimizers are those of the sharded
trainer (leanrec/training/loop.py): Adagrad for tables, AdamW for the rest.

    >>> pairs = Pairs(user=np.array([1, 1, 2]), item=np.array([3, 1, 2]))      # a user's in the order of time
    >>> training = Training(RetrieverSettings(model="sasrec"), pairs, num_users=3, num_items=4)
    >>> loss = training.epoch()
    >>> training.scores(training.pairs).shape
    torch.Size([3, 4])

Indices count from 1: 0 is the unknown user or item, and is counted in U users and N items.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from leanrec.config import RetrieverSettings
from leanrec.errors import DataError, TrainingError
from leanrec.models.inputs import UserInputs, blank_items
from leanrec.models.retrieval import RETRIEVERS
from leanrec.models.retrieval.retriever import FittedRetriever, LearnedRetriever, Retriever
from leanrec.schema import USER_STATISTICS, ModelSpec
from leanrec.training.batches import batches
from leanrec.training.examples import Examples
from leanrec.training.objectives import RetrieverObjective, lesson_of, rows_a_batch
from leanrec.training.sequences import Sequences
from leanrec.training.whole_users import UserObjective, learns_users

CHUNK = 256
"""Users scored at once."""


class Pairs(NamedTuple):
    """Who took up what: E pairs, those of a user in the order of time."""

    user: np.ndarray
    """[E] int64, from 1."""
    item: np.ndarray
    """[E] int64, from 1."""

    def matrix(self, num_users: int, num_items: int) -> sp.csr_matrix:
        """Users x items [U, N], 1 where there is a pair."""
        ones = np.ones(len(self.user), np.float32)
        matrix = sp.csr_matrix((ones, (self.user, self.item)), shape=(num_users, num_items))
        matrix.data[:] = 1.0
        return matrix

    def and_then(self, later: Pairs) -> Pairs:
        """These, and after them `later` ones."""
        return Pairs(np.concatenate([self.user, later.user]), np.concatenate([self.item, later.item]))


class Training:
    """A retriever and what it learns from; `epoch` by `epoch`, or at once where no gradient teaches it."""

    def __init__(
        self,
        settings: RetrieverSettings,
        pairs: Pairs,
        *,
        num_users: int,
        num_items: int,
        history_length: int = 50,
        seed: int = 1,
    ) -> None:
        """`history_length`: items that a user row holds, the latest ones.

        Raises a DataError where a pair's index is not in 1..U-1 or 1..N-1.
        """
        _refuse_misfits(pairs, num_users, num_items)
        self.settings, self.pairs, self.seed = settings, pairs, seed
        self.spec = ModelSpec(
            num_users=num_users,
            num_items=num_items,
            num_categories=1,
            attribute_cardinalities={},
            history_length=history_length,
            top_k=1,
            liked_threshold=1.0,
        )
        self.epochs_done = 0
        torch.manual_seed(seed)
        self.model: Retriever = RETRIEVERS[settings.model](self.spec, settings, blank_items(num_items, 1))
        interactions = pairs.matrix(num_users, num_items)
        if isinstance(self.model, FittedRetriever):
            self.model.fit(interactions)
        else:
            assert isinstance(self.model, LearnedRetriever)
            self.model.connect(interactions)
            self._prepare(self.model, interactions)

    def _prepare(self, model: LearnedRetriever, interactions: sp.csr_matrix) -> None:
        """The objective, what it takes, and the optimizers."""
        settings = self.settings
        self.objective: RetrieverObjective | UserObjective
        self.examples: Examples | Sequences | Tensor
        if learns_users(settings):
            self.objective = UserObjective(model, settings, interactions)
            self.examples = torch.from_numpy(np.unique(self.pairs.user))
            self.batch_size = rows_a_batch(settings, len(self.examples), len(self.pairs.user))
        else:
            examples = examples_of(self.pairs, self.spec.history_length)
            self.objective, self.examples, self.batch_size = lesson_of(model, settings, examples)
        tables = list(model.sparse.parameters())
        dense = [p for name, p in model.named_parameters() if not name.startswith("sparse.")]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adagrad(tables, lr=settings.table_learning_rate, eps=1e-8)
        ]
        if dense:
            self.optimizers.append(
                torch.optim.AdamW(dense, lr=settings.learning_rate, weight_decay=settings.weight_decay)
            )

    def epoch(self) -> float:
        """Learn from every pair once; the mean loss.

        Raises a TrainingError where the loss is not a number, and for a model that is fitted at once.
        """
        if isinstance(self.model, FittedRetriever):
            raise TrainingError(f"{self.settings.model} has no epochs: it was fitted when it was made")
        torch.manual_seed(self.seed * 1_000_003 + self.epochs_done)
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epochs_done)
        self.objective.train()
        total, steps = 0.0, 0
        shares = batches(len(self.examples), self.batch_size, seed=self.seed, epoch=self.epochs_done)
        for rows in shares:
            batch = self.examples[rows] if isinstance(self.examples, Tensor) else self.examples.take(rows)
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            loss: Tensor = self.objective(batch, draw)
            if not math.isfinite(float(loss.detach())):
                raise TrainingError(
                    f"the loss is {float(loss)} in epoch {self.epochs_done + 1}, step {steps + 1}; "
                    "lower table_learning_rate or learning_rate"
                )
            loss.backward()
            for optimizer in self.optimizers:
                optimizer.step()
            total, steps = total + float(loss.detach()), steps + 1
        self.epochs_done += 1
        return total / steps

    @torch.no_grad()
    def scores(self, past: Pairs) -> Tensor:
        """Scores of every item for every user whose past is `past`, [U, N]."""
        self.model.eval()
        self.model.freeze()
        rows = user_rows(past, self.spec.num_users, self.spec.history_length)
        items = self.model.item_vectors()
        parts = torch.arange(self.spec.num_users).split(CHUNK)
        users = (self.model.user_vectors(UserInputs(*(tensor[part] for tensor in rows))) for part in parts)
        return torch.cat([vectors @ items.T for vectors in users])


def user_rows(past: Pairs, num_users: int, history_length: int) -> UserInputs:
    """The row of each user 0..U-1 after all that `past` tells; nothing is disliked."""
    order = np.argsort(past.user, kind="stable")
    user, item = past.user[order], past.item[order]
    count = np.bincount(user, minlength=num_users)
    place = np.arange(len(user)) - (np.cumsum(count) - count)[user]
    late = place - np.maximum(count[user] - history_length, 0)
    history = np.zeros((num_users, history_length), np.int64)
    history[user[late >= 0], late[late >= 0]] = item[late >= 0]
    return _rows(np.arange(num_users), count, history)


def examples_of(pairs: Pairs, history_length: int) -> Examples:
    """Each pair as an event, with the user row just before it; all are liked."""
    order = np.argsort(pairs.user, kind="stable")
    user, item = pairs.user[order], pairs.item[order]
    count = np.bincount(user)
    start = (np.cumsum(count) - count)[user]
    before = np.arange(len(user)) - start
    first = np.arange(len(user)) - np.minimum(before, history_length)
    at = first[:, None] + np.arange(history_length)
    past = at < np.arange(len(user))[:, None]
    history = np.where(past, item[np.minimum(at, len(item) - 1)], 0)
    ones = torch.ones(len(user))
    return Examples(_rows(user, before, history), torch.from_numpy(item), ones, ones)


def _rows(user: np.ndarray, num_events: np.ndarray, history: np.ndarray) -> UserInputs:
    statistics = np.zeros((len(user), len(USER_STATISTICS)), np.float32)
    statistics[:, 0] = statistics[:, 1] = num_events
    statistics[:, 2] = num_events > 0
    return UserInputs(
        torch.from_numpy(np.ascontiguousarray(user)).unsqueeze(1),
        torch.zeros(len(user), 1, dtype=torch.long),
        torch.from_numpy(statistics),
        torch.from_numpy(history),
        torch.from_numpy((history > 0).astype(np.float32)),
    )


def _refuse_misfits(pairs: Pairs, num_users: int, num_items: int) -> None:
    if len(pairs.user) == 0:
        raise DataError("pairs: there are none, so there is nothing to learn")
    for name, index, cardinality in (("user", pairs.user, num_users), ("item", pairs.item, num_items)):
        if index.min() < 1 or index.max() >= cardinality:
            raise DataError(
                f"pairs: {name} must lie in 1..{cardinality - 1}, it has {index.min()}..{index.max()}; "
                "0 is kept for the unknown, and the numbers of users and items count it"
            )
