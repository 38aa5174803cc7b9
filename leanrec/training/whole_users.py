"""All events of a user at once, for models whose user vector does not depend on when an event was.

Matrix factorization and LightGCN have one vector a user. So one row of scores, of all items, serves all his
events: U x N scores an epoch, where event by event takes E x N. The exact softmax needs no more of the others
than their sum, which his events share:

    loss(u, i) = log(exp(s_ui) + sum_{j not taken up by u} exp(s_uj)) - s_ui = softplus(rest_u - s_ui)

The losses over pairs (bpr, bce, gbce) draw `num_negatives` items for each event. Either way the losses are
RetrieverObjective's, with all that a user ever took up hidden from the negatives.

B users of a batch · E events of theirs · U users · N items · M negatives of an event.
"""

from __future__ import annotations

import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional

from leanrec.config import RetrieverSettings
from leanrec.models.inputs import UserInputs
from leanrec.models.recommender import MASKED
from leanrec.models.retrieval.retriever import LearnedRetriever
from leanrec.training.losses import pairwise_loss

TIMELESS = ("matrix_factorization", "light_gcn")
"""Models whose vector of a known user is the same at each of his events."""


def learns_users(settings: RetrieverSettings) -> bool:
    """Whether the settings' model can learn a user at a time: it is one of `TIMELESS`, and no negative is
    shared by events of several users."""
    exact = settings.loss != "softmax" or settings.full_softmax_items > 0
    return settings.model in TIMELESS and settings.negatives == "uniform" and exact


class UserObjective(nn.Module):
    """The loss of all events of a batch of users; the mean over events."""

    def __init__(
        self, model: LearnedRetriever, settings: RetrieverSettings, interactions: sp.csr_matrix
    ) -> None:
        """`interactions` [U, N]: the weight of each event in the loss, 0 where there was none."""
        super().__init__()
        self.model = model
        self.settings = settings
        self.interactions = interactions
        self.pairwise = pairwise_loss(settings, model.spec.num_items - 1)

    def forward(self, users: Tensor, draw: torch.Generator) -> Tensor:
        """The loss of all events of the users [B], a scalar."""
        events = self.interactions[users.cpu().numpy()]
        weight = torch.from_numpy(events.toarray()).to(users.device)[:, 1:]
        scores = self._scores(users) / self.settings.temperature
        others = scores.masked_fill(weight > 0, MASKED)
        row, item = torch.nonzero(weight, as_tuple=True)
        taken_up, weight = scores[row, item], weight[row, item]
        if self.settings.loss == "softmax":
            loss = functional.softplus(others.logsumexp(dim=1)[row] - taken_up)
        else:
            loss = self.pairwise(taken_up, *self._drawn(others, row, draw))
        return (loss * weight).sum() / weight.sum().clamp(min=1e-6)

    def _drawn(self, others: Tensor, row: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """M uniform draws for each event from the scores `others` [B, N - 1]: [E, M], and their shares."""
        count = self.settings.num_negatives
        drawn = torch.randint(others.shape[1], (len(row), count), generator=draw).to(row.device)
        # One flat index: the gradient of a gather by row would hold a row for each event.
        against = others.flatten()[row.unsqueeze(1) * others.shape[1] + drawn]
        return against, torch.full((count,), 1.0 / count, device=row.device)

    def _scores(self, users: Tensor) -> Tensor:
        """Of all items but the unknown one, [B, N - 1]."""
        model, spec = self.model, self.model.spec
        items = torch.arange(1, spec.num_items, device=users.device)
        rows = UserInputs(
            users.unsqueeze(1),
            torch.zeros(len(users), spec.num_attribute_columns, dtype=torch.long, device=users.device),
            torch.zeros(len(users), 3, device=users.device),
            torch.zeros(len(users), 1, dtype=torch.long, device=users.device),
            torch.zeros(len(users), 1, device=users.device),
        )
        vectors = model.sparse({**model.user_indices(rows), **model.item_indices(items)})
        user_vectors, item_vectors = model.towers(rows, items, vectors)
        return user_vectors @ item_vectors.T
