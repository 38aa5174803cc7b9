"""The figures that decide when to stop: the whole chain on held-out events, as it would be served."""

from __future__ import annotations

import torch
from torch import Tensor

from leanrec.models.inputs import UserInputs
from leanrec.models.ranking.tasks import Heads
from leanrec.models.recommender import MASKED, Recommender
from leanrec.models.retrieval.retriever import Retriever
from leanrec.schema import UNKNOWN_INDEX, ModelSpec
from leanrec.training.examples import Examples, first_row_of_each_user

CUT_OFF = 10
MOST_USERS = 4096
CHUNK = 256


class Holdout:
    """Users as they were at their first held-out event, what they had seen, and what they went on to like."""

    def __init__(self, train: Examples, held_out: Examples, spec: ModelSpec) -> None:
        rows = first_row_of_each_user(held_out)
        liked = _items_of_users(held_out.take(held_out.liked > 0), spec)
        rows = rows[[bool(liked.get(int(u))) for u in held_out.user.user_index[rows, 0]]][:MOST_USERS]
        self.events = held_out
        self.user = held_out.take(rows).user
        users = [int(u) for u in self.user.user_index[:, 0]]
        seen = _items_of_users(train, spec)
        self.seen = _padded([seen.get(u, []) for u in users])
        self.liked = _padded([liked[u] for u in users])

    def to(self, device: torch.device) -> Holdout:
        """The same, on `device`."""
        self.events = self.events.to(device)
        self.user = UserInputs(*(tensor.to(device) for tensor in self.user))
        self.seen, self.liked = self.seen.to(device), self.liked.to(device)
        return self

    def __len__(self) -> int:
        return int(self.user.user_index.shape[0])

    @torch.no_grad()
    def retrieval_ndcg(self, model: Retriever) -> float:
        """Mean NDCG@10 of the retriever alone, all unseen items ranked."""
        model.eval()
        model.freeze()
        items = model.item_vectors()
        lists = []
        for rows in torch.arange(len(self)).split(CHUNK):
            scores = model.user_vectors(_rows(self.user, rows)) @ items.T
            scores = scores.scatter(1, self.seen[rows], MASKED)
            scores[:, UNKNOWN_INDEX] = MASKED
            lists.append(scores.topk(min(CUT_OFF, scores.shape[1] - 1), dim=1).indices)
        return ndcg(torch.cat(lists), self.liked)

    @torch.no_grad()
    def chain_figures(self, recommender: Recommender) -> dict[str, float]:
        """NDCG@10 of the whole recommender; AUC of like and RMSE of rating over held-out events."""
        recommender.freeze_items().eval()
        lists, like, rating = [], [], []
        for rows in torch.arange(len(self)).split(CHUNK):
            lists.append(recommender(*_rows(self.user, rows), self.seen[rows])[0][:, :CUT_OFF])
        for rows in torch.arange(len(self.events)).split(CHUNK * 16):
            events = self.events.take(rows)
            heads: Heads = recommender.rank(events.user, events.item_index.unsqueeze(1))
            like.append(heads.like[:, 0])
            rating.append(heads.rating[:, 0])
        error = torch.cat(rating) - self.events.rating
        return {
            "ndcg": ndcg(torch.cat(lists), self.liked),
            "auc": area_under_curve(torch.cat(like), self.events.liked),
            "rmse": float(error.square().mean().sqrt()),
        }


def ndcg(lists: Tensor, relevant: Tensor) -> float:
    """Mean NDCG of lists [U, K], best first, against relevant items [U, R] padded with 0; binary gains."""
    hit = ((lists.unsqueeze(2) == relevant.unsqueeze(1)) & (relevant.unsqueeze(1) > 0)).any(dim=2)
    discount = 1.0 / torch.log2(torch.arange(lists.shape[1], device=lists.device) + 2.0)
    count = (relevant > 0).sum(dim=1).clamp(min=1, max=lists.shape[1])
    ideal = discount.cumsum(0)[count - 1]
    return float(((hit * discount).sum(dim=1) / ideal).mean())


def area_under_curve(score: Tensor, label: Tensor) -> float:
    """The ROC AUC, ties counted half (Mann-Whitney); 0.5 where there is one class only."""
    positives, negatives = score[label > 0].sort().values, score[label <= 0].sort().values
    if len(positives) == 0 or len(negatives) == 0:
        return 0.5
    below = torch.searchsorted(negatives, positives, right=False)
    not_above = torch.searchsorted(negatives, positives, right=True)
    return float((below + not_above).double().mean() / 2 / len(negatives))


def _rows(user: UserInputs, rows: Tensor) -> UserInputs:
    return UserInputs(*(tensor[rows] for tensor in user))


def _items_of_users(examples: Examples, spec: ModelSpec) -> dict[int, list[int]]:
    pairs = torch.unique(examples.user.user_index[:, 0] * spec.num_items + examples.item_index)
    items: dict[int, list[int]] = {}
    for pair in pairs.tolist():
        items.setdefault(pair // spec.num_items, []).append(pair % spec.num_items)
    return items


def _padded(rows: list[list[int]]) -> Tensor:
    width = max((len(row) for row in rows), default=0) or 1
    return (
        torch.tensor([row + [UNKNOWN_INDEX] * (width - len(row)) for row in rows]).long().reshape(-1, width)
    )
